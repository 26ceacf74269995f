//! [`MemoryCache`]: decoded entries in memory, bounded in bytes, the least recently used going first.
//!
//! One cache serves all exports of a process: entries are named by their content, so what one disk read
//! is a hit for every other. The cache trusts its callers that bytes belong to their id;
//! [`Cached`](super::Cached) verifies before it inserts.
//!
//! The cache is cut into shards by id, each with a lock and an equal part of the budget. A lookup takes
//! one lock, moves the entry to the front and clones a reference; a reader holds the bytes by that
//! reference, so an eviction never pulls them away.

use lru::LruCache;

use bytes::Bytes;

use crate::{ChunkId, ChunkKind, sync::Mutex};

#[cfg(test)]
mod tests;

/// What an entry costs beside its bytes: key, list links, table slot and the counted buffer, rounded up.
pub const ENTRY_OVERHEAD: usize = 160;

/// A shard must hold several of the largest entries, or hot ones evict each other.
const LEAST_SHARD: usize = 4 << 20;
/// Enough that the threads of a host rarely meet in one.
const MOST_SHARDS: usize = 64;

/// A bounded cache of decoded entries. Share it as an [`Arc`](std::sync::Arc).
pub struct MemoryCache {
    shards: Box<[Mutex<Shard>]>,
    shard_capacity: usize,
    capacity: usize,
}

struct Shard {
    entries: LruCache<(ChunkKind, ChunkId), Bytes>,
    /// Sum of the weights of `entries`.
    bytes: usize,
    hits: u64,
    misses: u64,
}

/// What a cache holds and has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Lookups answered.
    pub hits: u64,
    /// Lookups not answered, as far as they were counted (see [`MemoryCache::probe`]).
    pub misses: u64,
    /// Entries held.
    pub entries: usize,
    /// Bytes held, with [`ENTRY_OVERHEAD`] for each entry. Never above the capacity.
    pub bytes: usize,
}

impl MemoryCache {
    /// A cache of at most `capacity` bytes, [`ENTRY_OVERHEAD`] included. With 0 it keeps nothing.
    pub fn new(capacity: usize) -> Self {
        let wanted = (capacity / LEAST_SHARD).clamp(1, MOST_SHARDS);
        // The greatest power of two that is not above it.
        let count = 1 << wanted.ilog2();
        let shard = || Shard { entries: LruCache::unbounded(), bytes: 0, hits: 0, misses: 0 };
        Self {
            shards: (0..count).map(|_| Mutex::new(shard())).collect(),
            shard_capacity: capacity / count,
            capacity,
        }
    }

    /// The most bytes it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// An entry, which becomes the most recently used. Counts a hit or a miss.
    pub fn get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.look_up(kind, id, 1)
    }

    /// As [`get`](Self::get), but an absent entry is not counted: for those who will ask again.
    pub fn probe(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.look_up(kind, id, 0)
    }

    fn look_up(&self, kind: ChunkKind, id: &ChunkId, miss: u64) -> Option<Bytes> {
        let shard = &mut *self.shard(id).lock();
        let found = shard.entries.get(&(kind, *id)).cloned();
        match found {
            Some(_) => shard.hits += 1,
            None => shard.misses += miss,
        }
        found
    }

    /// Keeps an entry, evicting the least recently used for it. One that is too large for its shard is
    /// not kept.
    ///
    /// The bytes are copied: they may be part of a larger buffer (a range that was read for many entries),
    /// which would stay in memory whole and uncounted.
    pub fn insert(&self, kind: ChunkKind, id: ChunkId, bytes: &[u8]) {
        let weight = weight(bytes);
        if weight > self.shard_capacity {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        let shard = &mut *self.shard(&id).lock();
        shard.bytes += weight;
        if let Some(old) = shard.entries.put((kind, id), bytes) {
            shard.bytes -= self::weight(&old);
        }
        while shard.bytes > self.shard_capacity
            && let Some((_, evicted)) = shard.entries.pop_lru()
        {
            shard.bytes -= self::weight(&evicted);
        }
    }

    /// What it holds and has answered, summed shard by shard: not one moment's picture.
    pub fn stats(&self) -> CacheStats {
        self.shards.iter().fold(CacheStats::default(), |sum, shard| {
            let shard = shard.lock();
            CacheStats {
                hits: sum.hits + shard.hits,
                misses: sum.misses + shard.misses,
                entries: sum.entries + shard.entries.len(),
                bytes: sum.bytes + shard.bytes,
            }
        })
    }

    fn shard(&self, id: &ChunkId) -> &Mutex<Shard> {
        // Ids are hashes: any byte spreads evenly, and there are fewer shards than a byte has values.
        &self.shards[usize::from(id.as_bytes()[0]) & (self.shards.len() - 1)]
    }
}

fn weight(bytes: &[u8]) -> usize {
    bytes.len() + ENTRY_OVERHEAD
}

impl std::fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryCache")
            .field("capacity", &self.capacity)
            .field("shards", &self.shards.len())
            .field("stats", &self.stats())
            .finish()
    }
}
