//! What holds copies only: the disk cache, and checkpoints staged beside a home store that is out of reach.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ErrorKind, Result, Store,
    index::NodeCache,
    ops::{Job, open_checkpoint},
    stores::Stack,
    testing::{FixedClock, Rng},
    types::id_of,
    volume::{Base, Home, IndexBase, Volume},
};
use gabion_store_local::{
    cache::DiskCache,
    fs::{CrashFs, Fs, MemFs},
    store::LocalStore,
};

use super::{
    budget::Budget,
    life::{Life, Process},
    rig::{self, whole},
    survive::{survive, survive_all},
};

const KIND: ChunkKind = ChunkKind::Data;
/// In segments of 64 KiB.
const CAPACITY: u64 = 256 << 10;
const STAGED: &str = "/volume/staged";

fn entry(number: u64) -> (ChunkId, Bytes) {
    let mut rng = Rng::new(number);
    let len = 1 + rng.below(8000);
    let bytes = Bytes::from(rng.bytes(len));
    (id_of(KIND, &bytes), bytes)
}

/// Nothing of a cache is ever synced: what a power failure leaves of it is right bytes or a miss, and a cache.
/// Row 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_cache_is_right_or_misses() {
    let mut budget = Budget::new("a_disk_cache_is_right_or_misses", 4);
    let open = |fs: Arc<dyn Fs>| DiskCache::open(fs, Path::new("/cache"), CAPACITY).unwrap();
    let (mut hits, mut misses) = (0, 0);
    while let Some(seed) = budget.round_until(hits > 0 && misses > 0) {
        let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), seed).unwrap();
        let points = crash.record();
        let mut rng = Rng::new(seed);
        for start in 0..3 {
            let cache = open(Arc::new(crash.clone()));
            for round in 0..5 {
                let first = (start * 5 + round) * 8;
                cache.fill(KIND, (first..first + 8).map(entry).collect());
                cache.settled().await;
            }
        }
        crash.unobserve();
        for point in points.take() {
            let mut count = 0;
            for image in point.images(rng.next(), 4) {
                count += 1;
                let what = image.to_string();
                let cache = open(image.into_fs());
                let wanted: Vec<_> = (0..120).map(entry).collect();
                let ids: Vec<_> = wanted.iter().map(|(id, _)| *id).collect();
                for (found, (_, bytes)) in cache.get(KIND, &ids).await.into_iter().zip(&wanted) {
                    match found {
                        Some(found) => {
                            assert!(found == *bytes, "{what}");
                            hits += 1;
                        }
                        None => misses += 1,
                    }
                }
                cache.fill(KIND, vec![entry(1000)]);
                cache.settled().await;
                assert!(cache.get(KIND, &[entry(1000).0]).await[0].is_some(), "{what}: it takes nothing");
            }
            budget.point(count);
        }
    }
    budget.end();
}

/// What a staged checkpoint is read and written through: the store beside, then home.
fn through(beside: &Store, home: &Home) -> Result<Home> {
    let stack = Stack::builder()
        .tier("staged", beside.chunks.clone())
        .tier("home", home.store.chunks.clone())
        .write_to("staged")?;
    let chunks = Arc::new(stack);
    let nodes = Arc::new(NodeCache::new(chunks.clone(), 1 << 20));
    let store = Store { chunks, index: beside.index.clone() };
    Ok(Home { store, nodes, clock: home.clock.clone() })
}

async fn stage(life: &Life, process: &Process) -> Vec<u8> {
    let fs: Arc<dyn Fs> = Arc::new(process.faults.clone());
    let content = whole(&process.opened.volume).await.unwrap();
    let mark = life.model.lock().disk.mark();
    let (home, options, job) = (&process.opened.home, rig::options(), Job::default());
    let frozen = process.opened.volume.freeze(home, &options, &job).await.unwrap();
    life.model.lock().disk.promise(&mark);
    LocalStore::destroy(&*fs, Path::new(STAGED)).unwrap();
    let beside = LocalStore::init(fs, Path::new(STAGED), &FixedClock::default()).unwrap().into_store();
    frozen.stage(&through(&beside, home).unwrap(), &options, &job).await.unwrap();
    content
}

/// A checkpoint is staged beside its home store, sent home by the next one, and removed: the volume keeps what it
/// promised; the store beside is whole, or counts for nothing and can be made anew. Row 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_staged_checkpoint_is_whole_or_counts_for_nothing() {
    let mut budget = Budget::new("a_staged_checkpoint_is_whole_or_counts_for_nothing", 5);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, 30_000);
        let process = life.start().await;
        for _ in 0..4 {
            life.request(&process).await.unwrap();
        }
        life.checkpoint(&process).await.unwrap();
        for _ in 0..4 {
            life.request(&process).await.unwrap();
        }
        let content = stage(&life, &process).await;
        let staged = life.crash.crash();
        life.request(&process).await.unwrap();
        life.checkpoint(&process).await.unwrap();
        LocalStore::destroy(&process.faults, Path::new(STAGED)).unwrap();
        drop(process);

        // Once it was reported it is there.
        let model = life.model.lock().clone();
        let mut count = 0;
        for image in staged.images(life.rng.next(), 6) {
            count += 1;
            let what = image.to_string();
            let fs = image.into_fs();
            let beside = LocalStore::open(fs.clone(), Path::new(STAGED)).unwrap().into_store();
            let opened = rig::open(&fs).await.unwrap();
            let record = beside.index.read_image(&rig::image()).await.unwrap().expect(&what).value;
            let through = through(&beside, &opened.home).unwrap();
            let (checkpoint, index) =
                open_checkpoint(&through.nodes, record.history[0].checkpoint).await.unwrap();
            let disk = Volume::read_only("staged", Base::Index(IndexBase::new(index)), checkpoint.size);
            assert!(whole(&disk).await.unwrap() == content, "{what}");
        }
        budget.point(count);

        // At each moment it opens or counts for nothing, and nothing of the volume rests on it.
        let points = life.points.lock().clone();
        for (point, model) in points {
            let mut count = 0;
            for image in point.images(life.rng.next(), 2) {
                count += 1;
                let what = image.to_string();
                let fs = image.into_fs();
                match LocalStore::open(fs.clone(), Path::new(STAGED)) {
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => {}
                    Err(e) => panic!("{what}: {}", e.report()),
                }
                LocalStore::destroy(&*fs, Path::new(STAGED)).unwrap();
                LocalStore::init(fs.clone(), Path::new(STAGED), &FixedClock::default()).unwrap();
                survive(&fs, &model).await.unwrap_or_else(|why| panic!("{what}: {why}"));
            }
            budget.point(count);
        }
        drop(model);
        survive_all(&mut life, &mut budget, 4).await;
    }
    budget.end();
}
