//! A machine whose power can fail, the store that is a volume's home, and a process that has both open.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use gabion_store_core::{
    BlockDevice, CheckpointId, ImageName, Result, Store,
    clock::Timestamp,
    index::NodeCache,
    ops::{Depth, IngestOptions, Job, check, open_checkpoint},
    replicate::{FlushRemote, Replicator},
    stores::{Cached, MemoryCache, Stack},
    testing::{FixedClock, Rng},
    types::VolumeId,
    volume::{Append, Base, CheckpointOptions, Home, IndexBase, Volume},
};
use gabion_store_local::{
    fs::{CrashFs, CrashImage, FaultFs, Fs, MemFs},
    overlay::{LocalOverlay, record::VolumeInfo},
    store::{LocalStore, LocalStoreOptions},
};

use super::{facts::Facts, far::Far};

/// The image that the volume is replicated to.
pub(crate) const IMAGE: &str = "vm";
const STORE: &str = "/store";
const VOLUME: &str = "/volume";
pub(crate) const STAGED: &str = "/volume/staged";
const MEMORY: usize = 1 << 20;

/// A machine, and what is outside of it.
pub(crate) struct World {
    /// Faults of the disk: below what knows how a crash ends.
    pub(crate) below: FaultFs,
    pub(crate) crash: CrashFs,
    /// The home store, if it is far away; it outlives the machine.
    pub(crate) far: Option<Far>,
    pub(crate) clock: Arc<FixedClock>,
}

/// A process that has the volume open.
pub(crate) struct Process {
    /// Faults of its system calls. When it is killed, nothing that it still does has an effect.
    pub(crate) faults: FaultFs,
    pub(crate) home: Home,
    pub(crate) volume: Volume,
    /// What clients see.
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) replicator: Arc<Replicator>,
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

pub(crate) fn options(image: &str, owner: u8, append: Append) -> CheckpointOptions {
    CheckpointOptions {
        owner: VolumeId::from_bytes([owner; 16]),
        image: name(image),
        lineage: None,
        labels: Default::default(),
        ingest: IngestOptions::default(),
        append,
    }
}

impl World {
    /// A machine with a volume of zeros, and its home.
    pub(crate) fn new(seed: u64, size: usize, far: bool, facts: &Facts) -> Self {
        let clock = Arc::new(FixedClock::new(Timestamp(1000)));
        let far = far.then(|| Far::new(Rng::new(seed), clock.clone(), facts));
        let below = FaultFs::new(Arc::new(MemFs::new()));
        let crash = CrashFs::new(Arc::new(below.clone()), Path::new("/"), seed).unwrap();
        let world = Self { below, crash, far, clock };
        let info = VolumeInfo {
            id: VolumeId::from_bytes([7; 16]),
            name: name(IMAGE),
            size: size as u64,
            base: None,
            home: String::new(),
            lazy_base: None,
            lineage: None,
            created: Timestamp(1),
        };
        if world.far.is_none() {
            LocalStore::init(world.fs(), Path::new(STORE), &*world.clock).unwrap();
        }
        LocalOverlay::create(world.fs(), Path::new(VOLUME), info).unwrap();
        world
    }

    /// What a machine finds when it starts again.
    pub(crate) fn restarted(&self, image: CrashImage, seed: u64) -> Self {
        let below = FaultFs::new(image.into_fs());
        let crash = CrashFs::new(Arc::new(below.clone()), Path::new("/"), seed).unwrap();
        Self { below, crash, far: self.far.clone(), clock: self.clock.clone() }
    }

    pub(crate) fn fs(&self) -> Arc<dyn Fs> {
        Arc::new(self.crash.clone())
    }

    fn open_store(&self, fs: Arc<dyn Fs>) -> Result<Store> {
        let options = LocalStoreOptions {
            pack_target: 48 << 10,
            page_cache: 32 << 10,
            clock: self.clock.clone(),
            ..LocalStoreOptions::default()
        };
        Ok(LocalStore::open_with(fs, Path::new(STORE), options)?.into_store())
    }

    /// The home store as another host sees it, without faults.
    pub(crate) fn truth(&self) -> Result<Store> {
        match &self.far {
            Some(far) => far.truth(),
            None => self.open_store(self.fs()),
        }
    }

    /// A process starts, and opens the volume.
    pub(crate) async fn start(&self, flushes_home: bool, take_over: bool) -> Result<Process> {
        let faults = FaultFs::new(self.fs());
        let fs: Arc<dyn Fs> = Arc::new(faults.clone());
        let store = match &self.far {
            Some(far) => far.open().await?,
            None => self.open_store(fs.clone())?,
        };
        let chunks = Arc::new(Cached::new(Arc::new(MemoryCache::new(MEMORY)), store.chunks.clone()));
        let store = Store { chunks: chunks.clone(), index: store.index };
        let nodes = Arc::new(NodeCache::new(chunks, MEMORY));
        let home = Home { store, nodes, clock: self.clock.clone() };
        let overlay = LocalOverlay::open(fs, Path::new(VOLUME), None)?;
        let info = overlay.record().info;
        let base = match info.base {
            Some(id) => Base::Index(IndexBase::new(open_checkpoint(&home.nodes, id).await?.1)),
            None => Base::Empty,
        };
        let volume = Volume::writable("the volume", Arc::new(overlay), base, info.base, info.size);
        let options = options(IMAGE, 7, Append::Any);
        let every = Duration::from_secs(30);
        let replicator = Replicator::new(volume.clone(), home.clone(), options, every).take_over(take_over);
        let replicator = Arc::new(replicator);
        let device: Arc<dyn BlockDevice> = if flushes_home {
            let local = Arc::new(AtomicBool::new(false));
            Arc::new(FlushRemote::new(Arc::new(volume.clone()), replicator.clone(), local))
        } else {
            Arc::new(volume.clone())
        };
        Ok(Process { faults, home, volume, device, replicator })
    }
}

/// Everything that a checkpoint of a store holds, read by somebody who has nothing of it yet.
pub(crate) async fn content(store: &Store, id: CheckpointId) -> Result<Vec<u8>> {
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), MEMORY));
    let (checkpoint, index) = open_checkpoint(&nodes, id).await?;
    whole(&Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size)).await
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

/// Whether everything in a store is there and right.
pub(crate) async fn assert_whole(store: &Store) -> Result<(), String> {
    match check(store, Depth::Hashes, &Job::default()).await {
        Ok(report) if report.damage.is_empty() => Ok(()),
        Ok(report) => Err(format!("the store is damaged: {:?}", report.damage)),
        Err(e) => Err(format!("the store can't be checked: {}", e.report())),
    }
}

/// What a staged checkpoint is read and written through: the store beside, then home.
pub(crate) fn through(beside: &Store, home: &Home) -> Result<Home> {
    let stack = Stack::builder()
        .tier("staged", beside.chunks.clone())
        .tier("home", home.store.chunks.clone())
        .write_to("staged")?;
    let chunks = Arc::new(stack);
    let nodes = Arc::new(home.nodes.over(chunks.clone()));
    let store = Store { chunks, index: beside.index.clone() };
    Ok(Home { store, nodes, clock: home.clock.clone() })
}
