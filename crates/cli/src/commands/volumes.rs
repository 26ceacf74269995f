//! Verbs on volumes: `create`, `checkpoint`, `rm`.

use std::collections::BTreeMap;

use gabion::{
    Host, InStore, Pinning,
    control::{self, CheckpointReply, CheckpointRequest},
    core::{
        Error, ErrorKind, ImageName, Result,
        ops::{self, ImageRef},
    },
    format_bytes,
};
use serde_json::json;

use crate::output::Output;

pub(super) async fn create(
    host: &Host,
    output: &Output,
    name: &ImageName,
    from: Option<&InStore<ImageRef>>,
    size: Option<u64>,
    unpinned: bool,
) -> Result<()> {
    let pinning = if unpinned { Pinning::Unpinned } else { Pinning::Pinned };
    host.create_volume(name, from, size, pinning).await?;
    let info = host.volumes().look_up(name)?.info;
    let value = json!({
        "volume": name.as_str(), "size": info.size, "base": info.base.map(|id| id.to_string()), "home": info.home,
    });
    if unpinned {
        output.warn(&format!(
            "nothing but the image's history in {} keeps what volume '{name}' stands on: pull the image before it is removed there",
            info.home
        ));
    }
    let from = from.map_or_else(|| "empty".to_owned(), |image| format!("from {image}"));
    output.result(&value, &format!("made volume {name}: {}, {from}", format_bytes(info.size)))
}

pub(super) async fn checkpoint(
    host: &Host,
    output: &Output,
    name: &ImageName,
    image: Option<InStore<ImageName>>,
    labels: BTreeMap<String, String>,
) -> Result<()> {
    let image = match image {
        None => None,
        Some(image) => Some(in_home(host, name, image)?),
    };
    let made = match host.open_volume(name, None).await {
        Ok(volume) => {
            let (job, bar) = output.job("storing");
            let made = volume.checkpoint(image.as_ref(), labels, &job).await;
            bar.finish_and_clear();
            CheckpointReply::new(image.as_ref().unwrap_or(name).as_str(), &made?)
        }
        // In use: by a server that takes commands, or by something that does not.
        Err(error) if error.kind() == ErrorKind::Conflict => {
            let note = host.volumes().read_lock_note(name)?;
            let Some(socket) = note.as_deref().and_then(control::socket_of_note) else { return Err(error) };
            let image = image.map(|name| name.to_string());
            let request = CheckpointRequest { volume: name.to_string(), image, labels };
            control::checkpoint(&socket, &request).await?
        }
        Err(error) => return Err(error),
    };
    let text = format!(
        "{}@{}: {} changed, {} new, {} stored; writes were held {:.1} ms",
        made.image,
        &made.checkpoint[..8],
        format_bytes(made.changed),
        format_bytes(made.new),
        format_bytes(made.stored),
        made.held_ms,
    );
    output.result(&json!(made), &text)?;
    if !made.staged {
        return Ok(());
    }
    // Done as far as it can be, and not what was asked for.
    let home = host.volumes().look_up(name)?.info.home;
    Err(Error::new(
        ErrorKind::Unavailable,
        format!(
            "{home} is out of reach: {}@{} is staged on this host, and sent there by the server of volume '{name}' or \
             by its next checkpoint",
            made.image,
            &made.checkpoint[..8]
        ),
    ))
}

/// The name of an image to checkpoint to, if it is in the volume's home store.
fn in_home(host: &Host, volume: &ImageName, image: InStore<ImageName>) -> Result<ImageName> {
    if let Some(store) = &image.store {
        let home = host.volumes().look_up(volume)?.info.home;
        if host.url_of(Some(store))? != home.parse()? {
            return Err(Error::invalid(format!(
                "checkpoints of volume '{volume}' go to its home {home}: make one there and copy it to '{image}'"
            )));
        }
    }
    Ok(image.name)
}

pub(super) async fn remove(
    host: &Host,
    output: &Output,
    wanted: &InStore<ImageName>,
    image: bool,
    volume: bool,
) -> Result<()> {
    let name = &wanted.name;
    let has_volume = !image && wanted.store.is_none() && host.volumes().contains(name)?;
    if volume {
        // A volume goes whatever state the store in force is in.
        if !has_volume {
            return Err(Error::not_found(format!("there is no volume '{wanted}'")));
        }
        host.remove_volume(name).await?;
        return removed(output, "volume", name);
    }
    let opened = host.store_of(wanted.store.as_deref()).await?;
    let has_image = opened.store.index.read_image(name).await?.is_some();
    let what = match (has_volume, has_image) {
        (true, true) => {
            return Err(Error::invalid(format!(
                "'{name}' is an image and a volume: say --image or --volume"
            )));
        }
        (true, false) => {
            host.remove_volume(name).await?;
            "volume"
        }
        (false, _) => {
            ops::remove(&opened.store, name).await?;
            "image"
        }
    };
    removed(output, what, name)
}

fn removed(output: &Output, what: &str, name: &ImageName) -> Result<()> {
    output.result(&json!({ "removed": what, "name": name.as_str() }), &format!("removed {what} {name}"))
}
