//! Stores in a bucket, disks to put into them, and entries.

use std::sync::Arc;

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkStore as _, ImageName, IndexStore as _, Result, Store,
    chunking::{DiskSource, Next},
    clock::Timestamp,
    format::codec::Compression,
    ops::{ImportOptions, Imported, Job, import},
    testing::{FixedClock, Rng},
    types::{WriteId, chunk_id},
};
use object_store::{ObjectStore, path::Path};

use super::bucket::Bucket;
use crate::store::{RemoteOptions, RemoteStore};

/// A fresh store in a bucket.
pub(super) async fn init(bucket: &Arc<Bucket>, options: RemoteOptions) -> RemoteStore {
    let bucket: Arc<dyn ObjectStore> = bucket.clone();
    let made = RemoteStore::init_in(bucket, Path::from("a/prefix"), "memory://test", options).await;
    made.expect("an empty bucket takes a store")
}

/// Another handle of the store, as another host has it.
pub(super) async fn open(bucket: &Arc<Bucket>) -> RemoteStore {
    let bucket: Arc<dyn ObjectStore> = bucket.clone();
    let options = RemoteOptions::default();
    let opened = RemoteStore::open_in(bucket, Path::from("a/prefix"), "memory://test", options).await;
    opened.expect("there is a store")
}

/// Packs of that many bytes, entries as they are.
pub(super) fn packs_of(pack_target: u64) -> RemoteOptions {
    RemoteOptions { pack_target, compression: Compression::None, uploads: 2, ..RemoteOptions::default() }
}

pub(super) fn clock() -> FixedClock {
    FixedClock::new(Timestamp(1_000))
}

pub(super) fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("a good name")
}

/// Data of that many bytes, different for each seed.
pub(super) fn chunk(seed: u64, len: usize) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(Rng::new(seed).bytes(len));
    (chunk_id(&bytes), bytes)
}

/// A disk in memory.
pub(super) struct Disk(pub(super) Vec<u8>, usize);

impl Disk {
    pub(super) fn random(seed: u64, len: usize) -> Self {
        Self(Rng::new(seed).bytes(len), 0)
    }

    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes, 0)
    }
}

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let rest = &self.0[self.1..];
        if rest.is_empty() {
            return Ok(Next::End);
        }
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.1 += len;
        Ok(Next::Data(len))
    }
}

/// Imports a disk as the newest checkpoint of an image.
pub(super) async fn import_disk(store: &Store, image: &str, disk: Disk) -> Imported {
    let options = ImportOptions::default();
    import(store, &clock(), &name(image), disk, options, &Job::default()).await.expect("an import")
}

/// Names what was synced in the catalog, as a publish does.
pub(super) async fn publish(store: &RemoteStore) {
    let synced = store.sync().await.expect("sync");
    let mut catalog = store.read_catalog().await.expect("the catalog");
    catalog.value.add_locators(&synced.locators);
    catalog.value.write_id = WriteId::random().expect("randomness");
    store.write_catalog(&catalog.value, &catalog.version).await.expect("a catalog of one writer");
}
