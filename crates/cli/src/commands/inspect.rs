//! Verbs that only look: `ls`, `show`, `log`, `du`, `config`.

use std::time::Duration;

use gabion::{
    Host, InStore, Located, Opened, ReplicationReply, StoreKind, control,
    core::{
        BLOCK_SIZE, Error, ErrorKind, ImageName, Result,
        clock::Timestamp,
        format::image_record::ImageRecord,
        ops::{ImageRef, Revision, open_checkpoint, resolve},
    },
    format_bytes,
};
use serde_json::{Value, json};

use super::{blocking, time};
use crate::output::Output;

pub(super) async fn ls(host: &Host, output: &Output) -> Result<()> {
    let (mut images, mut text, mut unreadable) = (Vec::new(), String::new(), Vec::new());
    // A store out of reach hides neither volumes nor what is staged.
    match ls_images(host, &mut images, &mut text, &mut unreadable).await {
        Err(error) if error.kind() != ErrorKind::Unavailable => return Err(error),
        listed => unreadable.extend(listed.err()),
    }
    let mut staged = Vec::new();
    for waiting in host.staged().await? {
        for entry in &waiting.record.history {
            staged.push(json!({
                "name": waiting.record.name.as_str(), "checkpoint": entry.checkpoint.to_string(),
                "size": entry.size, "created_ms": entry.created.0, "volume": waiting.volume.as_str(),
                "home": waiting.home,
            }));
            text.push_str(&format!(
                "staged  {:<24} {:>10}  {}  {}  for {}\n",
                waiting.record.name.as_str(),
                format_bytes(entry.size),
                entry.checkpoint.short(),
                time(entry.created),
                waiting.home,
            ));
        }
    }
    let found = host.volumes().clone();
    let mut volumes = Vec::new();
    for volume in blocking(move || found.list()).await? {
        match volume.record {
            Ok(record) => {
                let info = record.info;
                volumes.push(json!({
                    "name": info.name.as_str(), "size": info.size, "base": info.base.map(|id| id.to_string()),
                    "home": info.home, "from": info.lineage.as_ref().map(ImageName::as_str),
                }));
                let base = info.base.map_or_else(|| "empty".to_owned(), |id| id.short());
                let from = info.lineage.map_or_else(String::new, |image| format!("from {image}"));
                text.push_str(&format!(
                    "volume  {:<24} {:>10}  {base:<8}  {}  {from}\n",
                    info.name.as_str(),
                    format_bytes(info.size),
                    time(info.created),
                ));
            }
            Err(error) => unreadable.push(error.context("a volume can't be shown")),
        }
    }
    if text.is_empty() {
        if let Some(error) = unreadable.pop() {
            return Err(error);
        }
        text.push_str("no images and no volumes: make one with 'gabion import FILE' or 'gabion create'");
    }
    let store = host.url_of(None)?.to_string();
    let all = json!({ "store": store, "images": images, "staged": staged, "volumes": volumes });
    output.result(&all, &text)?;
    // What can be shown is shown first.
    let Some(last) = unreadable.pop() else { return Ok(()) };
    unreadable.iter().for_each(|error| output.warn(&error.report()));
    Err(last)
}

async fn ls_images(
    host: &Host,
    images: &mut Vec<Value>,
    text: &mut String,
    unreadable: &mut Vec<Error>,
) -> Result<()> {
    let opened = host.store().await?;
    for name in opened.store.index.list_images().await? {
        let name = match name {
            Ok(name) => name,
            Err(error) => {
                unreadable.push(error);
                continue;
            }
        };
        let Some(found) = opened.store.index.read_image(&name).await? else { continue };
        let history = &found.value.history;
        let Some(newest) = history.first() else { continue };
        images.push(json!({
            "name": name.as_str(), "checkpoint": newest.checkpoint.to_string(), "size": newest.size,
            "created_ms": newest.created.0, "history": history.len(),
        }));
        text.push_str(&format!(
            "image   {:<24} {:>10}  {}  {}  {} in history\n",
            name.as_str(),
            format_bytes(newest.size),
            newest.checkpoint.short(),
            time(newest.created),
            history.len(),
        ));
    }
    Ok(())
}

