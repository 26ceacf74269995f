//! Single flight under barriers, dropped readers, and what may enter the memory.

use futures::poll;

use super::*;
use crate::{
    ErrorKind,
    stores::{MemoryStore, Metered},
    testing::{BadEntry, Call, Fault, FaultStore, FixedClock, Gate, conformance},
    types::id_of,
};

const KIND: ChunkKind = ChunkKind::Data;

struct Rig {
    faults: Arc<FaultStore>,
    inner: Arc<Metered<Arc<FaultStore>>>,
    cached: Arc<Cached>,
}

/// A cache of `capacity` bytes over a metered store with faults that holds entries 0 to 15.
async fn rig(capacity: usize) -> Rig {
    let faults = FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 1);
    faults.put(KIND, (0..16).map(entry).collect()).await.unwrap();
    let inner = Arc::new(Metered::new(faults.clone()));
    let cached = Arc::new(Cached::new(Arc::new(MemoryCache::new(capacity)), inner.clone()));
    Rig { faults, inner, cached }
}

fn entry(number: u8) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![number; 4096]);
    (id_of(KIND, &bytes), bytes)
}

fn ids(numbers: &[u8]) -> Vec<ChunkId> {
    numbers.iter().map(|number| entry(*number).0).collect()
}

async fn assert_got(cached: &Cached, numbers: &[u8]) {
    let got = cached.get(KIND, &ids(numbers)).await;
    assert_eq!(got.len(), numbers.len());
    for (number, got) in numbers.iter().zip(got) {
        assert_eq!(got.unwrap(), entry(*number).1, "entry {number}");
    }
}

impl Rig {
    /// Holds the next call of the store below at a gate.
    fn hold(&self) -> Arc<Gate> {
        let gate = Arc::new(Gate::new());
        self.faults.script(Call::Get, 0, Fault::Hold(gate.clone()));
        gate
    }

    fn in_the_air(&self) -> usize {
        self.cached.flights.seats.lock().len()
    }
}

/// Conformance, with a roomy cache, one that evicts all the time, and none at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    for capacity in [64 << 20, 300 << 10, 0] {
        conformance::chunk_store(conformance::Capabilities::FULL, async || {
            let inner = Arc::new(MemoryStore::new(&FixedClock::default()).unwrap());
            Cached::new(Arc::new(MemoryCache::new(capacity)), inner)
        })
        .await;
    }
}

#[tokio::test]
async fn a_read_fills_and_the_next_is_answered_at_once() {
    let rig = rig(1 << 20).await;
    assert_eq!(rig.cached.try_get(KIND, &entry(1).0), None);
    assert_got(&rig.cached, &[1, 2]).await;
    assert_eq!(rig.cached.try_get(KIND, &entry(1).0), Some(entry(1).1));
    // Old and new in one batch: only the new one is asked for below.
    assert_got(&rig.cached, &[2, 3, 1, 3]).await;
    let metrics = rig.inner.metrics();
    assert_eq!((metrics.get.calls, metrics.get.entries), (2, 3));
    let part = rig.cached.get_range(KIND, &entry(4).0, 10, 20).await.unwrap();
    assert_eq!(part, entry(4).1.slice(10..30));
    assert_eq!(rig.cached.try_get(KIND, &entry(4).0), Some(entry(4).1), "a part fills with the whole");
    let stats = rig.cached.cache().stats();
    assert_eq!((stats.entries, stats.misses, stats.hits), (4, 5, 4));
}

#[tokio::test]
async fn writes_and_encoded_reads_fill_nothing() {
    let rig = rig(1 << 20).await;
    rig.cached.put(KIND, vec![entry(100)]).await.unwrap();
    rig.cached.put_encoded(KIND, vec![(entry(101).0, Encoded::raw(entry(101).1))]).await.unwrap();
    assert!(rig.cached.get_encoded(KIND, &ids(&[1, 100])).await.iter().all(Result::is_ok));
    assert_eq!(rig.cached.cache().stats().entries, 0);
    assert_got(&rig.cached, &[100, 101]).await;
}

