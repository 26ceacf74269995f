//! A store, an overlay and a volume on it, to be opened again as often as wanted.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use gabion_store_core::{
    BlockDevice as _, CheckpointId, Error, ErrorKind, ImageName, Result, Store,
    clock::{Clock, SystemClock, Timestamp},
    index::NodeCache,
    ops::{CheckReport, Depth, IngestOptions, Job, check, open_checkpoint},
    overlay::{Layer, Overlay},
    stores::{Cached, MemoryCache},
    testing::Rng,
    types::VolumeId,
    volume::{Append, Base, CheckpointOptions, Home, IndexBase, Volume},
};
use gabion_store_local::{
    fs::Fs,
    overlay::{LocalOverlay, record::VolumeInfo},
    store::{LocalStore, LocalStoreOptions},
};
use parking_lot::Mutex;

pub(crate) const IMAGE: &str = "vm";

/// The seed of `GABION_SEED`, or a new one; printed, so that a failure can be repeated.
pub(crate) fn seed(test: &str) -> u64 {
    let given = std::env::var("GABION_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| SystemClock.now().0);
    #[expect(clippy::print_stderr, reason = "the test harness shows it with a failure")]
    {
        eprintln!("{test}: GABION_SEED={seed}");
    }
    seed
}

/// Where store and volume lie.
#[derive(Clone)]
pub(crate) struct Rig {
    pub(crate) fs: Arc<dyn Fs>,
    root: PathBuf,
}

impl Rig {
    /// An empty store, and a volume of `size` zero bytes.
    pub(crate) fn new(fs: Arc<dyn Fs>, root: &Path, size: u64) -> Self {
        let rig = Self { fs, root: root.to_owned() };
        LocalStore::init(rig.fs.clone(), &rig.store_dir(), &SystemClock).unwrap();
        let info = VolumeInfo {
            id: VolumeId::from_bytes([7; 16]),
            name: IMAGE.parse().unwrap(),
            size,
            base: None,
            home: String::new(),
            lazy_base: None,
            lineage: None,
            created: Timestamp(1),
        };
        LocalOverlay::create(rig.fs.clone(), &rig.volume_dir(), info).unwrap();
        rig
    }

    fn store_dir(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn volume_dir(&self) -> PathBuf {
        self.root.join("volume")
    }

    /// A handle on the store, as a process of its own has it: small packs, and a small cache in front.
    pub(crate) fn store(&self) -> Store {
        let options = LocalStoreOptions { pack_target: 256 << 10, ..LocalStoreOptions::default() };
        let local = LocalStore::open_with(self.fs.clone(), &self.store_dir(), options).unwrap().into_store();
        let cache = Arc::new(MemoryCache::new(1 << 20));
        Store { chunks: Arc::new(Cached::new(cache, local.chunks)), index: local.index }
    }

    pub(crate) fn overlay(&self) -> LocalOverlay {
        LocalOverlay::open(self.fs.clone(), &self.volume_dir(), None).unwrap()
    }

    /// The volume, through `home`.
    pub(crate) async fn open(&self, home: Store) -> Opened {
        let overlay = Arc::new(FailingOverlay { inner: self.overlay(), fail: Mutex::default() });
        let nodes = Arc::new(NodeCache::new(home.chunks.clone(), 1 << 20));
        let info = overlay.inner.record().info;
        let base = match info.base {
            Some(id) => Base::Index(IndexBase::new(open_checkpoint(&nodes, id).await.unwrap().1)),
            None => Base::Empty,
        };
        let volume = Volume::writable("the volume", overlay.clone() as _, base, info.base, info.size);
        let home = Home { store: home, nodes, clock: Arc::new(SystemClock) };
        Opened { home, overlay, volume }
    }

    /// All that a checkpoint holds, through a handle of its own.
    pub(crate) async fn content(&self, id: CheckpointId) -> Vec<u8> {
        let nodes = Arc::new(NodeCache::new(self.store().chunks, 1 << 20));
        let (checkpoint, index) = open_checkpoint(&nodes, id).await.unwrap();
        whole(&Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size)).await
    }

    /// The image's history, oldest first.
    pub(crate) async fn history(&self) -> Vec<CheckpointId> {
        let record = self.store().index.read_image(&image()).await.unwrap();
        let history = record.map(|found| found.value.history).unwrap_or_default();
        history.iter().rev().map(|entry| entry.checkpoint).collect()
    }

    /// Asserts that the store is whole.
    pub(crate) async fn assert_whole(&self) -> CheckReport {
        let report = check(&self.store(), Depth::Hashes, &Job::default()).await.unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        report
    }
}

pub(crate) fn image() -> ImageName {
    IMAGE.parse().unwrap()
}

/// A volume that is open.
pub(crate) struct Opened {
    pub(crate) home: Home,
    pub(crate) overlay: Arc<FailingOverlay>,
    pub(crate) volume: Volume,
}

impl Opened {
    pub(crate) async fn checkpoint(&self) -> Result<CheckpointId> {
        let options = CheckpointOptions {
            owner: VolumeId::from_bytes([7; 16]),
            image: image(),
            lineage: None,
            labels: Default::default(),
            ingest: IngestOptions::default(),
            append: Append::Any,
        };
        let made = self.volume.checkpoint(&self.home, &options, &Job::default()).await?;
        Ok(made.checkpoint)
    }
}

/// All bytes of a disk, by odd pieces and either way of reading.
pub(crate) async fn whole(volume: &Volume) -> Vec<u8> {
    let mut all = vec![0xEE; volume.size() as usize];
    for (n, piece) in all.chunks_mut(1_000_003).enumerate() {
        let at = n as u64 * 1_000_003;
        match volume.try_read(at, piece) {
            Some(read) => read.unwrap(),
            None => volume.read(at, piece).await.unwrap(),
        }
    }
    all
}

/// Which changes of the volume's record fail, as on a full disk: one in so many.
#[derive(Debug)]
pub(crate) struct FailingOverlay {
    pub(crate) inner: LocalOverlay,
    fail: Mutex<Option<(Rng, usize)>>,
}

impl FailingOverlay {
    pub(crate) fn fail(&self, one_in: Option<usize>, seed: u64) {
        *self.fail.lock() = one_in.map(|one_in| (Rng::new(seed), one_in));
    }

    fn draw(&self) -> Result<()> {
        let hit = self.fail.lock().as_mut().is_some_and(|(rng, one_in)| rng.below(*one_in) == 0);
        if hit {
            return Err(Error::new(ErrorKind::NoSpace, "injected: the record can't be saved"));
        }
        Ok(())
    }
}

#[async_trait]
impl Overlay for FailingOverlay {
    fn layers(&self) -> Vec<Arc<dyn Layer>> {
        self.inner.layers()
    }

    async fn push_layer(&self) -> Result<Arc<dyn Layer>> {
        self.draw()?;
        self.inner.push_layer().await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await
    }

    async fn rebase(&self, base: CheckpointId, count: usize) -> Result<()> {
        self.draw()?;
        self.inner.rebase(base, count).await
    }

    async fn grow(&self, size: u64) -> Result<()> {
        self.inner.grow(size).await
    }

    fn is_durable(&self) -> bool {
        true
    }
}
