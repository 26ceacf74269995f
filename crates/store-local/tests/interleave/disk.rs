//! A volume on a file system, with a store in memory as its home.

use std::{path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, CheckpointId,
    clock::Timestamp,
    format::codec::Compression,
    index::NodeCache,
    ops::{IngestOptions, open_checkpoint},
    stores::MemoryStore,
    testing::FixedClock,
    types::VolumeId,
    volume::{Append, Base, CheckpointOptions, Home, IndexBase, Volume},
};
use gabion_store_local::{
    fs::{Fs, MemFs},
    overlay::{LocalOverlay, record::VolumeInfo},
};

/// Two that share a lock, as neighbours do.
pub(crate) const BLOCKS: usize = 2;
pub(crate) const SIZE: usize = BLOCKS * BLOCK_SIZE;

const FOLDER: &str = "/volume";

fn id() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

/// An empty store.
pub(crate) fn home() -> Home {
    let clock = Arc::new(FixedClock::default());
    let store = gabion_store_core::Store::from(MemoryStore::new(&*clock).unwrap());
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    Home { store, nodes, clock }
}

/// As what a checkpoint is made.
pub(crate) fn options() -> CheckpointOptions {
    CheckpointOptions {
        owner: id(),
        image: "vm".parse().unwrap(),
        lineage: None,
        labels: Default::default(),
        ingest: IngestOptions { compression: Compression::None, ..IngestOptions::default() },
        append: Append::Any,
    }
}

/// A new volume of zeros on a file system.
pub(crate) fn make(fs: &Arc<dyn Fs>) {
    let info = VolumeInfo {
        id: id(),
        name: "vm".parse().unwrap(),
        size: SIZE as u64,
        base: None,
        home: String::new(),
        lazy_base: None,
        lineage: None,
        created: Timestamp(1),
    };
    LocalOverlay::create(fs.clone(), Path::new(FOLDER), info).unwrap();
}

/// The volume, as a process opens it.
pub(crate) async fn open(fs: &Arc<dyn Fs>, home: &Home) -> Volume {
    let overlay = LocalOverlay::open(fs.clone(), Path::new(FOLDER), None).unwrap();
    let base = overlay.record().info.base;
    let below = match base {
        Some(id) => Base::Index(IndexBase::new(open_checkpoint(&home.nodes, id).await.unwrap().1)),
        None => Base::Empty,
    };
    Volume::writable("the volume", Arc::new(overlay), below, base, SIZE as u64)
}

/// All that a checkpoint holds.
pub(crate) async fn content(home: &Home, id: CheckpointId) -> Vec<u8> {
    let (checkpoint, index) = open_checkpoint(&home.nodes, id).await.unwrap();
    whole(&Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size)).await
}

/// All bytes of a disk.
pub(crate) async fn whole(volume: &Volume) -> Vec<u8> {
    let mut all = vec![0xEE; SIZE];
    volume.read(0, &mut all).await.unwrap();
    all
}

/// An empty file system.
pub(crate) fn memory() -> Arc<dyn Fs> {
    Arc::new(MemFs::new())
}