#[tokio::test]
async fn many_readers_of_one_entry_are_one_flight() {
    const READERS: usize = 64;
    // With no room in the cache, so that nothing but the flight can answer; and with room.
    for capacity in [0, 1 << 20] {
        let rig = rig(capacity).await;
        let gate = rig.hold();
        let ids = ids(&[1]);
        let mut readers: Vec<_> = (0..READERS).map(|_| rig.cached.get(KIND, &ids)).collect();
        for reader in &mut readers {
            assert!(poll!(reader).is_pending());
        }
        gate.open();
        for got in future::join_all(readers).await {
            assert_eq!(got[0].as_ref().unwrap(), &entry(1).1);
        }
        assert_eq!(rig.inner.metrics().get.calls, 1);
        assert_eq!(rig.in_the_air(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_on_many_threads_are_one_flight() {
    let rig = rig(1 << 20).await;
    let gate = rig.hold();
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let cached = rig.cached.clone();
            tokio::spawn(async move { assert_got(&cached, &[1, 2, 3]).await })
        })
        .collect();
    gate.arrived(1).await;
    gate.open();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(rig.inner.metrics().get.calls, 1);
    assert_eq!(rig.inner.metrics().get.entries, 3);
    assert_eq!(rig.in_the_air(), 0);
}

#[tokio::test]
async fn overlapping_batches_ask_for_what_is_not_in_the_air() {
    let rig = rig(1 << 20).await;
    let gate = rig.hold();
    let (a, b, c) = (ids(&[1, 2, 3]), ids(&[3, 4, 1, 4]), ids(&[4, 2, 2]));
    let mut first = rig.cached.get(KIND, &a);
    assert!(poll!(&mut first).is_pending());
    let gate_2 = rig.hold();
    let mut second = rig.cached.get(KIND, &b);
    assert!(poll!(&mut second).is_pending());
    let mut third = rig.cached.get(KIND, &c);
    assert!(poll!(&mut third).is_pending());
    assert_eq!(rig.in_the_air(), 4);
    gate.open();
    // The second flight is still held, so only the first reader is done.
    assert!(first.await.iter().all(Result::is_ok));
    assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
    gate_2.open();
    let (second, third) = future::join(second, third).await;
    let numbers = [3, 4, 1, 4, 4, 2, 2];
    for (number, got) in numbers.into_iter().zip(second.iter().chain(&third)) {
        assert_eq!(got.as_ref().unwrap(), &entry(number).1);
    }
    let metrics = rig.inner.metrics();
    assert_eq!((metrics.get.calls, metrics.get.entries), (2, 4));
}

#[tokio::test]
async fn a_dropped_leader_strands_nobody() {
    let rig = rig(1 << 20).await;
    let gate = rig.hold();
    let ids = ids(&[1]);
    let mut leader = rig.cached.get(KIND, &ids);
    assert!(poll!(&mut leader).is_pending());
    let mut follower = rig.cached.get(KIND, &ids);
    assert!(poll!(&mut follower).is_pending());
    drop(leader);
    gate.open();
    assert_eq!(follower.await[0].as_ref().unwrap(), &entry(1).1);
    assert_eq!(rig.inner.metrics().get.calls, 1, "the follower went on with the leader's call");
    assert_eq!(rig.in_the_air(), 0);
}

#[tokio::test]
async fn a_leader_dropped_before_its_first_poll_of_the_store_strands_nobody() {
    let rig = rig(1 << 20).await;
    let gate = rig.hold();
    let ids = ids(&[1]);
    let mut answers = vec![None];
    let tickets = rig.cached.board(KIND, &ids, &mut answers);
    let mut follower = rig.cached.get(KIND, &ids);
    assert!(poll!(&mut follower).is_pending());
    drop(tickets);
    gate.open();
    assert!(follower.await[0].is_ok());
    // And with no follower at all.
    drop(rig.cached.board(KIND, &[entry(2).0], &mut [None]));
    assert_eq!(rig.in_the_air(), 0);
    assert_got(&rig.cached, &[2]).await;
}

#[tokio::test]
async fn what_landed_between_the_miss_and_the_lock_is_not_asked_for_again() {
    let rig = rig(1 << 20).await;
    rig.cached.cache().insert(KIND, entry(1).0, &entry(1).1);
    let mut answers = vec![None, None];
    let tickets = rig.cached.board(KIND, &ids(&[1, 2]), &mut answers);
    assert_eq!(answers[0].as_ref().unwrap().as_ref().unwrap(), &entry(1).1);
    assert!(answers[1].is_none());
    assert_eq!(tickets.seats, [(1, 0, 0)]);
    assert_eq!(rig.in_the_air(), 1);
}

#[tokio::test]
async fn a_flight_without_readers_is_cancelled_and_the_next_reader_starts_anew() {
    let rig = rig(1 << 20).await;
    let _never_opened = rig.hold();
    let ids = ids(&[1]);
    let mut leader = rig.cached.get(KIND, &ids);
    let mut follower = rig.cached.get(KIND, &ids);
    assert!(poll!(&mut leader).is_pending() && poll!(&mut follower).is_pending());
    drop(leader);
    assert_eq!(rig.in_the_air(), 1);
    drop(follower);
    assert_eq!(rig.in_the_air(), 0, "the last reader took the flight with it");
    assert_got(&rig.cached, &[1]).await;
    assert_eq!(rig.inner.metrics().get.calls, 2);
}

#[tokio::test]
async fn an_error_reaches_all_who_waited_and_nobody_later() {
    let rig = rig(1 << 20).await;
    let ids = ids(&[1]);
    rig.faults.break_entry(KIND, ids[0], BadEntry::Failing(ErrorKind::Unavailable));
    let gate = rig.hold();
    let (mut a, mut b) = (rig.cached.get(KIND, &ids), rig.cached.get(KIND, &ids));
    assert!(poll!(&mut a).is_pending() && poll!(&mut b).is_pending());
    gate.open();
    let (a, b) = future::join(a, b).await;
    for got in [a, b] {
        assert_eq!(got[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(rig.inner.metrics().get.calls, 1);
    assert_eq!(rig.cached.cache().stats().entries, 0);
    rig.faults.heal();
    assert_got(&rig.cached, &[1]).await;
    let absent = rig.cached.get(KIND, &[entry(200).0]).await;
    assert_eq!(absent[0].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    rig.cached.put(KIND, vec![entry(200)]).await.unwrap();
    assert_got(&rig.cached, &[200]).await;
}

#[tokio::test]
async fn only_verified_bytes_enter() {
    let rig = rig(1 << 20).await;
    rig.faults.break_entry(KIND, entry(1).0, BadEntry::Corrupt);
    for _ in 0..2 {
        let got = rig.cached.get(KIND, &ids(&[1, 2])).await;
        assert_eq!(got[0].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(got[1].as_ref().unwrap(), &entry(2).1);
        assert_eq!(rig.cached.try_get(KIND, &entry(1).0), None);
    }
    assert_eq!(rig.cached.contains(KIND, &ids(&[1, 2])).await.unwrap(), [false, true]);
    rig.cached.put(KIND, vec![entry(1)]).await.unwrap();
    assert_got(&rig.cached, &[1]).await;
}

/// Readers that come, go and are dropped at random, over a store that fails now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_readers_get_right_bytes_or_the_injected_error() {
    let rig = rig(8 * (4096 + 160)).await;
    rig.faults.chaos(
        4,
        vec![Fault::Before(ErrorKind::Unavailable), Fault::After(ErrorKind::Unavailable), Fault::Corrupt],
    );
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let cached = rig.cached.clone();
            tokio::spawn(async move {
                let mut rng = crate::testing::Rng::new(reader);
                for _ in 0..200 {
                    let numbers: Vec<_> = (0..1 + rng.below(4)).map(|_| rng.below(16) as u8).collect();
                    let ids = ids(&numbers);
                    let mut read = cached.get(KIND, &ids);
                    if rng.below(3) == 0 {
                        if poll!(&mut read).is_pending() {
                            tokio::task::yield_now().await;
                        }
                        continue;
                    }
                    for (number, got) in numbers.iter().zip(read.await) {
                        match got {
                            Ok(bytes) => assert_eq!(bytes, entry(*number).1),
                            Err(e) => assert!(
                                matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt),
                                "{e:?}"
                            ),
                        }
                    }
                }
            })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(rig.in_the_air(), 0);
    rig.faults.heal();
    assert_got(&rig.cached, &(0..16).collect::<Vec<_>>()).await;
}
