//! The order of first touches: recorded while a disk is served, and fetched in that order at the next start.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Volume, prefetch, watch::Watch};
use crate::{
    BlockRange, Result,
    format::{boot_trace::BootTrace, node::LEAF_BLOCKS},
    ops::Job,
};

/// Blocks recorded at most: 4 GiB. What a guest reads beyond is not its start any more.
const MAX_BLOCKS: u64 = 1 << 20;
/// Bits for the blocks of a region of 2 MiB.
type Region = [u64; LEAF_BLOCKS as usize / 64];

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// Notes blocks in the order in which they are first read. At most some 10 MB.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Tells recordings apart.
    pub(super) number: u64,
    touched: HashMap<u64, Region>,
    runs: Vec<BlockRange>,
    blocks: u64,
}

impl Recorder {
    pub(super) fn new() -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { number, touched: HashMap::new(), runs: Vec::new(), blocks: 0 }
    }

    /// Whether no more is recorded.
    pub(super) fn is_full(&self) -> bool {
        self.blocks >= MAX_BLOCKS || self.runs.len() >= BootTrace::MAX_RUNS
    }

    pub(super) fn touch(&mut self, range: BlockRange) {
        for block in range.start..range.end {
            if self.is_full() {
                return;
            }
            let (region, bit) = (block / LEAF_BLOCKS, (block % LEAF_BLOCKS) as usize);
            let word = &mut self.touched.entry(region).or_default()[bit / 64];
            if *word >> (bit % 64) & 1 == 1 {
                continue;
            }
            *word |= 1 << (bit % 64);
            self.blocks += 1;
            match self.runs.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => self.runs.push(BlockRange::new(block, block + 1)),
            }
        }
    }

    fn finish(self) -> BootTrace {
        BootTrace::new(self.runs).expect("runs are kept as a trace has them")
    }
}

/// A recording that goes on until it is finished, dropped, or full: at 65,536 runs or 4 GiB.
pub struct Touches {
    watch: Arc<Watch>,
    number: u64,
}

impl Touches {
    /// Ends the recording: what was read of the base since it began, in the order of first reads. Empty if another
    /// recording of the volume began meanwhile.
    pub fn finish(self) -> BootTrace {
        self.watch.stop(self.number).map_or_else(BootTrace::default, Recorder::finish)
    }
}

impl Drop for Touches {
    fn drop(&mut self) {
        self.watch.stop(self.number);
    }
}

impl fmt::Debug for Touches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Touches").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Volume {
    /// Records from now on which blocks of the base are read first, for [`replay`](Self::replay) at the next start.
    /// What local layers answer is not recorded, nor is what is read of a base that is ingested still. While it goes
    /// on, each read takes a lock for a moment.
    pub fn record_touches(&self) -> Touches {
        let recorder = Recorder::new();
        let touches = Touches { watch: Arc::clone(&self.shared.watch), number: recorder.number };
        self.shared.watch.record(recorder);
        touches
    }

    /// Brings what a trace names into the caches, in its order and ahead of the guest. Ends early, with success, when
    /// the volume is gone; the future holds it not.
    ///
    /// **Errors**: `Cancelled` if the job was; the first error of the store. Damaged and lost chunks are passed over.
    pub fn replay(&self, trace: &BootTrace, job: Job) -> impl Future<Output = Result<()>> + Send + 'static {
        prefetch::in_order(&self.shared, trace.runs().to_vec(), prefetch::Haste::AheadOfGuest, job)
    }

    /// Brings all of the base that shows through the layers into the caches, in the order of the disk and with few
    /// requests at a time, so that others go on beside it. Ends as [`replay`](Self::replay) does. Progress counts
    /// bytes of the disk.
    ///
    /// What is more than the memory cache holds pushes out what is there, so this is for a stack with a disk cache.
    pub fn prefetch_all(&self, job: Job) -> impl Future<Output = Result<()>> + Send + 'static {
        let all = BlockRange::new(0, crate::types::blocks_for(self.size()));
        prefetch::in_order(&self.shared, vec![all], prefetch::Haste::BesideGuest, job)
    }
}
