//! Bringing parts of a base into the caches, in a given order, a bounded part at a time.

use std::{
    pin::pin,
    sync::{Arc, Weak},
};

use futures::{StreamExt as _, stream};

use super::{Base, IndexBase, Place, Shared, View, index_base::Missing};
use crate::{
    BLOCK_SIZE, BlockRange, ChunkId, ErrorKind, Result,
    ops::{Job, Progress},
    types::blocks_for,
};

/// Blocks and runs whose chunks are looked up together: 64 MiB, and a handful of requests for their index.
const SECTION_BLOCKS: u64 = 16_384;
const SECTION_RUNS: usize = 4096;
/// Blocks that are fetched together: 4 MiB.
const BATCH_BLOCKS: u64 = 1024;

/// How much is fetched at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// As fast as the store gives it.
    AheadOfGuest,
    /// So that others hardly notice.
    BesideGuest,
}

impl Haste {
    /// Batches on their way at a time.
    fn at_once(self) -> usize {
        match self {
            Self::AheadOfGuest => 8,
            Self::BesideGuest => 2,
        }
    }
}

/// A batch of chunks, and how far on the way to the end of all runs it leads.
struct Batch {
    base: IndexBase,
    chunks: Vec<(u64, ChunkId)>,
    blocks: u64,
}

/// Fetches `runs` in their order, as far as they show through the layers of the volume, for as long as there is one.
pub(super) fn in_order(
    shared: &Arc<Shared>,
    runs: Vec<BlockRange>,
    haste: Haste,
    job: Job,
) -> impl Future<Output = Result<()>> + Send + 'static {
    // A trace may be of a larger disk, and a run of it as long as any number.
    let disk = BlockRange::new(0, blocks_for(shared.view().size));
    let runs = runs.into_iter().map(move |run| run.intersect(&disk)).filter(|run| !run.is_empty());
    let runs: Vec<_> = runs.collect();
    let shared = Arc::downgrade(shared);
    async move {
        let total = runs.iter().map(BlockRange::count).sum::<u64>();
        let size = |blocks: u64| blocks * BLOCK_SIZE as u64;
        let sections = stream::iter(Sections { runs: runs.into_iter(), rest: None });
        let cancel = job.cancel.clone();
        let batches = sections.then(|section| look_up(shared.clone(), section)).flat_map(stream::iter);
        let fetched = batches
            .map(|batch| async {
                let batch = batch?;
                let fetched = batch.base.fetch_chunks(&batch.chunks).await;
                passed_over(fetched).map(|()| batch.blocks)
            })
            .buffer_unordered(haste.at_once());
        let (mut fetched, mut done) = (pin!(fetched), 0);
        loop {
            let Some(next) = cancel.run_until_cancelled(fetched.next()).await else { return job.check() };
            let Some(blocks) = next else { return Ok(()) };
            done += blocks?;
            job.report(Progress { done: size(done), total: Some(size(total)), stored: 0 });
            // Looked at between batches, so that nothing is fetched for a disk that nobody has.
            if shared.strong_count() == 0 {
                return Ok(());
            }
        }
    }
}

/// Fetches a range for a reader that waits for it.
pub(super) async fn range(shared: &Arc<Shared>, range: BlockRange) -> Result<()> {
    in_order(shared, vec![range], Haste::AheadOfGuest, Job::default()).await
}

/// One damaged chunk must not keep the rest from coming: who reads it is told.
fn passed_over(fetched: Result<()>) -> Result<()> {
    match fetched {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            tracing::debug!("fetching ahead: {}", e.report());
            Ok(())
        }
        other => other,
    }
}

/// Runs, cut and gathered into sections.
struct Sections {
    runs: std::vec::IntoIter<BlockRange>,
    rest: Option<BlockRange>,
}

impl Iterator for Sections {
    type Item = Vec<BlockRange>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut section, mut room) = (Vec::new(), SECTION_BLOCKS);
        while room > 0 && section.len() < SECTION_RUNS {
            let Some(run) = self.rest.take().or_else(|| self.runs.next()) else { break };
            let middle = run.start + run.count().min(room);
            room -= middle - run.start;
            section.push(BlockRange::new(run.start, middle));
            self.rest = Some(BlockRange::new(middle, run.end)).filter(|rest| !rest.is_empty());
        }
        (!section.is_empty()).then_some(section)
    }
}

/// What has to be fetched for a section; nothing if the volume is gone or its base is no index.
async fn look_up(shared: Weak<Shared>, section: Vec<BlockRange>) -> Vec<Result<Batch>> {
    let Some(view) = shared.upgrade().map(|shared| shared.view()) else { return Vec::new() };
    let Base::Index(base) = &*view.base else { return Vec::new() };
    let blocks = section.iter().map(BlockRange::count).sum();
    let visible: Vec<_> = section.into_iter().flat_map(|run| visible(&view, run)).collect();
    match base.find_missing(&visible).await {
        Ok(missing) => batches(base, missing, blocks),
        Err(error) => {
            let nothing = |()| Batch { base: base.clone(), chunks: Vec::new(), blocks };
            vec![passed_over(Err(error)).map(nothing)]
        }
    }
}

/// Parts of a run that are the base's.
fn visible(view: &View, run: BlockRange) -> Vec<BlockRange> {
    let (mut at, mut parts) = (run.start, Vec::new());
    while at < run.end {
        let (place, end) = view.place(BlockRange::new(at, run.end));
        if matches!(place, Place::Base) {
            parts.push(BlockRange::new(at, end));
        }
        at = end;
    }
    parts
}

/// Batches, in order; the last one carries the section's progress.
fn batches(base: &IndexBase, missing: Vec<Missing>, blocks: u64) -> Vec<Result<Batch>> {
    let batch = |chunks| Batch { base: base.clone(), chunks, blocks: 0 };
    let (mut batches, mut chunks, mut room) = (Vec::new(), Vec::new(), BATCH_BLOCKS);
    for found in missing {
        chunks.push((found.block, found.chunk));
        room = room.saturating_sub(found.blocks);
        if room == 0 {
            batches.push(batch(std::mem::take(&mut chunks)));
            room = BATCH_BLOCKS;
        }
    }
    let mut last = batch(chunks);
    last.blocks = blocks;
    batches.push(last);
    batches.into_iter().map(Ok).collect()
}
