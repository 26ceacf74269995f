//! What is learnt from the reads of a disk's base: what to fetch ahead, and what to record.
//!
//! A read that finds all it asks for in memory pays one relaxed load here, unless it is marked: it is where a stream
//! has to be told, or reads are being recorded.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::{
    streams::{LONG_READ, MOST_AHEAD, Streams, region_bit},
    trace::Recorder,
};
use crate::{BlockRange, sync::Mutex};

/// Bytes of one permit.
const UNIT: u64 = 64 << 10;
/// Pieces asked of stores at a time. If all of them were, they would share the link, land together, and leave it idle
/// for a round trip after each window; so they land one behind the other, with enough on the way to fill it.
const LANES: usize = 12;

/// How much the disks that share it may be fetching ahead at a time; see
/// [`IndexBase::with_readahead`](super::IndexBase::with_readahead). A clone shares it, too.
#[derive(Clone, Debug)]
pub struct Readahead {
    room: Arc<Semaphore>,
    units: u32,
    lanes: Arc<Semaphore>,
}

impl Readahead {
    /// At most `bytes` of disk content on its way, but one piece of up to 4 MiB always; ahead of one stream at most
    /// three quarters of it. What is fetched waits in the memory cache to be read: a quarter of that is a good measure.
    pub fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).clamp(1, 1 << 20);
        Self { room: Arc::new(Semaphore::new(units as usize)), units, lanes: Arc::new(Semaphore::new(LANES)) }
    }

    /// Room for `bytes`, if there is any now; until it is dropped.
    pub(super) fn try_take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.units);
        Arc::clone(&self.room).try_acquire_many_owned(units).ok()
    }
}

impl Readahead {
    /// Waits for a piece's turn.
    pub(super) async fn lane(&self) -> SemaphorePermit<'_> {
        self.lanes.acquire().await.expect("it is never closed")
    }
}

#[cfg(test)]
impl Readahead {
    /// All the room, once everything on its way has arrived.
    pub(super) async fn take_all(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.room).acquire_many_owned(self.units).await.expect("it is never closed")
    }

    /// Waits until nothing is on its way.
    pub(super) async fn settled(&self) {
        drop(self.take_all().await);
    }
}

/// 64 MiB: one stream at full length, and some beside it.
impl Default for Readahead {
    fn default() -> Self {
        Self::new(64 << 20)
    }
}

/// Sees the reads of one disk.
#[derive(Debug)]
pub(super) struct Watch {
    /// Regions whose reads are to be noted even if they hit.
    marked: AtomicU64,
    seen: Mutex<Seen>,
    readahead: Option<Readahead>,
}

#[derive(Debug)]
struct Seen {
    streams: Streams,
    recorder: Option<Recorder>,
    /// Size of the disk in bytes when a read was last noted.
    size: u64,
}

impl Watch {
    pub(super) fn new(readahead: Option<Readahead>) -> Self {
        let most_ahead = readahead.as_ref().map_or(MOST_AHEAD, |room| u64::from(room.units) * UNIT / 4 * 3);
        let seen = Seen { streams: Streams::new(most_ahead), recorder: None, size: 0 };
        Self { marked: AtomicU64::new(0), seen: Mutex::new(seen), readahead }
    }

    /// What may be fetched ahead; `None` if nothing is.
    pub(super) fn readahead(&self) -> Option<&Readahead> {
        self.readahead.as_ref()
    }

    /// Whether a read is to be noted before it is known to miss.
    pub(super) fn marks(&self, offset: u64, len: usize) -> bool {
        self.marked.load(Ordering::Relaxed) & region_bit(offset) != 0
            || (len > LONG_READ && self.readahead.is_some())
    }

    /// Notes that `asked` is being read, in the course of which all of `read` is brought into memory, of a disk of
    /// `size` bytes; calls `start` for each piece to fetch ahead now.
    pub(super) fn note(
        &self,
        asked: BlockRange,
        read: &Range<u64>,
        size: u64,
        start: impl FnMut(Range<u64>) -> bool,
    ) {
        if self.readahead.is_none() && self.marked.load(Ordering::Relaxed) == 0 {
            return;
        }
        let seen = &mut *self.seen.lock();
        if let Some(recorder) = &mut seen.recorder {
            recorder.touch(asked);
        }
        if self.readahead.is_some() {
            seen.streams.note(read, size, start);
        }
        seen.size = size;
        self.mark(seen);
    }

    fn mark(&self, seen: &Seen) {
        let recording = seen.recorder.as_ref().is_some_and(|recorder| !recorder.is_full());
        let marked = if recording { u64::MAX } else { seen.streams.due(seen.size) };
        self.marked.store(marked, Ordering::Relaxed);
    }

    /// Records from now on; whatever was being recorded ends.
    pub(super) fn record(&self, recorder: Recorder) {
        let seen = &mut *self.seen.lock();
        seen.recorder = Some(recorder);
        self.mark(seen);
    }

    /// Ends the recording of this number, if it is going on still.
    pub(super) fn stop(&self, number: u64) -> Option<Recorder> {
        let seen = &mut *self.seen.lock();
        let stopped = seen.recorder.take_if(|recorder| recorder.number == number)?;
        self.mark(seen);
        Some(stopped)
    }
}