pub(super) async fn show(host: &Host, output: &Output, wanted: &InStore<ImageRef>) -> Result<()> {
    let name = &wanted.name;
    let (mut value, mut text) = (json!({}), String::new());
    if wanted.store.is_none() && name.revision == Revision::Back(0) && host.volumes().contains(&name.name)? {
        let info = host.volumes().look_up(&name.name)?.info;
        value["volume"] = json!({
            "name": info.name.as_str(), "id": info.id.to_string(), "size": info.size,
            "base": info.base.map(|id| id.to_string()), "home": info.home, "created_ms": info.created.0,
            "from": info.lineage.as_ref().map(ImageName::as_str),
            "lazy_base": info.lazy_base.as_ref().map(|lazy| lazy.path.display().to_string()),
        });
        text.push_str(&format!(
            "volume {}\n  size     {} ({} bytes)\n  base     {}\n  home     {}\n  created  {}\n",
            info.name,
            format_bytes(info.size),
            info.size,
            info.base.map_or_else(|| "none".to_owned(), |id| id.to_string()),
            info.home,
            time(info.created),
        ));
        if let Some(lazy) = info.lazy_base {
            text.push_str(&format!("  stands on file {}\n", lazy.path.display()));
        }
        if let Some(replication) = replication(host, &info.name).await? {
            text.push_str(&describe(&replication, &info.name));
            value["volume"]["replication"] = json!(replication);
        }
    }
    let found: Result<_> = async {
        let found = host.locate(wanted).await?;
        let (checkpoint, _) = open_checkpoint(&found.nodes, found.entry.checkpoint).await?;
        Ok((found, checkpoint))
    }
    .await;
    match found {
        Ok((Located { entry, staged, .. }, checkpoint)) => {
            let labels = checkpoint.labels.iter().map(|(key, value)| format!("  {key}={value}\n"));
            text.push_str(&format!(
                "image {wanted}\n  checkpoint {}\n  size       {} ({} bytes)\n  root       {}\n  parent     {}\n  created    {}\n{}",
                entry.checkpoint,
                format_bytes(checkpoint.size),
                checkpoint.size,
                checkpoint.root.map_or_else(|| "none: all zero".to_owned(), |id| id.to_string()),
                checkpoint.parent.map_or_else(|| "none".to_owned(), |id| id.to_string()),
                time(checkpoint.created),
                labels.collect::<String>(),
            ));
            value["image"] = json!({
                "name": name.name.as_str(), "checkpoint": entry.checkpoint.to_string(), "size": checkpoint.size,
                "root": checkpoint.root.map(|id| id.to_string()),
                "parent": checkpoint.parent.map(|id| id.to_string()),
                "created_ms": checkpoint.created.0, "labels": checkpoint.labels, "staged": staged,
            });
            if staged {
                text.push_str("  staged     on this host: its store does not have it yet\n");
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound && !text.is_empty() => {}
        Err(error) => {
            if !text.is_empty() {
                // What can be shown is shown first.
                output.result(&value, &text)?;
            }
            return Err(error);
        }
    }
    output.result(&value, &text)
}

/// How the replication of a served volume stands; `None` if it is not served, or not replicated.
async fn replication(host: &Host, volume: &ImageName) -> Result<Option<ReplicationReply>> {
    let note = host.volumes().read_lock_note(volume)?;
    let Some(socket) = note.as_deref().and_then(control::socket_of_note) else { return Ok(None) };
    // The note of a server that has ended leads nowhere.
    let Ok(exports) = control::exports(&socket, volume.as_str()).await else { return Ok(None) };
    let export = exports.into_iter().find(|export| export.volume && export.name == volume.as_str());
    Ok(export.and_then(|export| export.replication))
}

fn describe(replication: &ReplicationReply, volume: &ImageName) -> String {
    let ReplicationReply { image, state, checkpoint, replicated_ms, lag_ms, error, .. } = replication;
    let last = match (checkpoint, replicated_ms) {
        (Some(id), Some(ms)) => format!("{} of {}", &id[..8], time(Timestamp(*ms))),
        _ => "nothing yet".to_owned(),
    };
    let behind = match Duration::from_millis(*lag_ms) {
        Duration::ZERO => "nothing behind".to_owned(),
        lag => format!("up to {lag:.1?} behind"),
    };
    let mut text = format!("  replicated to image {image}: {state}, {last}, {behind}\n");
    if let Some(error) = error {
        text.push_str(&format!("    {error}\n"));
    }
    if state == "displaced" {
        text.push_str(&format!("    publish it under another name: gabion checkpoint {volume} OTHER\n"));
    }
    text
}

pub(super) async fn log(host: &Host, output: &Output, image: &InStore<ImageName>) -> Result<()> {
    let opened = host.store_of(image.store.as_deref()).await?;
    let record = record(&opened, &image.name).await?;
    let (mut entries, mut text) = (Vec::new(), String::new());
    let mut newer = None;
    for (back, entry) in record.history.iter().enumerate() {
        let (checkpoint, index) = open_checkpoint(&opened.nodes, entry.checkpoint).await?;
        // What the next newer one changed is told with that one.
        if let Some((line, index_of_newer)) = newer.take() {
            push_line(
                &mut entries,
                &mut text,
                &line,
                Some(gabion::core::ops::diff(&index, &index_of_newer).await?.blocks),
            );
        }
        let labels: Vec<_> = checkpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let line = Line { back, entry: *entry, labels: labels.join(" ") };
        newer = Some((line, index));
    }
    if let Some((line, _)) = newer {
        push_line(&mut entries, &mut text, &line, None);
    }
    output.result(&json!({ "image": image.name.as_str(), "history": entries }), &text)
}

struct Line {
    back: usize,
    entry: gabion::core::format::image_record::HistoryEntry,
    labels: String,
}

fn push_line(entries: &mut Vec<Value>, text: &mut String, line: &Line, changed: Option<u64>) {
    let changed = changed.map(|blocks| blocks * BLOCK_SIZE as u64);
    entries.push(json!({
        "checkpoint": line.entry.checkpoint.to_string(), "size": line.entry.size,
        "created_ms": line.entry.created.0, "changed": changed,
    }));
    text.push_str(&format!(
        "~{:<3} {}  {}  {:>10}  {:>10} changed  {}\n",
        line.back,
        line.entry.checkpoint.short(),
        time(line.entry.created),
        format_bytes(line.entry.size),
        changed.map_or_else(|| "-".to_owned(), format_bytes),
        line.labels,
    ));
}

async fn record(opened: &Opened, image: &ImageName) -> Result<ImageRecord> {
    match opened.store.index.read_image(image).await? {
        Some(found) => Ok(found.value),
        // Asked for again, for an error that knows the nearest names.
        None => Err(match resolve(&opened.store, &image.clone().into()).await {
            Err(error) => error,
            Ok(_) => Error::new(ErrorKind::Conflict, format!("image '{image}' appeared just now: try again")),
        }),
    }
}

pub(super) async fn du(host: &Host, output: &Output) -> Result<()> {
    let opened = host.store().await?;
    let (classes, pack_count, entries) = match opened.kind.clone() {
        StoreKind::Local(local) => {
            let found = blocking(move || local.usage()).await?;
            ([found.packs, found.locators, found.maps, found.records], found.pack_count, found.entries)
        }
        StoreKind::Remote(remote) => {
            let found = remote.usage().await?;
            ([found.packs, found.locators, found.maps, found.records], found.pack_count, found.entries)
        }
    };
    let classes = ["packs", "locators", "maps", "records"].into_iter().zip(classes);
    let total: u64 = classes.clone().map(|(_, bytes)| bytes).sum();
    let mut value = json!({
        "store": opened.url.to_string(), "total": total, "pack_count": pack_count, "entries": entries,
    });
    let mut text = format!("{}\n", opened.url);
    for (name, bytes) in classes {
        value[name] = json!(bytes);
        text.push_str(&format!("  {name:<9} {:>10}\n", format_bytes(bytes)));
    }
    text.push_str(&format!(
        "  {:<9} {:>10}  with {entries} entries in {pack_count} packs",
        "total",
        format_bytes(total)
    ));
    output.result(&value, &text)
}

pub(super) fn config(host: &Host, output: &Output) -> Result<()> {
    let places = host.places();
    let table = host.settings().table();
    let paths = [
        ("store folder", places.store()),
        ("volumes", places.volumes()),
        ("cache", places.cache.clone()),
        ("sockets", places.runtime.clone()),
        ("config file", places.config.clone()),
    ];
    let settings: Vec<_> = table
        .iter()
        .map(|(name, value, origin)| json!({ "name": name, "value": value, "origin": origin }))
        .collect();
    let places: serde_json::Map<_, _> = paths
        .iter()
        .map(|(name, path)| (name.replace(' ', "_"), json!(path.display().to_string())))
        .collect();
    let mut text = String::new();
    for (name, value, origin) in &table {
        let origin = format!("{origin:?}").to_lowercase();
        text.push_str(&format!("{name:<14} {value}  ({origin})\n"));
    }
    for (name, store) in &host.settings().stores {
        text.push_str(&format!("{:<14} {store}  (file)\n", format!("stores.{name}")));
    }
    for (name, path) in &paths {
        text.push_str(&format!("{name:<14} {}\n", path.display()));
    }
    let stores = host.settings().stores.iter().map(|(name, url)| (name.clone(), json!(url.to_string())));
    let stores: serde_json::Map<_, _> = stores.collect();
    output.result(&json!({ "settings": settings, "places": places, "stores": stores }), &text)
}
