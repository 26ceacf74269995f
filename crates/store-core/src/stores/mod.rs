//! Stores that need neither files nor a network, and the layers that stand in front of any store.

mod memory_store;

pub use memory_store::MemoryStore;

use crate::{ChunkId, ChunkKind, Error};

/// The error for an entry that is known to be absent.
fn missing(kind: ChunkKind, id: &ChunkId) -> Error {
    Error::not_found(format!("{kind:?} entry {id} is not in this store"))
}
