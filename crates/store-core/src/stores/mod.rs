//! Stores that need neither files nor a network, and the layers that stand in front of any store.
//!
//! A layer is a [`ChunkStore`](crate::ChunkStore) around another. This is their order:
//!
//! ```text
//! Cached        memory, single flight: a warm read ends here, without a hash, a task or an allocation
//!   Verify      built into Cached: bytes are hashed once, where they enter memory
//!     Stack     nearer tiers first; one named tier takes the writes
//!       Limited   calls at once, per tier: a slow remote must not be given all requests
//!         Metered   what this tier was really asked, waiting for a permit not included
//!           the store
//! ```
//!
//! - `Cached` is outermost, because only what nothing stands above can answer without waiting.
//! - `Verify` is below memory and above all else: the verified state lives as long as the slot in memory,
//!   and whatever a disk cache or a remote answers is hashed before it gets there. A tier that must not
//!   hand a flipped bit to the stack, because another tier has the right bytes, gets a `Verify` of its own.
//! - `Stack` is below the cache, so that one memory serves all tiers, and so that a miss asks them once.
//!
//! Beside them, `Healing` makes one tier of a near store and a far one: what is damaged near is read from afar, and stored
//! again near. `Deferred` opens a store like that far one only once it is needed.
//!
//! Each wrapper denies missing trait methods: none silently drops a capability of what it wraps.

mod cached;
mod deferred;
mod healing;
mod limit;
mod memory_cache;
mod memory_store;
mod metrics;
mod shared;
mod stack;
#[cfg(test)]
mod tests;
mod verify;

pub use cached::Cached;
pub use deferred::Deferred;
pub use healing::Healing;
pub use limit::Limited;
pub use memory_cache::{CacheStats, ENTRY_OVERHEAD, MemoryCache};
pub use memory_store::MemoryStore;
pub use metrics::{Metered, MethodMetrics, Metrics};
pub use stack::{Stack, StackBuilder};
pub use verify::Verify;

use crate::{ChunkId, ChunkKind, Error, Result};

/// The error for an entry that is known to be absent.
fn missing(kind: ChunkKind, id: &ChunkId) -> Error {
    Error::not_found(format!("{kind:?} entry {id} is not in this store"))
}

/// The answers, if there is one per id; else an error for each, since none can be told apart.
fn one_each<T: Clone>(ids: &[ChunkId], answers: Vec<Result<T>>) -> Vec<Result<T>> {
    if answers.len() == ids.len() {
        return answers;
    }
    let message = format!("a store gave {} answers for {} entries: it is broken", answers.len(), ids.len());
    vec![Err(Error::corrupt(message)); ids.len()]
}
