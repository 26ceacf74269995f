//! Cases for [`ChunkStore`].

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, future};
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    Capabilities,
    sample::{KINDS, entries, entry, ids, largest},
};
use crate::{
    ChunkId, ChunkKind, ChunkStore, ErrorKind, Result,
    format::codec::{Codec, Compression, Encoded, Encoder},
    testing::Rng,
};

/// Asks for entries and for their presence, and checks both against what should be there.
async fn assert_holds(store: &dyn ChunkStore, kind: ChunkKind, expected: &[(ChunkId, Option<Bytes>)]) {
    let asked: Vec<_> = expected.iter().map(|(id, _)| *id).collect();
    let got = store.get(kind, &asked).await;
    assert_eq!(got.len(), asked.len(), "get must answer once per id");
    for ((id, bytes), got) in expected.iter().zip(&got) {
        match (bytes, got) {
            (Some(bytes), Ok(got)) => {
                assert_eq!(got, bytes, "get of {kind:?} entry {id} answered other bytes");
            }
            (None, Err(e)) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "an absent entry must be NotFound, got {e:?}");
            }
            (Some(_), Err(e)) => panic!("get of {kind:?} entry {id} that was put failed: {e:?}"),
            (None, Ok(_)) => panic!("get of {kind:?} entry {id} that was never put answered bytes"),
        }
    }
    let present = store.contains(kind, &asked).await.expect("contains");
    let should: Vec<_> = expected.iter().map(|(_, bytes)| bytes.is_some()).collect();
    assert_eq!(present, should, "contains must answer for each {kind:?} entry in the order asked");
    let held: Result<Vec<_>> = store.holds(kind, &asked).await.into_iter().collect();
    assert_eq!(held.expect("holds"), should, "holds must answer for each {kind:?} entry in the order asked");
    for (id, bytes) in expected {
        if let Some(at_once) = store.try_get(kind, id) {
            assert_eq!(Some(&at_once), bytes.as_ref(), "try_get of {kind:?} entry {id} answered other bytes");
        }
    }
}

fn all_there(entries: &[(ChunkId, Bytes)]) -> Vec<(ChunkId, Option<Bytes>)> {
    entries.iter().map(|(id, bytes)| (*id, Some(bytes.clone()))).collect()
}

