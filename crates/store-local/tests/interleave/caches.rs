//! Reads of entries that caches fetch, keep and evict meanwhile.

use std::{
    collections::HashSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    store::Synced,
    stores::{Cached, ENTRY_OVERHEAD, MemoryCache, MemoryStore},
    sync::{shuttle::future::yield_now, spawn},
    testing::{FixedClock, Rng},
    types::id_of,
};
use gabion_store_local::{
    cache::{DiskCache, DiskCached},
    fs::{Fs, MemFs},
};

use super::{explore::explore, pieces::Pieces, requests::go_away_after};

const KIND: ChunkKind = ChunkKind::Data;
/// Entries of the store, more than any cache here has room for. Of all lengths, so that one takes the place of several.
const ENTRIES: usize = 14;
const READERS: usize = 3;
const READS: usize = 4;
/// Room for some three entries.
const MEMORY: usize = 10_000;
/// Four segments of some three entries; one is always being filled and one is spare.
const DISK: u64 = 32_000;

fn entry(number: usize) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![number as u8 + 1; 400 * (number + 1)]);
    (id_of(KIND, &bytes), bytes)
}

/// A store that takes its time, fails at times, and asserts that nobody asks it twice at once for what can be asked
/// once.
#[derive(Debug)]
struct Far {
    inner: MemoryStore,
    in_the_air: Arc<Mutex<HashSet<ChunkId>>>,
    /// The fails of so many more requests.
    failures: AtomicUsize,
    single_flight: bool,
}

/// A request that is under way, until it ends or is given up.
struct InTheAir(Arc<Mutex<HashSet<ChunkId>>>, Vec<ChunkId>);

impl Drop for InTheAir {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap();
        for id in &self.1 {
            all.remove(id);
        }
    }
}

impl Far {
    async fn new(failures: usize, single_flight: bool) -> Self {
        let inner = MemoryStore::new(&FixedClock::default()).unwrap();
        inner.put(KIND, (0..ENTRIES).map(entry).collect()).await.unwrap();
        Self { inner, in_the_air: Arc::default(), failures: failures.into(), single_flight }
    }
}

#[async_trait]
impl ChunkStore for Far {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let _under_way = {
            let mut all = self.in_the_air.lock().unwrap();
            for id in ids {
                assert!(all.insert(*id) || !self.single_flight, "an entry is fetched twice at once");
            }
            InTheAir(self.in_the_air.clone(), ids.to_vec())
        };
        yield_now().await;
        let fewer = |left: usize| left.checked_sub(1);
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_ok() {
            return vec![Err(Error::new(ErrorKind::Unavailable, "injected")); ids.len()];
        }
        let answers = self.inner.get(kind, ids).await;
        yield_now().await;
        answers
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.inner.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.inner.contains(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        self.inner.sync().await
    }
}

/// What a reader asks for at a time, and after how many polls he goes away, if he does. Entries come twice at times.
type Read = (Vec<usize>, Option<usize>);

fn reads(rng: &mut Rng) -> Vec<Read> {
    let one = |rng: &mut Rng| {
        let numbers = (0..1 + rng.below(3)).map(|_| rng.below(ENTRIES)).collect();
        (numbers, (rng.below(4) == 0).then(|| 1 + rng.below(4)))
    };
    (0..READS).map(|_| one(rng)).collect()
}

/// Reads, and asserts that each answer is the entry asked for, or an error of the store below.
async fn reader(store: Arc<dyn ChunkStore>, memory: Arc<MemoryCache>, reads: Vec<Read>, failures: usize) {
    for (numbers, polls) in reads {
        let asked: Vec<_> = numbers.iter().map(|&number| entry(number)).collect();
        let ids: Vec<_> = asked.iter().map(|(id, _)| *id).collect();
        let read = async {
            if let Some(bytes) = store.try_get(KIND, &ids[0]) {
                assert_eq!(bytes, asked[0].1);
            }
            let answers = store.get(KIND, &ids).await;
            assert_eq!(answers.len(), asked.len());
            for (answer, (id, bytes)) in answers.into_iter().zip(&asked) {
                match answer {
                    Ok(found) => assert!(found == *bytes, "{id} was answered by something else"),
                    Err(e) => assert!(failures > 0 && e.kind() == ErrorKind::Unavailable, "{}", e.report()),
                }
            }
        };
        match polls {
            None => read.await,
            Some(polls) => go_away_after(polls, read).await,
        }
        let stats = memory.stats();
        assert!(stats.bytes <= memory.capacity(), "{stats:?}");
    }
}

