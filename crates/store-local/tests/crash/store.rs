//! Stores: entries that were promised, records changed by compare-and-swap, and processes that die side by side.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    CheckpointId, ChunkId, ChunkKind, ChunkStore as _, ErrorKind, ImageName, IndexStore as _, Result,
    clock::Timestamp,
    format::{codec::Compression, image_record::HistoryEntry, image_record::ImageRecord},
    testing::{FixedClock, Rng},
    types::{WriteId, id_of},
};
use gabion_store_local::{
    fs::{CrashFs, CrashPoint, FaultFs, Fs, FsFault, FsOp, MemFs, On},
    store::{LocalStore, LocalStoreOptions},
};
use parking_lot::Mutex;

use super::{budget::Budget, survive::survive_each};

const KIND: ChunkKind = ChunkKind::Data;
const STORE: &str = "/store";
const STEPS: usize = 30;
const IMAGES: usize = 10;
const NAMES: [&str; 2] = ["a", "b"];

/// What is known of a store.
#[derive(Clone, Default)]
struct Model {
    /// Entries that a sync promised to keep.
    promised: BTreeSet<u64>,
    /// Entries that were ever put.
    put: u64,
    /// What each image's record may be: the last one that was acknowledged, and those that were tried since.
    images: [Vec<Option<WriteId>>; 2],
}

/// A handle, as a process of its own has it.
struct Process {
    faults: FaultFs,
    store: LocalStore,
    /// Entries that it put or reported present, which its next sync is about.
    owes: BTreeSet<u64>,
    /// It met a fault.
    failed: bool,
}

struct World {
    crash: CrashFs,
    model: Arc<Mutex<Model>>,
    points: Arc<Mutex<Vec<(CrashPoint, Model)>>>,
    rng: Rng,
}

fn entry(number: u64) -> (ChunkId, Bytes) {
    let mut rng = Rng::new(number);
    let len = 100 + rng.below(3000);
    let bytes = Bytes::from(rng.bytes(len));
    (id_of(KIND, &bytes), bytes)
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<ChunkId> {
    numbers.into_iter().map(|number| entry(number).0).collect()
}

fn name(at: usize) -> ImageName {
    NAMES[at].parse().unwrap()
}

fn open(fs: Arc<dyn Fs>) -> Result<LocalStore> {
    let options = LocalStoreOptions {
        compression: Compression::None,
        pack_target: 16 << 10,
        page_cache: 64 << 10,
        clock: Arc::new(FixedClock::default()),
    };
    LocalStore::open_with(fs, Path::new(STORE), options)
}

impl World {
    fn new(seed: u64) -> Self {
        let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), seed).unwrap();
        LocalStore::init(Arc::new(crash.clone()), Path::new(STORE), &FixedClock::default()).unwrap();
        let model = Model { images: [vec![None], vec![None]], ..Model::default() };
        let world =
            Self { crash, model: Arc::new(Mutex::new(model)), points: Arc::default(), rng: Rng::new(seed) };
        let (model, points) = (world.model.clone(), world.points.clone());
        world.crash.observe(move |point| points.lock().push((point, model.lock().clone())));
        world
    }

    fn start(&self) -> Process {
        let faults = FaultFs::new(Arc::new(self.crash.clone()));
        let store = open(Arc::new(faults.clone())).unwrap();
        Process { faults, store, owes: BTreeSet::new(), failed: false }
    }

    async fn step(&mut self, process: &mut Process) -> Result<()> {
        match self.rng.below(8) {
            0..=2 => self.put(process).await,
            3 | 4 => self.sync(process).await,
            5 => self.ask(process).await,
            _ => self.swap(process).await,
        }
    }

    async fn put(&mut self, process: &mut Process) -> Result<()> {
        let first = {
            let mut model = self.model.lock();
            model.put += 6;
            model.put - 6
        };
        process.store.put(KIND, (first..first + 6).map(entry).collect()).await?;
        process.owes.extend(first..first + 6);
        Ok(())
    }

    async fn sync(&mut self, process: &mut Process) -> Result<()> {
        process.store.sync().await?;
        self.model.lock().promised.append(&mut process.owes);
        Ok(())
    }

    /// What is there by now, whoever put it, is what the next sync is about, too.
    async fn ask(&mut self, process: &mut Process) -> Result<()> {
        let put = self.model.lock().put;
        let answers = process.store.contains(KIND, &ids(0..put)).await?;
        process.owes.extend((0..put).zip(answers).filter_map(|(number, there)| there.then_some(number)));
        Ok(())
    }

    /// Writes or removes an image's record.
    async fn swap(&mut self, process: &mut Process) -> Result<()> {
        let at = self.rng.below(NAMES.len());
        let before = process.store.read_image(&name(at)).await?;
        let write_id = WriteId::random()?;
        let to = (before.is_none() || self.rng.below(4) > 0).then_some(write_id);
        self.model.lock().images[at].push(to);
        let expected = before.as_ref().map(|found| &found.version);
        match (to, expected) {
            (None, Some(expected)) => process.store.remove_image(&name(at), expected).await?,
            _ => {
                let checkpoint = CheckpointId::from_bytes([at as u8; 32]);
                let record = ImageRecord {
                    name: name(at),
                    history: vec![HistoryEntry { checkpoint, size: 4096, created: Timestamp(1) }],
                    maps: Vec::new(),
                    boot_trace: None,
                    writer_epoch: 0,
                    write_id,
                };
                process.store.write_image(&record, expected).await?;
            }
        }
        // Acknowledged: nothing before it may come back.
        self.model.lock().images[at] = vec![to];
        Ok(())
    }
}

