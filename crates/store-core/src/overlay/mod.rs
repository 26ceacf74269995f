//! The local layers of a volume's writes, as the volume sees them.
//!
//! A [`Layer`] holds some blocks as data or zero; what it does not hold shows what is below it. An
//! [`Overlay`] owns a volume's layers and its record, and makes them durable. [`memory`] implements
//! both without durability; a file-backed overlay lives in the crate for local storage.
//!
//! Reads and writes here are synchronous and work on whole blocks: partial blocks, the barrier around
//! a freeze and everything asynchronous are the [`volume`](crate::volume)'s business.

mod memory;
mod states;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use memory::MemoryOverlay;
pub use states::BlockStates;

use crate::{BlockRange, CheckpointId, Result};

/// What a layer says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockState {
    /// Nothing: look below.
    Base,
    /// The block is zero, whatever the layer's bytes say.
    Zero,
    /// The layer's bytes are the block's.
    Data,
}

/// One layer of writes. The topmost of an overlay takes writes; one below never changes again.
///
/// **Durability**: none by itself, see [`Overlay::flush`].
///
/// **Ordering**: a mark becomes visible only after its bytes are in place. The caller keeps
/// overlapping writes and zeroings of a block apart.
pub trait Layer: Send + Sync + fmt::Debug {
    /// State of the first block of `range` (not empty), and one past the last block of the run of that
    /// state, at most `range.end`. A run may be reported shorter than it is.
    fn first_run(&self, range: BlockRange) -> (BlockState, u64);

    /// Reads bytes of blocks that are data, if that needs no disk. `None` means use [`read`](Self::read).
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>>;

    /// Reads bytes of blocks that are data. May wait for the disk.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes whole blocks from `first` on and marks them data. `NoSpace` leaves each block old or new.
    fn write(&self, first: u64, data: &[u8]) -> Result<()>;

    /// Marks blocks zero and gives their space back.
    fn zero(&self, range: BlockRange) -> Result<()>;

    /// Runs of blocks that are not [`BlockState::Base`], from block `from` on, in order: at most `max`.
    fn runs(&self, from: u64, max: usize) -> Vec<(BlockRange, BlockState)>;

    /// Number of blocks that are data.
    fn data_blocks(&self) -> u64;
}

/// The layers of one volume and their durability.
///
/// **Cancel safety**: dropping a future leaves the overlay as before or as after the call.
#[async_trait]
pub trait Overlay: Send + Sync + fmt::Debug {
    /// The layers, newest first; never empty. The first takes writes.
    fn layers(&self) -> Vec<Arc<dyn Layer>>;

    /// Adds an empty layer on top, durably (its files and the volume's record are synced). The caller
    /// directs no write to it before this returned, and none to the ones below after it switched.
    async fn push_layer(&self) -> Result<Arc<dyn Layer>>;

    /// Makes every write and mark that had returned before this call durable, in all layers, oldest
    /// first. After an error nothing is promised and the overlay is poisoned: every later write and
    /// flush fails with `Poisoned`. Running out of space before anything was synced is `NoSpace`
    /// instead, and owes the same blocks to the next flush.
    async fn flush(&self) -> Result<()>;

    /// Records, durably, that the volume now stands on `base`, of `size` bytes, and no longer has the
    /// `count` oldest layers; then removes their files.
    async fn rebase(&self, base: CheckpointId, count: usize) -> Result<()>;

    /// Records a larger size, durably, and lets layers hold the new blocks. Smaller is `Invalid`.
    async fn grow(&self, size: u64) -> Result<()>;

    /// Whether [`flush`](Self::flush) reaches something that survives a crash.
    fn is_durable(&self) -> bool;
}
