//! Where entries lie, in memory: some 25 bytes for each.

use std::collections::HashMap;

use gabion_store_core::{ChunkId, ChunkKind, sync::Mutex};

use super::segment::Row;

const SHARDS: usize = 16;

/// Names an entry by part of its id. Two entries that share it hide each other: a read compares the whole id.
type Key = [u8; 8];

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
    /// It was asked for since it was written.
    pub(super) used: bool,
}

/// Entries by key, in shards, so that readers rarely wait for the writer.
#[derive(Debug, Default)]
pub(super) struct Index {
    shards: [Mutex<HashMap<Key, Place>>; SHARDS],
}

fn key(kind: ChunkKind, id: &ChunkId) -> Key {
    let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
    // The kind where it doesn't touch what chooses the shard.
    [a, b, c, d, e, f, g, h ^ (kind as u8)]
}

impl Index {
    fn shard(&self, id: &ChunkId) -> &Mutex<HashMap<Key, Place>> {
        &self.shards[usize::from(id.as_bytes()[0]) % SHARDS]
    }

    /// Where an entry lies, which counts as a use of it.
    pub(super) fn find(&self, kind: ChunkKind, id: &ChunkId) -> Option<Place> {
        let mut shard = self.shard(id).lock();
        let place = shard.get_mut(&key(kind, id))?;
        place.used = true;
        Some(*place)
    }

    /// Whether there is an entry, which is no use of it.
    pub(super) fn contains(&self, kind: ChunkKind, id: &ChunkId) -> bool {
        self.shard(id).lock().contains_key(&key(kind, id))
    }

    /// Adds an entry of a segment; the place it had before counts no more.
    pub(super) fn insert(&self, segment: u32, row: &Row) {
        let place = Place { segment, offset: row.offset, len: row.len, used: false };
        self.shard(&row.id).lock().insert(key(row.kind, &row.id), place);
    }

    /// Forgets an entry unless it has moved.
    pub(super) fn remove(&self, kind: ChunkKind, id: &ChunkId, place: &Place) {
        let (mut shard, key) = (self.shard(id).lock(), key(kind, id));
        if shard.get(&key).is_some_and(|now| (now.segment, now.offset) == (place.segment, place.offset)) {
            shard.remove(&key);
        }
    }

    /// Places in a segment whose entries were used, in the order they lie.
    pub(super) fn used_in(&self, segment: u32) -> Vec<Place> {
        let mut used = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            used.extend(shard.values().filter(|place| place.used && place.segment == segment).copied());
        }
        used.sort_unstable_by_key(|place| place.offset);
        used
    }

    /// Forgets what lies in a segment.
    pub(super) fn forget(&self, segment: u32) {
        for shard in &self.shards {
            shard.lock().retain(|_, place| place.segment != segment);
        }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}
