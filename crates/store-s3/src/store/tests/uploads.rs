//! Uploads: how many, and what becomes of those that fail or whose caller goes away.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::FutureExt as _;
use gabion_store_core::{ChunkKind, ChunkStore as _, ErrorKind, format::codec::Encoded};

use super::{
    bucket::{Bucket, Fate, Request},
    support::{Disk, chunk, import_disk, init, open, packs_of, publish},
};
use crate::store::{RemoteOptions, RemoteStore};

const DATA: ChunkKind = ChunkKind::Data;

fn is_pack(request: &Request) -> bool {
    request.write && request.key.starts_with("packs/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_is_one_request_and_a_sync_one_more() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    bucket.requests();
    for seed in 0..80 {
        store.put(DATA, vec![chunk(seed, 100_000)]).await.expect("put");
    }
    store.sync().await.expect("sync");
    let requests = bucket.requests();
    // Eleven chunks to a pack of a mebibyte.
    assert_eq!(requests.iter().filter(|request| is_pack(request)).count(), 8, "{requests:?}");
    let others: Vec<_> = requests.iter().filter(|r| !is_pack(r) && !r.key.starts_with("probe")).collect();
    assert_eq!(others.len(), 1, "{others:?}");
    assert!(others[0].key.starts_with("locators/"));
    store.sync().await.expect("sync of nothing");
    assert_eq!(bucket.requests(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locator_is_offered_until_the_catalog_names_it() {
    let store = init(&Bucket::new(), packs_of(1 << 20)).await;
    store.put(DATA, vec![chunk(1, 5000)]).await.expect("put");
    let first = store.sync().await.expect("sync").locators;
    assert_eq!(first.len(), 1);
    store.put(DATA, vec![chunk(2, 5000)]).await.expect("put");
    let both = store.sync().await.expect("sync").locators;
    assert_eq!((both.len(), both[0]), (2, first[0]), "the publish that followed the first sync failed");
    publish(&store).await;
    assert_eq!(store.sync().await.expect("sync").locators, []);
}

/// What is put during a sync may be durable before what was put earlier: a catalog must not tell of a node whose chunks
/// are not there, since who finds it takes all below it to be there.
#[tokio::test]
async fn a_sync_names_no_node_before_its_chunks() {
    for sealed in [false, true] {
        let bucket = Bucket::new();
        let store = init(&bucket, RemoteOptions { uploads: 4, ..packs_of(4 << 10) }).await;
        let mut packs = 0;
        bucket.rule(move |request| {
            packs += u32::from(is_pack(request));
            match packs {
                1 if is_pack(request) => Fate::Held,
                2 if is_pack(request) && sealed => Fate::Refused,
                _ => Fate::Done,
            }
        });
        store.put(DATA, vec![chunk(1, 1000)]).await.expect("put");
        let publishing = tokio::spawn({
            let store = store.clone();
            async move { publish(&store).await }
        });
        let others_go_on = || async {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
        };
        others_go_on().await;
        let (below, above) = (chunk(2, if sealed { 5000 } else { 1000 }), chunk(3, 5000));
        store.put(DATA, vec![below.clone()]).await.expect("put");
        store.put(ChunkKind::Node, vec![above.clone()]).await.expect("put");
        others_go_on().await;
        bucket.open_gate();
        publishing.await.expect("it publishes");
        let holds = |store: RemoteStore| async move {
            let [node, chunk] = [(ChunkKind::Node, above.0), (DATA, below.0)].map(|(kind, id)| (kind, [id]));
            let node = store.holds(node.0, &node.1).await.remove(0).expect("an answer");
            (node, store.holds(chunk.0, &chunk.1).await.remove(0).expect("an answer"))
        };
        let found = holds(open(&bucket).await).await;
        assert!(found != (true, false), "sealed {sealed}: a node is there, and its chunk is not");
        bucket.rule(|_| Fate::Done);
        publish(&store).await;
        assert_eq!(holds(open(&bucket).await).await, (true, true));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_handle_published_another_finds() {
    let bucket = Bucket::new();
    let one = init(&bucket, packs_of(1 << 20)).await;
    let (id, bytes) = chunk(1, 5000);
    one.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
    let early = open(&bucket).await;
    assert_eq!(early.contains(DATA, &[id]).await.expect("contains"), [false], "nothing is published");
    publish(&one).await;
    for other in [early, open(&bucket).await] {
        let got = other.get(DATA, &[id]).await.remove(0).expect("it is published");
        assert_eq!(got, bytes);
        assert_eq!(other.contains(DATA, &[id]).await.expect("contains"), [true]);
        bucket.requests();
        other.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
        let synced = other.sync().await.expect("sync");
        assert_eq!((synced.locators.len(), synced.answered_under), (0, Some(0)), "it was there");
        assert_eq!(bucket.requests(), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_upload_is_kept_and_tried_again_by_the_next_sync() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = broken.clone();
    bucket.rule(move |request| match is_pack(request) && is_broken.load(Ordering::Relaxed) {
        true => Fate::Refused,
        false => Fate::Done,
    });
    let (id, bytes) = chunk(1, 5000);
    store.put(DATA, vec![(id, bytes.clone())]).await.expect("a put that fills no pack");
    for _ in 0..2 {
        let failed = store.sync().await.expect_err("nothing is durable");
        assert_eq!(failed.kind(), ErrorKind::PermissionDenied);
        assert_eq!(store.get(DATA, &[id]).await.remove(0).expect("it is kept"), bytes);
    }
    broken.store(false, Ordering::Relaxed);
    publish(&store).await;
    assert_eq!(open(&bucket).await.get(DATA, &[id]).await.remove(0).expect("it is durable"), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_fail_once_there_is_no_room_for_what_could_not_be_uploaded() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(100_000)).await;
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = broken.clone();
    bucket.rule(move |request| match is_pack(request) && is_broken.load(Ordering::Relaxed) {
        true => Fate::Refused,
        false => Fate::Done,
    });
    let chunks: Vec<_> = (0..20).map(|seed| chunk(seed, 100_000)).collect();
    let mut accepted = 0;
    for chunk in &chunks {
        match store.put(DATA, vec![chunk.clone()]).await {
            Ok(()) => accepted += 1,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::PermissionDenied);
                break;
            }
        }
    }
    assert!((2..=4).contains(&accepted), "memory for two uploads and the open pack, not {accepted}");
    broken.store(false, Ordering::Relaxed);
    store.put(DATA, chunks[accepted..].to_vec()).await.expect("there is room again");
    publish(&store).await;
    let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
    for (got, (_, bytes)) in open(&bucket).await.get(DATA, &ids).await.into_iter().zip(&chunks) {
        assert_eq!(&got.expect("nothing is lost"), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_waits_for_room_and_may_be_dropped() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(100_000)).await;
    bucket.rule(|request| if is_pack(request) { Fate::Held } else { Fate::Done });
    let chunks: Vec<_> = (0..10).map(|seed| chunk(seed, 100_000)).collect();
    let put = |n: usize| {
        let (id, bytes) = chunks[n].clone();
        store.put_encoded(DATA, vec![(id, Encoded::raw(bytes))]).now_or_never()
    };
    // Two in flight, one full pack that waits: the next put waits, and is dropped.
    let accepted = (0..10).take_while(|n| put(*n).is_some_and(|done| done.is_ok())).count();
    assert_eq!(accepted, 3);
    assert!(store.sync().now_or_never().is_none(), "nothing is durable yet");
    bucket.open_gate();
    publish(&store).await;
    let ids: Vec<_> = chunks[..accepted].iter().map(|(id, _)| *id).collect();
    let found = open(&bucket).await.get(DATA, &ids).await;
    assert!(found.iter().all(Result::is_ok), "a dropped put or sync took nothing with it: {found:?}");
}

/// Memory for entries is bounded: once there are many, a locator is written before anyone asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_entries_go_to_locators_early() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let entry = |n: u64| {
        let bytes = bytes::Bytes::copy_from_slice(&n.to_le_bytes());
        (gabion_store_core::types::chunk_id(&bytes), Encoded::raw(bytes))
    };
    for first in (0..200_000).step_by(1000) {
        store.put_encoded(DATA, (first..first + 1000).map(entry).collect()).await.expect("put");
    }
    let before = store.sync().await.expect("sync").locators;
    assert!((3..=4).contains(&before.len()), "{before:?}");
    assert_eq!(before.iter().map(|locator| locator.entries).sum::<u64>(), 200_000);
    let some: Vec<_> = (0..200_000).step_by(777).map(|n| entry(n).0).collect();
    bucket.requests();
    assert!(store.locate(DATA, &some).await.expect("locate").iter().all(Option::is_some));
    assert!(store.contains(DATA, &some).await.expect("contains").iter().all(|present| *present));
    assert_eq!(bucket.requests(), []);
    publish(&store).await;
    let other = open(&bucket).await;
    assert!(other.get(DATA, &some).await.iter().all(Result::is_ok));
}

/// A new checkpoint of an image that is there, by a process that knows nothing yet, and then again by the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_takes_few_requests_beyond_its_packs() {
    let bucket = Bucket::new();
    let mut bytes = Disk::random(1, 8 << 20).0;
    import_disk(&init(&bucket, packs_of(16 << 20)).await.into_store(), "vm1", Disk::new(bytes.clone())).await;
    let store = open(&bucket).await.into_store();
    let mut counts = Vec::new();
    for round in 0..6 {
        bytes[round * 1_000_000] ^= 1;
        bucket.requests();
        import_disk(&store, "vm1", Disk::new(bytes.clone())).await;
        let requests = bucket.requests();
        let others = requests.iter().filter(|request| !is_pack(request));
        let others: Vec<_> = others.map(|r| (r.write, r.key.clone(), r.bytes)).collect();
        assert_eq!(requests.len() - others.len(), 1, "one pack: {requests:#?}");
        counts.push(others.len());
    }
    assert!(counts[0] <= 14 && counts[1] <= 6 && counts[1..].iter().all(|count| *count <= 8), "{counts:?}");
}
