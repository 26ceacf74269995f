//! Verbs on images and stores: `init`, `tag`, `diff`.

use gabion::{
    Host, InStore,
    core::{
        BLOCK_SIZE, Error, ImageName, Result,
        ops::{self, ImageRef, open_checkpoint, resolve},
    },
    format_bytes,
};
use serde_json::json;

use crate::output::Output;

pub(super) async fn init(host: &Host, output: &Output, url: &str) -> Result<()> {
    let url = host.store_url(url)?;
    host.init_store(&url).await?;
    output.result(&json!({ "store": url.to_string() }), &format!("made an empty store at {url}"))
}

pub(super) async fn tag(
    host: &Host,
    output: &Output,
    from: &InStore<ImageRef>,
    to: &InStore<ImageName>,
) -> Result<()> {
    if let Some(store) = &to.store
        && host.url_of(Some(store))? != host.url_of(from.store.as_deref())?
    {
        return Err(Error::invalid(format!(
            "'{to}' is not in the store of '{from}': a name is given within a store, 'gabion copy' goes across"
        )));
    }
    let opened = host.store_of(from.store.as_deref()).await?;
    let entry = ops::tag(&opened.store, &**host.clock(), &from.name, &to.name).await?;
    let value = json!({ "image": to.name.as_str(), "checkpoint": entry.checkpoint.to_string() });
    output.result(&value, &format!("{to} is {from} ({})", entry.checkpoint.short()))
}

pub(super) async fn diff(
    host: &Host,
    output: &Output,
    a: &InStore<ImageRef>,
    b: &InStore<ImageRef>,
) -> Result<()> {
    let mut sides = Vec::new();
    for image in [a, b] {
        let opened = host.store_of(image.store.as_deref()).await?;
        let entry = resolve(&opened.store, &image.name).await?;
        sides.push(open_checkpoint(&opened.nodes, entry.checkpoint).await?);
    }
    let found = ops::diff(&sides[0].1, &sides[1].1).await?;
    let bytes = found.blocks * BLOCK_SIZE as u64;
    let ranges: Vec<_> = found.ranges.iter().map(|range| [range.byte_start(), range.byte_len()]).collect();
    let mut text: String = found
        .ranges
        .iter()
        .map(|range| format!("{:>16} {:>12}\n", range.byte_start(), range.byte_len()))
        .collect();
    text.push_str(&format!(
        "{} differ in {} ranges (offset and length in bytes)",
        format_bytes(bytes),
        ranges.len()
    ));
    output.result(&json!({ "bytes": bytes, "ranges": ranges }), &text)
}
