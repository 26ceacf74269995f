//! Imports, tags, pins and removals of images: a name leads to a whole disk or is not there.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, ImageName, Result, Store,
    chunking::{DiskSource, Next},
    index::NodeCache,
    ops::{
        Depth, ImageRef, ImportOptions, Job, check, import, open_checkpoint, pin, remove, resolve, tag, unpin,
    },
    testing::{FixedClock, Rng},
    types::VolumeId,
    volume::{Base, IndexBase, Volume},
};
use gabion_store_local::{
    fs::{CrashFs, CrashPoint, FaultFs, Fs, FsFault, MemFs, On},
    store::LocalStore,
};
use parking_lot::Mutex;

use super::{budget::Budget, rig::whole, survive::survive_each};

const STORE: &str = "/store";
const STEPS: usize = 10;
const IMAGES: usize = 8;

/// What the newest checkpoint of an image may be: as it was acknowledged last, and as it was asked for since.
type Model = BTreeMap<ImageName, Vec<Option<Arc<Vec<u8>>>>>;

/// A disk in memory.
struct Disk(Arc<Vec<u8>>, usize);

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.0.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let len = buf.len().min(self.0.len() - self.1);
        buf[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
        self.1 += len;
        Ok(if len == 0 { Next::End } else { Next::Data(len) })
    }
}

/// A disk of which some blocks are those of all others.
fn disk(rng: &mut Rng) -> Arc<Vec<u8>> {
    let blocks = 4 + rng.below(20);
    let mut bytes = Vec::new();
    for block in 0..blocks {
        let seed = if rng.below(2) == 0 { block as u64 } else { rng.next() };
        bytes.extend(Rng::new(seed).bytes(BLOCK_SIZE));
    }
    bytes.truncate(bytes.len() - rng.below(1000));
    Arc::new(bytes)
}

fn open(fs: Arc<dyn Fs>) -> Result<Store> {
    LocalStore::open(fs, Path::new(STORE)).map(LocalStore::into_store)
}

async fn newest(store: &Store, name: &ImageName) -> Result<Option<Vec<u8>>> {
    if store.index.read_image(name).await?.is_none() {
        return Ok(None);
    }
    let entry = resolve(store, &ImageRef::from(name.clone())).await?;
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let (checkpoint, index) = open_checkpoint(&nodes, entry.checkpoint).await?;
    whole(&Volume::read_only("an image", Base::Index(IndexBase::new(index)), checkpoint.size)).await.map(Some)
}

struct World {
    crash: CrashFs,
    model: Arc<Mutex<Model>>,
    points: Arc<Mutex<Vec<(CrashPoint, Model)>>>,
    rng: Rng,
}

impl World {
    fn new(seed: u64) -> Self {
        let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), seed).unwrap();
        LocalStore::init(Arc::new(crash.clone()), Path::new(STORE), &FixedClock::default()).unwrap();
        let names = ["a", "b", "c"].map(|name| (name.parse().unwrap(), vec![None]));
        let world = Self {
            crash,
            model: Arc::new(Mutex::new(names.into())),
            points: Arc::default(),
            rng: Rng::new(seed),
        };
        let (model, points) = (world.model.clone(), world.points.clone());
        world.crash.observe(move |point| points.lock().push((point, model.lock().clone())));
        world
    }

    fn asked(&self, name: &ImageName, content: Option<Arc<Vec<u8>>>) {
        self.model.lock().get_mut(name).unwrap().push(content);
    }

    fn acknowledged(&self, name: &ImageName) {
        let mut model = self.model.lock();
        let may_be = model.get_mut(name).unwrap();
        may_be.drain(..may_be.len() - 1);
    }

    async fn step(&mut self, store: &Store) -> Result<()> {
        let clock = FixedClock::default();
        let names: Vec<ImageName> = self.model.lock().keys().cloned().collect();
        let (name, other) = (&names[self.rng.below(3)], &names[self.rng.below(3)]);
        let there = store.index.read_image(name).await?.is_some();
        let owner = VolumeId::from_bytes([1; 16]);
        match self.rng.below(8) {
            0 if there => {
                self.asked(name, None);
                remove(store, name).await?;
                self.acknowledged(name);
            }
            1 | 2 if there && store.index.read_image(other).await?.is_none() => {
                let content = newest(store, name).await?.map(Arc::new);
                self.asked(other, content);
                tag(store, &clock, &ImageRef::from(name.clone()), other).await?;
                self.acknowledged(other);
            }
            3 if there => {
                let entry = resolve(store, &ImageRef::from(name.clone())).await?;
                pin(store, &clock, owner, entry.checkpoint).await?;
            }
            4 => unpin(store, owner, None).await?,
            _ => {
                let content = disk(&mut self.rng);
                self.asked(name, Some(content.clone()));
                let source = Disk(content, 0);
                import(store, &clock, name, source, ImportOptions::default(), &Job::default()).await?;
                self.acknowledged(name);
            }
        }
        Ok(())
    }
}

async fn survive(fs: Arc<dyn Fs>, model: &Model) -> Result<(), String> {
    let store = open(fs).map_err(|e| e.report())?;
    for (name, may_be) in model {
        let found = newest(&store, name).await.map_err(|e| format!("image {name}: {}", e.report()))?;
        if !may_be.iter().any(|may_be| may_be.as_deref() == found.as_ref()) {
            return Err(format!("image {name} is none of {} that it may be", may_be.len()));
        }
    }
    let report = check(&store, Depth::Hashes, &Job::default()).await.map_err(|e| e.report())?;
    if report.damage.is_empty() { Ok(()) } else { Err(format!("{:?}", report.damage)) }
}

/// Disks are imported, tagged, pinned and removed by processes that are killed at any operation; then the power fails.
/// Row 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_whole_or_not_there() {
    let mut budget = Budget::new("images_are_whole_or_not_there", 5);
    while let Some(seed) = budget.round() {
        let mut world = World::new(seed);
        let start = |world: &World| {
            let faults = FaultFs::new(Arc::new(world.crash.clone()));
            (open(Arc::new(faults.clone())).unwrap(), faults)
        };
        let (mut store, mut faults) = start(&world);
        for _ in 0..STEPS {
            if world.rng.below(3) == 0 {
                let after = world.rng.below(30) as u64;
                faults.fail(On::change().skip(after).always(), FsFault::EIO);
                while world.step(&store).await.is_ok() {}
                (store, faults) = start(&world);
            } else {
                world.step(&store).await.unwrap();
            }
        }
        drop((store, faults));
        world.crash.unobserve();
        let mut points = std::mem::take(&mut *world.points.lock());
        points.push((world.crash.crash(), world.model.lock().clone()));
        survive_each(points, &mut world.rng, &mut budget, IMAGES, survive).await;
    }
    budget.end();
}