/// Readers at once, in turns of each of the stores.
async fn read_all(stores: &[Arc<dyn ChunkStore>], memory: &Arc<MemoryCache>, rng: &mut Rng, failures: usize) {
    let readers: Vec<_> = (0..READERS)
        .map(|n| spawn(reader(stores[n % stores.len()].clone(), memory.clone(), reads(rng), failures)))
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
}

/// Asserts that a memory's account is right.
fn assert_accounted(memory: &MemoryCache) {
    let held = (0..ENTRIES).filter_map(|number| memory.probe(KIND, &entry(number).0));
    assert_eq!(held.map(|bytes| bytes.len() + ENTRY_OVERHEAD).sum::<usize>(), memory.stats().bytes);
}

/// Entries that memory evicts while others wait for them, fetch them or give up: right bytes or the store's error,
/// one request at a time for each, none left behind, and never more bytes than allowed.
#[test]
fn memory_evicts_what_others_read() {
    explore("memory_evicts_what_others_read", |mut rng| {
        Box::pin(async move {
            let failures = rng.below(3);
            let memory = Arc::new(MemoryCache::new(MEMORY));
            // Two stores of a process share the memory, or all read one.
            let (mut fars, mut stores) = (Vec::new(), Vec::<Arc<dyn ChunkStore>>::new());
            for _ in 0..1 + rng.below(2) {
                let far = Arc::new(Far::new(failures, true).await);
                stores.push(Arc::new(Cached::new(memory.clone(), far.clone())));
                fars.push(far);
            }
            read_all(&stores, &memory, &mut rng, failures).await;
            assert_accounted(&memory);
            for (far, store) in fars.iter().zip(stores) {
                assert!(far.in_the_air.lock().unwrap().is_empty(), "nobody waits for it any more");
                let all = format!("{store:?}");
                assert!(all.contains("flights: Flights { entries: 0"), "{all}");
                // Whatever went before, everything can be had now.
                far.failures.store(0, Ordering::Relaxed);
                reader(store, memory.clone(), vec![((0..ENTRIES).collect(), None)], 0).await;
            }
            assert_accounted(&memory);
        })
    });
}

/// Entries that a disk cache moves and drops while they are read, below a memory that does the same. Row 50.
#[test]
fn a_disk_cache_evicts_what_others_read() {
    explore("a_disk_cache_evicts_what_others_read", |mut rng| {
        Box::pin(async move {
            let far = Arc::new(Far::new(0, false).await);
            let files = MemFs::new();
            let fs: Arc<dyn Fs> = Arc::new(Pieces(Arc::new(files.clone())));
            let disk = DiskCache::open(fs.clone(), Path::new("/cache"), DISK).unwrap();
            let memory = Arc::new(MemoryCache::new(if rng.below(2) == 0 { 0 } else { MEMORY }));
            // Two stores of a host share both caches.
            let store = || -> Arc<dyn ChunkStore> {
                let below = Arc::new(DiskCached::new(disk.clone(), far.clone()));
                Arc::new(Cached::trusting(memory.clone(), below))
            };
            let settling = {
                let disk = disk.clone();
                spawn(async move {
                    for _ in 0..3 {
                        disk.settled().await;
                        assert!(disk.stats().bytes <= DISK, "{disk:?}");
                    }
                })
            };
            read_all(&[store(), store()], &memory, &mut rng, 0).await;
            settling.await.unwrap();
            assert_accounted(&memory);
            disk.settled().await;
            let stats = disk.stats();
            assert!(stats.bytes <= DISK && files.used() <= DISK + 5 * 4096, "{stats:?}, {}", files.used());
            // What it knows of is there, and was not left to a segment that is gone.
            let all: Vec<_> = (0..ENTRIES).map(|number| entry(number).0).collect();
            let held = disk.get(KIND, &all).await;
            assert_eq!(held.iter().flatten().count(), stats.entries, "{stats:?}");
            assert!(stats.entries > 0);
            // After a restart, too, though it may begin by making room.
            drop(disk);
            let disk = DiskCache::open(fs, Path::new("/cache"), DISK).unwrap();
            let found = disk.get(KIND, &all).await;
            for (number, found) in found.iter().enumerate() {
                assert!(found.as_ref().is_none_or(|found| *found == entry(number).1));
            }
            assert_eq!(found.iter().flatten().count(), disk.stats().entries);
            assert!(disk.stats().bytes <= DISK, "{disk:?}");
        })
    });
}
