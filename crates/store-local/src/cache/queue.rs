//! Entries on their way to the disk, beside the readers that brought them.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind,
    blocking::spawn_blocking,
    sync::{Handle, Mutex},
};
use tokio::sync::Notify;

use super::Inner;

/// Bytes that may wait for the disk; what comes on top is not kept. The disk is behind the network only if it
/// is slower.
const MAX_WAITING: usize = 16 << 20;
/// Entries taken at a time.
const BATCH: usize = 64;

/// An entry to keep.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: ChunkKind,
    pub(super) id: ChunkId,
    pub(super) bytes: Bytes,
}

/// What waits. Apart from the cache, so that it tells when the last task has let go of that.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    idle: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// A task takes entries off.
    served: bool,
    /// Tasks that hold the cache.
    tasks: usize,
}

impl Queue {
    /// Adds entries as far as there is room; `true` if nobody takes them off: then the caller must see to it.
    fn add(&self, entries: Vec<Entry>) -> bool {
        let waiting = &mut *self.waiting.lock();
        for entry in entries {
            if waiting.bytes + entry.bytes.len() <= MAX_WAITING {
                waiting.bytes += entry.bytes.len();
                waiting.entries.push_back(entry);
            }
        }
        let unserved = !waiting.served && !waiting.entries.is_empty();
        if unserved {
            waiting.served = true;
            waiting.tasks += 1;
        }
        unserved
    }

    /// The next entries, or none, and then the task's service has ended.
    fn take(&self) -> Vec<Entry> {
        let waiting = &mut *self.waiting.lock();
        let count = waiting.entries.len().min(BATCH);
        let batch: Vec<_> = waiting.entries.drain(..count).collect();
        waiting.bytes -= batch.iter().map(|entry| entry.bytes.len()).sum::<usize>();
        waiting.served = !batch.is_empty();
        batch
    }

    /// A task has let go of the cache.
    fn left(&self) {
        let mut waiting = self.waiting.lock();
        waiting.tasks -= 1;
        // A task that was dropped with its runtime served nobody.
        waiting.served &= waiting.tasks > 0;
        drop(waiting);
        self.idle.notify_waiters();
    }

    /// Waits until nothing waits and no task holds the cache.
    pub(super) async fn settled(&self) {
        loop {
            let changed = self.idle.notified();
            if self.waiting.lock().tasks == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Hands entries to a task that writes them, starting one if there is none. Outside a runtime, writes them.
pub(super) fn hand_over(cache: &Arc<Inner>, entries: Vec<Entry>) {
    if !cache.queue.add(entries) {
        return;
    }
    // Even if the task panics or never runs: the cache must not seem busy for ever.
    let left = Left(Arc::clone(&cache.queue));
    let cache = Arc::clone(cache);
    let serve = move || {
        let _left = left;
        loop {
            let batch = cache.queue.take();
            if batch.is_empty() {
                break drop(cache);
            }
            cache.write(batch);
        }
    };
    match Handle::try_current() {
        Ok(_) => drop(spawn_blocking(serve)),
        Err(_) => serve(),
    }
}

struct Left(Arc<Queue>);

impl Drop for Left {
    fn drop(&mut self) {
        self.0.left();
    }
}
