//! Stores to test with.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore as _, Result, format::codec::Compression, testing::FixedClock,
    types::id_of,
};

use super::super::{LocalStore, LocalStoreOptions};
use crate::fs::{Fs, MemFs, StdFs};

pub(super) const KIND: ChunkKind = ChunkKind::Data;

pub(super) fn options() -> LocalStoreOptions {
    LocalStoreOptions {
        compression: Compression::None,
        pack_target: 16 << 10,
        page_cache: 64 << 10,
        clock: Arc::new(FixedClock::default()),
    }
}

/// A new store with [`options`].
pub(super) fn init(fs: Arc<dyn Fs>, dir: &Path) -> LocalStore {
    LocalStore::init(fs.clone(), dir, &FixedClock::default()).unwrap();
    LocalStore::open_with(fs, dir, options()).unwrap()
}

/// A folder with a store in memory, and a handle on it.
pub(super) struct Fixture {
    pub(super) mem: MemFs,
    pub(super) store: LocalStore,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let mem = MemFs::new();
        let store = init(Arc::new(mem.clone()), Path::new("/s"));
        Self { mem, store }
    }

    /// Another handle, as another process has it.
    pub(super) fn other(&self) -> LocalStore {
        LocalStore::open_with(Arc::new(self.mem.clone()), Path::new("/s"), options()).unwrap()
    }

    pub(super) fn fs(&self) -> &dyn Fs {
        &self.mem
    }
}

/// A store in a real folder, which goes away with the first value.
pub(super) fn on_disk() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = init(Arc::new(StdFs), &dir.path().join("s"));
    (dir, store)
}

/// `count` entries of about `len` bytes, different for each `seed`.
pub(super) fn entries(seed: u64, count: u64, len: usize) -> Vec<(ChunkId, Bytes)> {
    (0..count)
        .map(|n| {
            let mut bytes = vec![0; len + (n % 7) as usize];
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n + 1);
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state as u8;
            }
            let bytes = Bytes::from(bytes);
            (id_of(KIND, &bytes), bytes)
        })
        .collect()
}

pub(super) fn ids(entries: &[(ChunkId, Bytes)]) -> Vec<ChunkId> {
    entries.iter().map(|(id, _)| *id).collect()
}

/// Asserts that a handle reads all entries.
pub(super) async fn assert_holds(store: &LocalStore, entries: &[(ChunkId, Bytes)]) {
    let got: Result<Vec<Bytes>> = store.get(KIND, &ids(entries)).await.into_iter().collect();
    let expected: Vec<Bytes> = entries.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(got.unwrap(), expected);
}

/// Asserts that a handle reads none of the entries.
pub(super) async fn assert_lacks(store: &LocalStore, entries: &[(ChunkId, Bytes)]) {
    for got in store.get(KIND, &ids(entries)).await {
        assert_eq!(got.unwrap_err().kind(), gabion_store_core::ErrorKind::NotFound);
    }
    assert!(!store.contains(KIND, &ids(entries)).await.unwrap().contains(&true));
}
