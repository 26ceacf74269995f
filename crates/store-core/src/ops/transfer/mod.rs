//! A checkpoint of an image from one store to another: push, pull and copy are the same.
//!
//! ```text
//! route    what the records of both sides say has to be published
//! walk     the index from its root, in disk order; what the target has is skipped with all below it
//! send     chunks and nodes: fetched in large batches, verified, put in order
//! publish  sync, then the name
//! naming   meanwhile, what arrived so far becomes known, so that a rerun finds it
//! ```
//!
//! - **Only what is missing travels**, in the form it is stored in; nothing is compressed again.
//! - **Closure**: chunks are put before their leaf, children before parents, the checkpoint last. So a target
//!   whose writer died has whole subtrees, which a rerun finds, and no node that names what is not there.
//! - **The boot trace** of the source's image goes along with what is published, if the target's image has none.
//! - **A source may lie**: every entry is decoded and hashed before the first of its batch is put.
//! - **Memory** is bounded by what is in flight, some 40 MiB, and 40 bytes for each chunk and 32 for each node
//!   that is new to the target, for its image map.
//! - **Progress**: [`Progress::done`] counts bytes of disk in new chunks that were put, `total` is an
//!   estimate until the walk has come to its end, `stored` counts bytes as they travelled.

mod entries;
mod naming;
mod plan;
mod route;
mod send;
#[cfg(test)]
mod tests;
mod walk;

pub use plan::{Plan, plan};

use std::sync::Arc;

use super::{ImageRef, Job, NewBase, Progress, Publish, boot_trace::copy_boot_trace, publish};
use crate::{
    CheckpointId, ErrorKind, ImageName, Result, Store, clock::Clock, format::image_record::HistoryEntry,
    types::MapId,
};
use route::Route;
use send::{Sender, Sent};

/// Attempts at a transfer that others overtake: the target's collector, or another push to the same name.
const ATTEMPTS: usize = 4;

/// One side of a transfer. Entries need no cache and no check in front of them: none is read twice, and all are
/// verified here.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The store.
    pub store: &'a Store,
    /// What people call it, for messages.
    pub place: &'a str,
}

/// How a checkpoint is transferred.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// Send the older checkpoints of the image's history, too, as far as the target lacks them.
    pub history: bool,
    /// Append to an image whose newest checkpoint is not known to the source.
    pub force: bool,
    /// Publish as the owner of the target's image, under this writer epoch; `Conflict` if it has another by now.
    pub epoch: Option<u64>,
    /// Pin the last checkpoint in the step that makes it a root: it is one that this volume made.
    pub pin: Option<NewBase>,
    /// Bytes of entries after which what has arrived is named in the target's catalog: at most about as much is sent
    /// again by a rerun of a transfer that was cut off. Costs two or three requests each time, beside the transfer.
    pub named_every: u64,
    /// Batches of chunks, of some 4 MiB each, that are fetched at once; at least 1.
    pub width: usize,
}

impl Default for TransferOptions {
    fn default() -> Self {
        Self { history: false, force: false, epoch: None, pin: None, named_every: 256 << 20, width: 8 }
    }
}

/// A checkpoint that was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Checkpoints that were appended to the target's image; 0 if it had this one already.
    pub published: u64,
    /// Chunks that were sent.
    pub chunks: u64,
    /// Index nodes that were sent.
    pub nodes: u64,
    /// Places of chunks that were not sent, though their index leaves were: the target had them, or got them for
    /// another place.
    pub skipped: u64,
    /// Bytes of entries that were sent, as stored.
    pub bytes: u64,
}

/// Copies a checkpoint of an image, and appends it to `to_image`. On success it is durable and can be read by
/// name in the target.
///
/// If the target's image has a newest checkpoint that the source's image does not descend from, that is
/// `Conflict` unless `force` is set. If the target's image has the checkpoint, nothing is done.
///
/// **Errors**: `Corrupt` if the source has lost or damaged something, `Unsupported` if the stores name their
/// entries differently. After an error the target's image is as it was or has some of the older checkpoints
/// asked for; what arrived stays, unnamed, and a rerun finds it. **Cancel safety**: the same.
pub async fn transfer(
    from: Side<'_>,
    to: Side<'_>,
    what: &ImageRef,
    to_image: &ImageName,
    clock: &dyn Clock,
    options: TransferOptions,
    job: &Job,
) -> Result<Transferred> {
    let mut sent = Sent::default();
    let mut published = 0;
    for attempt in 1.. {
        let Route { named, entries, maps, boot_trace, newest, exists } =
            Route::find(from, to, what, to_image, options).await?;
        let mut newest = newest;
        let mut overtaken = None;
        for entry in &entries {
            let whole_map = !exists && newest.is_none();
            let (width, named_every) = (options.width.max(1), options.named_every);
            let sender = Sender { from, to, maps: &maps, width, named_every, whole_map, clock, job };
            let image = Target {
                name: to_image,
                newest,
                force: options.force,
                epoch: options.epoch,
                pin: options.pin.filter(|_| Some(entry) == entries.last()),
                boot_trace: boot_trace.filter(|_| Some(entry) == entries.last()),
            };
            match image.take(&sender, entry, &mut sent).await {
                Ok(()) => published += 1,
                Err(e) if is_overtaken(&e) && attempt < ATTEMPTS => {
                    overtaken = Some(e);
                    break;
                }
                Err(e) => return Err(e),
            }
            newest = Some(entry.checkpoint);
        }
        if let Some(error) = overtaken {
            tracing::debug!("image '{to_image}' in {}: once more after: {}", to.place, error.report());
            continue;
        }
        if entries.is_empty() {
            to.store.index.settle().await?;
        }
        let Sent { chunks, nodes, skipped, bytes, .. } = sent;
        let checkpoint = named.checkpoint;
        return Ok(Transferred { checkpoint, size: named.size, published, chunks, nodes, skipped, bytes });
    }
    unreachable!("the last attempt returns")
}

/// Whether someone else's step made this one void: then everything is asked anew, and what was put is found.
fn is_overtaken(error: &crate::Error) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists)
}

/// The image that a checkpoint is appended to.
struct Target<'a> {
    name: &'a ImageName,
    /// Its newest checkpoint, as the route found it.
    newest: Option<CheckpointId>,
    force: bool,
    epoch: Option<u64>,
    pin: Option<NewBase>,
    /// The source's boot trace that it is to get.
    boot_trace: Option<MapId>,
}

impl Target<'_> {
    /// Sends a checkpoint and names it.
    async fn take(&self, sender: &Sender<'_>, entry: &HistoryEntry, sent: &mut Sent) -> Result<()> {
        let rows = sender.send(entry, sent).await?;
        sender.job.check()?;
        let boot_trace = copy_boot_trace(sender.from.store, self.boot_trace, sender.to.store).await;
        let what = Publish {
            nodes: &rows.nodes,
            chunks: &rows.chunks,
            create: self.newest.is_none() && !self.force,
            after: self.newest.filter(|_| !self.force),
            epoch: self.epoch,
            pin: self.pin,
            boot_trace,
            ..Publish::append(self.name, *entry)
        };
        publish(sender.to.store, sender.clock, what).await.map(drop)
    }
}

/// Maps of the source's image, newest first.
type Maps = Arc<[MapId]>;

/// Tells how far a transfer has come.
fn report(job: &Job, done: u64, total: Option<u64>, stored: u64) {
    job.report(Progress { done, total: total.map(|total| total.max(done)), stored });
}