fn kind_of<T>(result: Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

/// Empty batches succeed and answer nothing.
pub(super) async fn empty_batches(store: &dyn ChunkStore) {
    for kind in KINDS {
        assert!(store.get(kind, &[]).await.is_empty(), "get of nothing");
        assert!(store.get_encoded(kind, &[]).await.is_empty(), "get_encoded of nothing");
        store.put(kind, Vec::new()).await.expect("put of nothing");
        store.put_encoded(kind, Vec::new()).await.expect("put_encoded of nothing");
        assert!(store.contains(kind, &[]).await.expect("contains of nothing").is_empty());
        assert!(store.holds(kind, &[]).await.is_empty(), "holds of nothing");
        assert!(store.locate(kind, &[]).await.expect("locate of nothing").is_empty());
    }
    store.sync().await.expect("sync of nothing");
    store.sync().await.expect("sync of nothing, again");
}

/// One answer per id, in the order asked, absent ones and repeated ones among them.
pub(super) async fn answers_in_order(store: &dyn ChunkStore) {
    let mut rng = Rng::new(1);
    for kind in KINDS {
        let (put, absent): (Vec<_>, Vec<_>) =
            entries(kind, 60, &mut rng).into_iter().enumerate().partition(|(number, _)| number % 3 != 0);
        let mut expected: Vec<_> = put.iter().map(|(_, (id, bytes))| (*id, Some(bytes.clone()))).collect();
        store.put(kind, put.into_iter().map(|(_, entry)| entry).collect()).await.expect("put");
        expected.extend(absent.into_iter().map(|(_, (id, _))| (id, None)));
        expected.sort_by_key(|(id, _)| *id);
        assert_holds(store, kind, &expected).await;
        expected.reverse();
        expected.extend_from_within(..10);
        expected.extend_from_within(..1);
        assert_holds(store, kind, &expected).await;
        assert_holds(store, kind, &expected[..1]).await;
    }
}

/// An entry is found under its own kind only.
pub(super) async fn kinds_are_apart(store: &dyn ChunkStore) {
    let mut rng = Rng::new(2);
    for kind in KINDS {
        let put = entries(kind, 5, &mut rng);
        store.put(kind, put.clone()).await.expect("put");
        for other in KINDS {
            let expected: Vec<_> =
                put.iter().map(|(id, bytes)| (*id, (other == kind).then(|| bytes.clone()))).collect();
            assert_holds(store, other, &expected).await;
        }
        let other = if kind == ChunkKind::Data { ChunkKind::Node } else { ChunkKind::Data };
        let encoded = store.get_encoded(other, &ids(&put)).await;
        assert!(
            encoded.into_iter().all(|e| kind_of(e) == Some(ErrorKind::NotFound)),
            "get_encoded, wrong kind"
        );
        let range = store.get_range(other, &put[0].0, 0, 1).await;
        assert_eq!(kind_of(range), Some(ErrorKind::NotFound), "get_range, wrong kind");
    }
}

/// Putting what is there is success: in a batch of its own, beside new entries, twice in one batch.
pub(super) async fn puts_are_idempotent(store: &dyn ChunkStore) {
    let mut rng = Rng::new(3);
    for kind in KINDS {
        let all = entries(kind, 12, &mut rng);
        store.put(kind, all[..6].to_vec()).await.expect("put");
        store.put(kind, all[..6].to_vec()).await.expect("the same put again");
        store.put(kind, all[3..9].to_vec()).await.expect("a put of old and new entries");
        let twice = [&all[9..], &all[9..]].concat();
        store.put(kind, twice).await.expect("a put that names an entry twice");
        store.sync().await.expect("sync");
        store.put(kind, all.clone()).await.expect("a put of what was synced");
        store.sync().await.expect("sync with nothing new");
        assert_holds(store, kind, &all_there(&all)).await;
    }
}

/// The largest entries, many of them in one batch.
pub(super) async fn largest_entries(store: &dyn ChunkStore) {
    let mut rng = Rng::new(4);
    for kind in KINDS {
        let all: Vec<_> = (0..24).map(|_| largest(kind, &mut rng)).collect();
        store.put(kind, all.clone()).await.expect("put of the largest entries");
        assert_holds(store, kind, &all_there(&all)).await;
    }
}

/// Parts of entries, and the bounds of parts.
pub(super) async fn ranges(store: &dyn ChunkStore) {
    let mut rng = Rng::new(5);
    for kind in KINDS {
        let put = entries(kind, 2, &mut rng);
        store.put(kind, put.clone()).await.expect("put");
        for (id, bytes) in &put {
            let len = bytes.len();
            for (start, length) in [(0, len), (0, 1), (len / 3, len / 2), (len - 1, 1), (0, 0), (len, 0)] {
                let part = store.get_range(kind, id, start, length).await.expect("a range inside the entry");
                assert_eq!(part, bytes.slice(start..start + length), "range {start}+{length} of {len}");
            }
            let outside = [(0, len + 1), (len, 1), (len + 1, 0), (1, len), (1, usize::MAX), (usize::MAX, 1)];
            for (start, length) in outside {
                let refused = kind_of(store.get_range(kind, id, start, length).await);
                assert_eq!(refused, Some(ErrorKind::Invalid), "range {start}+{length} of {len}");
            }
        }
        let (absent, _) = entry(kind, rng.bytes(100));
        let refused = kind_of(store.get_range(kind, &absent, 0, 1).await);
        assert_eq!(refused, Some(ErrorKind::NotFound), "a range of an absent entry");
    }
}

/// What is put encoded is got decoded, and the reverse.
pub(super) async fn encoded_forms(store: &dyn ChunkStore) {
    let mut rng = Rng::new(6);
    let mut zstd = Encoder::new(Compression::Zstd(1)).expect("level 1 exists");
    let mut raw = Encoder::new(Compression::None).expect("no compression needs nothing");
    for kind in KINDS {
        let all = entries(kind, 12, &mut rng);
        let encode = |encoder: &mut Encoder, of: &[(ChunkId, Bytes)]| -> Vec<_> {
            of.iter().map(|(id, bytes)| (*id, encoder.encode(bytes))).collect()
        };
        let compressed = encode(&mut zstd, &all[..4]);
        assert!(compressed.iter().any(|(_, entry)| entry.codec == Codec::Zstd), "the samples compress");
        store.put_encoded(kind, compressed.clone()).await.expect("put_encoded");
        store.put_encoded(kind, compressed).await.expect("the same put_encoded again");
        store.put_encoded(kind, encode(&mut raw, &all[4..8])).await.expect("put_encoded, uncompressed");
        store.put(kind, all[8..].to_vec()).await.expect("put");
        store.put(kind, all[..8].to_vec()).await.expect("a put of what was put encoded");
        assert_holds(store, kind, &all_there(&all)).await;

        let (absent, _) = entry(kind, rng.bytes(100));
        let mut asked = ids(&all);
        asked.insert(5, absent);
        asked.push(asked[0]);
        let mut got = store.get_encoded(kind, &asked).await;
        assert_eq!(got.len(), asked.len(), "get_encoded must answer once per id");
        let refused = kind_of(got.remove(5));
        assert_eq!(refused, Some(ErrorKind::NotFound), "an absent entry, encoded");
        for ((id, bytes), got) in all.iter().chain(&all[..1]).zip(got) {
            let got = got.unwrap_or_else(|e| panic!("get_encoded of {kind:?} entry {id} failed: {e:?}"));
            let decoded = got.decode().expect("what a store hands out decodes");
            assert_eq!(&decoded, bytes, "get_encoded of {kind:?} entry {id} is another entry");
        }
    }
}

/// A sync loses nothing, and places are those of the entries.
pub(super) async fn sync_keeps(capabilities: Capabilities, store: &dyn ChunkStore) {
    let mut rng = Rng::new(7);
    for kind in KINDS {
        let all = entries(kind, 20, &mut rng);
        for part in all.chunks(7) {
            store.put(kind, part.to_vec()).await.expect("put");
            store.sync().await.expect("sync");
        }
        assert_holds(store, kind, &all_there(&all)).await;
        let (absent, _) = entry(kind, rng.bytes(100));
        let mut asked = ids(&all);
        asked.push(absent);
        let mut places = store.locate(kind, &asked).await.expect("locate");
        assert_eq!(places.len(), asked.len(), "locate must answer once per id");
        assert_eq!(places.pop(), Some(None), "an absent entry has no place");
        for ((id, bytes), place) in all.iter().zip(places) {
            if let Some(place) = place {
                assert_eq!(place.raw_len as usize, bytes.len(), "place of {kind:?} entry {id}");
            } else {
                assert!(!capabilities.placements, "{kind:?} entry {id} was synced and has no place");
            }
        }
    }
}

/// Many tasks put one entry at once: all succeed, and each sees it from then on.
pub(super) async fn one_id_by_many(store: Arc<dyn ChunkStore>) {
    const TASKS: usize = 16;
    let mut rng = Rng::new(8);
    for kind in KINDS {
        let shared = entries(kind, 2, &mut rng);
        let encoded: Vec<_> = shared.iter().map(|(id, bytes)| (*id, Encoded::raw(bytes.clone()))).collect();
        let barrier = Arc::new(Barrier::new(TASKS));
        let mut tasks = JoinSet::new();
        for number in 0..TASKS {
            let (store, shared, encoded, barrier) =
                (store.clone(), shared.clone(), encoded.clone(), barrier.clone());
            tasks.spawn(async move {
                barrier.wait().await;
                if number % 4 == 0 {
                    store.put_encoded(kind, encoded).await.expect("put_encoded beside others");
                } else {
                    store.put(kind, shared.clone()).await.expect("put beside others");
                }
                if number % 3 == 0 {
                    store.sync().await.expect("sync beside others");
                }
                assert_holds(&*store, kind, &all_there(&shared)).await;
            });
        }
        join(tasks).await;
    }
}

/// Tasks put, sync and read at once, each with entries of its own; none disturbs another.
pub(super) async fn writers_side_by_side(store: Arc<dyn ChunkStore>) {
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let store = store.clone();
        tasks.spawn(async move {
            let mut rng = Rng::new(900 + task);
            let mut put = Vec::new();
            for round in 0..6 {
                let new = entries(ChunkKind::Data, 4, &mut rng);
                store.put(ChunkKind::Data, new.clone()).await.expect("put beside others");
                put.extend(new);
                if round % 2 == 1 {
                    store.sync().await.expect("sync beside others");
                }
                assert_holds(&*store, ChunkKind::Data, &all_there(&put)).await;
            }
        });
    }
    join(tasks).await;
}

