//! What has to be published, as the records of both sides say.

use super::{Maps, Side, TransferOptions};
use crate::{
    CheckpointId, ChunkKind, Error, ErrorKind, ImageName, Result,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry, image_record::ImageRecord},
    ops::{ImageRef, images},
    types::MapId,
};

use super::entries;

/// What a transfer has to do.
pub(super) struct Route {
    /// The checkpoint asked for.
    pub(super) named: HistoryEntry,
    /// What is to be appended, oldest first; empty if the target's image has the checkpoint.
    pub(super) entries: Vec<HistoryEntry>,
    /// Maps of the source's image, newest first.
    pub(super) maps: Maps,
    /// The boot trace of the source's image, if the target's has none.
    pub(super) boot_trace: Option<MapId>,
    /// The newest checkpoint of the target's image.
    pub(super) newest: Option<CheckpointId>,
    /// Whether there is such an image.
    pub(super) exists: bool,
}

impl Route {
    pub(super) async fn find(
        from: Side<'_>,
        to: Side<'_>,
        what: &ImageRef,
        to_image: &ImageName,
        options: TransferOptions,
    ) -> Result<Self> {
        let (here, there) = (from.store.index.descriptor().domain, to.store.index.descriptor().domain);
        if here != there {
            let why =
                format!("{} and {} name their chunks differently: import the disk", from.place, to.place);
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let record = images::known(from.store, &what.name).await?;
        let at = images::position(&record, what)?;
        let named = record.history[at];
        let target = to.store.index.read_image(to_image).await?.map(|found| found.value);
        let newest =
            target.as_ref().and_then(|target| target.history.first()).map(|newest| newest.checkpoint);
        let entries = match &target {
            None => wanted(&record.history[at..], options),
            Some(target) => after(from, to, &record, at, target, options).await?,
        };
        let has_trace = target.as_ref().is_some_and(|target| target.boot_trace.is_some());
        Ok(Self {
            named,
            entries,
            maps: record.maps.into(),
            boot_trace: record.boot_trace.filter(|_| !has_trace),
            newest,
            exists: target.is_some(),
        })
    }
}

/// The checkpoints to send of a history that begins with the one that was named, oldest first.
fn wanted(history: &[HistoryEntry], options: TransferOptions) -> Vec<HistoryEntry> {
    let count = if options.history { history.len() } else { 1 };
    history.iter().take(count).rev().copied().collect()
}

/// What an image that exists lacks.
async fn after(
    from: Side<'_>,
    to: Side<'_>,
    record: &ImageRecord,
    at: usize,
    target: &ImageRecord,
    options: TransferOptions,
) -> Result<Vec<HistoryEntry>> {
    let history = &record.history[at..];
    let named = history[0].checkpoint;
    let newest = target.history.first().map(|newest| newest.checkpoint);
    if newest == Some(named) || !options.force && has(target, named) {
        return Ok(Vec::new());
    }
    if let Some(known) = history.iter().position(|entry| Some(entry.checkpoint) == newest) {
        return Ok(wanted(&history[..known], options));
    }
    if options.force || newest.is_some() && parent_of_oldest(from, record).await? == newest {
        let mut lacking = wanted(history, options);
        lacking.retain(|entry| entry.checkpoint == named || !has(target, entry.checkpoint));
        return Ok(lacking);
    }
    let why = format!(
        "image '{}' in {} has a newer checkpoint that yours doesn't descend from: use another name, or --force to append",
        target.name, to.place
    );
    Err(Error::new(ErrorKind::Conflict, why))
}

fn has(record: &ImageRecord, checkpoint: CheckpointId) -> bool {
    record.history.iter().any(|entry| entry.checkpoint == checkpoint)
}

/// What the oldest checkpoint of an image was made from: an image that began as a volume of another descends
/// from that.
async fn parent_of_oldest(from: Side<'_>, record: &ImageRecord) -> Result<Option<CheckpointId>> {
    let Some(oldest) = record.history.last() else { return Ok(None) };
    let id = oldest.checkpoint.as_chunk();
    let decode = |bytes: &[u8]| Checkpoint::decode(bytes);
    let found = entries::fetch(&from.store.chunks, ChunkKind::Checkpoint, vec![id], decode).await;
    let found = found.map_err(|e| e.context(format!("from {}", from.place)))?;
    Ok(found.first().and_then(|(_, checkpoint)| checkpoint.parent))
}