/// Opens the store in an image: what was promised is there, all else is right or absent.
async fn survive(fs: Arc<dyn Fs>, model: &Model) -> Result<(), String> {
    let store = open(fs).map_err(|e| format!("it does not open: {}", e.report()))?;
    let found = store.get(KIND, &ids(0..model.put)).await;
    for (number, found) in (0..model.put).zip(found) {
        match found {
            Ok(bytes) if bytes == entry(number).1 => {}
            Ok(_) => return Err(format!("entry {number} is another")),
            Err(e) if e.kind() == ErrorKind::NotFound && !model.promised.contains(&number) => {}
            Err(e) => return Err(format!("entry {number}: {}", e.report())),
        }
    }
    for (at, may_be) in model.images.iter().enumerate() {
        let found = store.read_image(&name(at)).await.map_err(|e| e.report())?;
        let found = found.map(|found| found.value.write_id);
        if !may_be.contains(&found) {
            return Err(format!("the record of image {} is {found:?}, not of {may_be:?}", NAMES[at]));
        }
    }
    // It goes on: what is missing is stored again.
    store.put(KIND, (0..model.put).map(entry).collect()).await.map_err(|e| e.report())?;
    store.sync().await.map_err(|e| e.report())?;
    let found = store.get(KIND, &ids(0..model.put)).await;
    match found.into_iter().collect::<Result<Vec<_>>>() {
        Ok(_) => Ok(()),
        Err(e) => Err(format!("stored again: {}", e.report())),
    }
}

async fn survive_all(world: &mut World, budget: &mut Budget) {
    world.crash.unobserve();
    let mut points = std::mem::take(&mut *world.points.lock());
    points.push((world.crash.crash(), world.model.lock().clone()));
    survive_each(points, &mut world.rng, budget, IMAGES, survive).await;
}

/// Two processes put, ask, sync and swap records in one store, are killed at any operation, and meet failing
/// syncs; then the power fails. A name in a folder never leads to a file that is not there, a record is old or new.
/// Row 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_two_processes_keeps_what_it_promised() {
    let mut budget = Budget::new("a_store_of_two_processes_keeps_what_it_promised", 10);
    while let Some(seed) = budget.round() {
        let mut world = World::new(seed);
        let mut processes = [world.start(), world.start()];
        for _ in 0..STEPS {
            let process = &mut processes[world.rng.below(2)];
            match world.rng.below(6) {
                0 => {
                    let after = world.rng.below(16) as u64;
                    process.faults.fail(On::change().skip(after).always(), FsFault::EIO);
                    while world.step(process).await.is_ok() {}
                    *process = world.start();
                }
                1 => {
                    let op = if world.rng.below(2) == 0 { FsOp::Sync } else { FsOp::SyncDir };
                    process.faults.fail(On::op(op).skip(world.rng.below(4) as u64), FsFault::EIO);
                    for _ in 0..6 {
                        if world.step(process).await.is_err() {
                            // It is told what to store again, or begins anew.
                            *process = world.start();
                            break;
                        }
                    }
                    process.faults.heal();
                    process.failed = true;
                }
                _ => match world.step(process).await {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::Conflict => {}
                    // What failed in the background is told now.
                    Err(e) if process.failed => {
                        assert_eq!(e.kind(), ErrorKind::Unavailable, "{}", e.report());
                        *process = world.start();
                    }
                    Err(e) => panic!("{}", e.report()),
                },
            }
        }
        drop(processes);
        survive_all(&mut world, &mut budget).await;
    }
    budget.end();
}
