//! The cache as a layer in front of a store.

use gabion_store_core::{
    ChunkStore,
    stores::{MemoryStore, Metered},
    testing::{BadEntry, FaultStore, FixedClock, conformance},
};
use parking_lot::{Condvar, Mutex};

use super::*;
use crate::fs::{FaultFs, FsOp};

async fn store() -> Arc<FaultStore> {
    let faults = FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 1);
    faults.put(KIND, (0..20).map(entry).collect()).await.unwrap();
    faults
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Vec<ChunkId> {
    numbers.into_iter().map(|number| entry(number).0).collect()
}

async fn assert_got(store: &dyn ChunkStore, numbers: impl IntoIterator<Item = u64> + Clone) {
    let got = store.get(KIND, &ids(numbers.clone())).await;
    for (number, got) in numbers.into_iter().zip(got) {
        assert_eq!(got.unwrap(), entry(number).1);
    }
}

/// Conformance: with room, with hardly any, with none, and on a real disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let folders = Mutex::new(Vec::new());
    let layer = |cache| DiskCached::new(cache, Arc::new(MemoryStore::new(&FixedClock::default()).unwrap()));
    for (capacity, segment_len) in [(64 << 20, 1 << 20), (1 << 20, 256 << 10), (0, 0)] {
        conformance::chunk_store(conformance::Capabilities::FULL, async || {
            layer(DiskCache::open_with(Arc::new(MemFs::new()), dir(), capacity, segment_len).unwrap())
        })
        .await;
    }
    conformance::chunk_store(conformance::Capabilities::FULL, async || {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(Arc::new(StdFs), folder.path(), 64 << 20).unwrap();
        folders.lock().push(folder);
        layer(cache)
    })
    .await;
}

#[tokio::test]
async fn asks_the_store_once_for_what_is_missing() {
    let below = Arc::new(Metered::new(store().await));
    let cached = DiskCached::new(open(&MemFs::new()), below.clone());
    assert_got(&cached, [1, 2, 3]).await;
    cached.cache().settled().await;
    assert_got(&cached, [9, 1, 8, 3, 2, 9]).await;
    let metrics = below.metrics();
    assert_eq!((metrics.get.calls, metrics.get.entries), (2, 6));
    cached.cache().settled().await;
    assert_got(&cached, [1, 2, 3, 8, 9]).await;
    let part = cached.get_range(KIND, &entry(1).0, 1, 5).await.unwrap();
    assert_eq!(part, entry(1).1.slice(1..6));
    assert_eq!(below.metrics().get.calls, 2, "all of it from the disk");
    let absent = cached.get(KIND, &ids([1, 100])).await;
    assert!(absent[0].is_ok());
    assert_eq!(absent[1].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn goes_on_without_the_store_for_what_it_has() {
    let faults = store().await;
    let cached = DiskCached::new(open(&MemFs::new()), faults.clone());
    assert_got(&cached, 0..10).await;
    cached.cache().settled().await;
    faults.outage(Some(ErrorKind::Unavailable));
    assert_got(&cached, 0..10).await;
    let got = cached.get(KIND, &ids(5..15)).await;
    assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 5);
    assert_eq!(got[9].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn only_what_is_verified_enters_and_writes_do_not() {
    let faults = store().await;
    faults.break_entry(KIND, entry(1).0, BadEntry::Corrupt);
    let cached = DiskCached::new(open(&MemFs::new()), faults.clone());
    let got = cached.get(KIND, &ids([1, 2])).await;
    assert_eq!(got[0].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    cached.put(KIND, vec![entry(50)]).await.unwrap();
    assert!(cached.get_encoded(KIND, &ids([3])).await[0].is_ok());
    cached.cache().settled().await;
    assert_eq!(held(cached.cache(), 0..60).await, [2]);
}

/// The disk takes no write for as long as it likes; the reader has its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_delays_no_reader() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let held = Arc::clone(&gate);
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    fs.on(move |op, _| {
        if op == FsOp::Write {
            let (open, opened) = &*held;
            opened.wait_while(&mut open.lock(), |open| !*open);
        }
        Ok(())
    });
    let cached = DiskCached::new(open_in(Arc::new(fs)), store().await);
    assert_got(&cached, 0..20).await;
    assert_got(&cached, 0..20).await;
    *gate.0.lock() = true;
    gate.1.notify_all();
    cached.cache().settled().await;
    assert_eq!(super::held(cached.cache(), 0..20).await.len(), 20);
}
