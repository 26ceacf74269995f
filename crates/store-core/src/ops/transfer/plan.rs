//! What a transfer would send, without sending it.

mod places;

use std::sync::Arc;

use tokio::sync::mpsc;

use places::Places;

use super::{
    Side, TransferOptions, entries,
    route::Route,
    walk::{Pace, Step, There, Walk},
};
use crate::{
    BLOCK_SIZE, CheckpointId, ChunkKind, Error, ErrorKind, ImageName, Result,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry, node::level_for},
    ops::{ImageRef, Job},
    store::Placement,
    sync::{AbortOnDropHandle, spawn},
    types::blocks_for,
};

/// Requests of a publish, beside packs: locator, catalog, map, image record, catalog.
const PER_PUBLISH: u64 = 5;
/// Bytes that one read of a remote source fetches, at most, and that it reads over rather than ask again.
const READ: u64 = 4 << 20;
const GAP: u64 = 128 << 10;

/// What a transfer would send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Checkpoints that would be appended to the target's image; 0 if there is nothing to do.
    pub publishes: u64,
    /// Chunks that the target lacks.
    pub chunks: u64,
    /// Index nodes that it lacks.
    pub nodes: u64,
    /// Bytes of these entries as they are stored in the source; where that can't tell, as they are on the disk.
    pub bytes: u64,
    /// Bytes of disk in the chunks.
    pub disk: u64,
    /// Ranges of packs that the chunks lie in.
    ranges: u64,
}

impl Plan {
    /// Writing requests to a target that keeps packs of `pack_size` bytes, at most.
    pub fn puts(&self, pack_size: u64) -> u64 {
        self.bytes / pack_size.max(1) + self.publishes * (1 + PER_PUBLISH)
    }

    /// Reading requests to a source that is far away, about: chunks and nodes, records and look-ups.
    pub fn gets(&self) -> u64 {
        if self.publishes == 0 { 4 } else { 8 + self.ranges + self.nodes.div_ceil(1024) }
    }
}

/// Finds out what [`transfer`](super::transfer) would send, reading records and index nodes only. Errors are the
/// same. Memory is some 64 bytes for each entry that is missing, and the maps of the source's image, if only they
/// tell where its chunks lie.
pub async fn plan(
    from: Side<'_>,
    to: Side<'_>,
    what: &ImageRef,
    to_image: &ImageName,
    options: TransferOptions,
    job: &Job,
) -> Result<Plan> {
    let planning = async {
        let route = Route::find(from, to, what, to_image, options).await?;
        let plan = Plan {
            checkpoint: route.named.checkpoint,
            size: route.named.size,
            publishes: route.entries.len() as u64,
            chunks: 0,
            nodes: 0,
            bytes: 0,
            disk: 0,
            ranges: 0,
        };
        let there = Arc::new(There::new(&to.store.chunks));
        let places = Places::new(from.store, &route.maps);
        let mut planner = Planner { from, to, there, places, plan };
        for entry in &route.entries {
            planner.checkpoint(entry).await?;
        }
        Ok(planner.plan)
    };
    let cancelled = || Error::new(ErrorKind::Cancelled, "cancelled");
    job.cancel.run_until_cancelled(planning).await.unwrap_or_else(|| Err(cancelled()))
}

struct Planner<'a> {
    from: Side<'a>,
    to: Side<'a>,
    /// What is planned stays "coming", so that nothing is counted twice.
    there: Arc<There>,
    places: Places<'a>,
    plan: Plan,
}

impl Planner<'_> {
    async fn checkpoint(&mut self, entry: &HistoryEntry) -> Result<()> {
        let from = &self.from.store.chunks;
        let id = entry.checkpoint.as_chunk();
        if self.to.store.chunks.contains(ChunkKind::Checkpoint, &[id]).await?.contains(&true) {
            return Ok(());
        }
        let read = |bytes: &[u8]| Checkpoint::decode(bytes);
        let found = entries::fetch(from, ChunkKind::Checkpoint, vec![id], read).await;
        let found = found.map_err(|e| e.context(format!("from {}", self.from.place)))?;
        let Some((encoded, checkpoint)) = found.into_iter().next() else { return Ok(()) };
        self.plan.bytes += encoded.bytes.len() as u64;
        let Some(root) = checkpoint.root else { return Ok(()) };
        let (steps, mut taken) = mpsc::channel(1);
        let walk = Walk {
            from: Arc::clone(from),
            there: Arc::clone(&self.there),
            pace: Arc::new(Pace::new()),
            steps,
        };
        let level = level_for(blocks_for(checkpoint.size));
        let walking = AbortOnDropHandle::new(spawn(walk.run(root, level)));
        while let Some(step) = taken.recv().await {
            self.count(step).await?;
        }
        let died = |e| Error::with_source(ErrorKind::Unavailable, "a worker of the plan died", e);
        walking.await.map_err(died)?.map_err(|e| e.context(format!("from {}", self.from.place)))
    }

    async fn count(&mut self, step: Step) -> Result<()> {
        let plan = &mut self.plan;
        plan.nodes += step.nodes.len() as u64;
        plan.bytes += step.nodes.iter().map(|(_, entry)| entry.bytes.len() as u64).sum::<u64>();
        plan.chunks += step.chunks.len() as u64;
        plan.disk += step.blocks * BLOCK_SIZE as u64;
        if step.chunks.is_empty() {
            return Ok(());
        }
        let places = self.places.find(&step.chunks).await?;
        let known: u64 = places.iter().map(|place| u64::from(place.stored_len)).sum();
        // Chunks without a place count as what the others are on average, or as their blocks.
        let bytes = match places.len() {
            0 => step.blocks * BLOCK_SIZE as u64,
            some => known * step.chunks.len() as u64 / some as u64,
        };
        plan.bytes += bytes;
        plan.ranges += if places.len() == step.chunks.len() { ranges(places) } else { bytes.div_ceil(READ) };
        Ok(())
    }
}

/// Reads that fetch all of these.
fn ranges(mut places: Vec<Placement>) -> u64 {
    places.sort_unstable_by_key(|place| (place.pack, place.offset));
    let (mut count, mut open) = (0, None);
    for place in places {
        let end = place.offset + u64::from(place.stored_len);
        match &mut open {
            Some((pack, start, until))
                if *pack == place.pack && place.offset <= *until + GAP && end - *start <= READ =>
            {
                *until = end;
            }
            _ => {
                count += 1;
                open = Some((place.pack, place.offset, end));
            }
        }
    }
    count
}