/// Calls dropped at their first wait do no harm: an entry is whole or absent, and calls after work.
pub(super) async fn dropped_calls(store: &dyn ChunkStore) {
    let mut rng = Rng::new(10);
    let kind = ChunkKind::Data;
    let all = entries(kind, 24, &mut rng);
    let mut acknowledged = HashSet::new();
    for part in all.chunks(3) {
        if let Some(done) = store.put(kind, part.to_vec()).now_or_never() {
            done.expect("put");
            acknowledged.extend(ids(part));
        }
        drop(store.get(kind, &ids(part)).now_or_never());
        drop(store.contains(kind, &ids(part)).now_or_never());
        drop(store.sync().now_or_never());
    }
    for ((id, bytes), got) in all.iter().zip(store.get(kind, &ids(&all)).await) {
        match got {
            Ok(got) => assert_eq!(&got, bytes, "an entry of a dropped put is whole"),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound, "an entry of a dropped put is absent: {e:?}");
                assert!(!acknowledged.contains(id), "a put that finished stored entry {id}");
            }
        }
    }
    store.put(kind, all.clone()).await.expect("put after dropped ones");
    store.sync().await.expect("sync after dropped ones");
    // Answers given side by side with dropped calls are whole, too.
    let wanted = ids(&all);
    let (kept, _) = future::join(store.get(kind, &wanted), async {
        drop(store.get(kind, &wanted).now_or_never());
    })
    .await;
    assert!(kept.iter().all(Result::is_ok), "a dropped get failed another one");
    assert_holds(store, kind, &all_there(&all)).await;
}

/// Joins tasks; a panic in one is the panic of the case.
pub(super) async fn join(mut tasks: JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        if let Err(e) = done {
            match e.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(e) => panic!("a task of the suite ended early: {e}"),
            }
        }
    }
}
