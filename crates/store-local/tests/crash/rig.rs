//! A store and a volume on one file system, opened as a process opens them after a start.

use std::{path::Path, sync::Arc};

use gabion_store_core::{
    BlockDevice as _, CheckpointId, ImageName, Result,
    clock::Timestamp,
    index::NodeCache,
    ops::{Depth, IngestOptions, Job, check, open_checkpoint},
    testing::FixedClock,
    types::VolumeId,
    volume::{Append, Base, CheckpointOptions, Home, IndexBase, Volume},
};
use gabion_store_local::{
    fs::Fs,
    overlay::{LocalOverlay, record::VolumeInfo},
    store::{LocalStore, LocalStoreOptions},
};

pub(crate) const IMAGE: &str = "vm";
const STORE: &str = "/store";
const VOLUME: &str = "/volume";

pub(crate) fn image() -> ImageName {
    IMAGE.parse().unwrap()
}

pub(crate) fn info(size: usize) -> VolumeInfo {
    VolumeInfo {
        id: VolumeId::from_bytes([7; 16]),
        name: image(),
        size: size as u64,
        base: None,
        home: String::new(),
        lazy_base: None,
        lineage: None,
        created: Timestamp(1),
    }
}

/// As what a checkpoint is made.
pub(crate) fn options() -> CheckpointOptions {
    CheckpointOptions {
        owner: VolumeId::from_bytes([7; 16]),
        image: image(),
        lineage: None,
        labels: Default::default(),
        ingest: IngestOptions::default(),
        append: Append::Any,
    }
}

/// Makes a store and a volume of zeros.
pub(crate) fn make(fs: &Arc<dyn Fs>, size: usize) -> Result<()> {
    LocalStore::init(fs.clone(), Path::new(STORE), &FixedClock::default())?;
    LocalOverlay::create(fs.clone(), Path::new(VOLUME), info(size)).map(drop)
}

/// A store and a volume that one process has open.
pub(crate) struct Opened {
    pub(crate) home: Home,
    pub(crate) volume: Volume,
    pub(crate) overlay: Arc<LocalOverlay>,
}

/// Opens both, and recovers the volume.
pub(crate) async fn open(fs: &Arc<dyn Fs>) -> Result<Opened> {
    let options = LocalStoreOptions {
        pack_target: 64 << 10,
        page_cache: 64 << 10,
        clock: Arc::new(FixedClock::default()),
        ..LocalStoreOptions::default()
    };
    let store = LocalStore::open_with(fs.clone(), Path::new(STORE), options)?.into_store();
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let home = Home { store, nodes, clock: Arc::new(FixedClock::default()) };
    let overlay = Arc::new(LocalOverlay::open(fs.clone(), Path::new(VOLUME), None)?);
    let info = overlay.record().info;
    let base = match info.base {
        Some(id) => Base::Index(IndexBase::new(open_checkpoint(&home.nodes, id).await?.1)),
        None => Base::Empty,
    };
    let volume = Volume::writable("the volume", overlay.clone(), base, info.base, info.size);
    Ok(Opened { home, volume, overlay })
}

impl Opened {
    pub(crate) async fn checkpoint(&self) -> Result<CheckpointId> {
        Ok(self.volume.checkpoint(&self.home, &options(), &Job::default()).await?.checkpoint)
    }

    /// The image's history, oldest first.
    pub(crate) async fn history(&self) -> Result<Vec<CheckpointId>> {
        let record = self.home.store.index.read_image(&image()).await?;
        let history = record.map(|found| found.value.history).unwrap_or_default();
        Ok(history.iter().rev().map(|entry| entry.checkpoint).collect())
    }

    /// All that a checkpoint holds.
    pub(crate) async fn content(&self, id: CheckpointId) -> Result<Vec<u8>> {
        let (checkpoint, index) = open_checkpoint(&self.home.nodes, id).await?;
        let disk = Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size);
        whole(&disk).await
    }

    /// Whether everything in the store is there and right.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let report = check(&self.home.store, Depth::Hashes, &Job::default()).await;
        match report {
            Ok(report) if report.damage.is_empty() => Ok(()),
            Ok(report) => Err(format!("{:?}", report.damage)),
            Err(e) => Err(e.report()),
        }
    }
}

/// All bytes of a disk.
pub(crate) async fn whole(volume: &Volume) -> Result<Vec<u8>> {
    let mut all = vec![0xEE; volume.size() as usize];
    match volume.try_read(0, &mut all) {
        Some(read) => read?,
        None => volume.read(0, &mut all).await?,
    }
    Ok(all)
}
