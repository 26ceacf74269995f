//! Putting, finding, reading, merging.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    ChunkKind, ChunkStore as _, ErrorKind, IndexStore as _,
    clock::Timestamp,
    format::{
        catalog::{Catalog, Replaced},
        codec::{Compression, Encoder},
        layout,
    },
    testing::FixedClock,
    types::{LocatorId, id_of},
};

use super::{
    super::{LocalStore, LocalStoreOptions},
    fixture::{Fixture, KIND, assert_holds, assert_lacks, entries, ids, on_disk, options},
};
use crate::fs::{Fs, OpenMode, StdFs};

#[tokio::test]
async fn what_is_put_is_read_before_and_after_sync_and_by_others_after_it() {
    let f = Fixture::new();
    let small = entries(1, 5, 500);
    f.store.put(KIND, small.clone()).await.unwrap();
    assert_holds(&f.store, &small).await;
    assert_eq!(f.store.contains(KIND, &ids(&small)).await.unwrap(), vec![true; 5]);

    let other = f.other();
    assert_lacks(&other, &small).await;
    f.store.sync().await.unwrap();
    assert_holds(&f.store, &small).await;
    // The handle that was open before sees it after a miss.
    assert_holds(&other, &small).await;
    assert_holds(&f.other(), &small).await;
}

/// However small they are: their tables are kept in memory until the pack is sealed.
#[tokio::test]
async fn a_pack_is_full_of_many_entries_too() {
    let f = Fixture::new();
    let store = LocalStore::open_with(
        Arc::new(f.mem.clone()),
        Path::new("/s"),
        LocalStoreOptions { pack_target: 64 << 20, ..options() },
    )
    .unwrap();
    let many: Vec<_> = (0..(1 << 16) + 9_u32)
        .map(|n| Bytes::copy_from_slice(&n.to_le_bytes()))
        .map(|bytes| (id_of(KIND, &bytes), bytes))
        .collect();
    for part in many.chunks(10_000) {
        store.put(KIND, part.to_vec()).await.unwrap();
    }
    store.sync().await.unwrap();
    let packs = store.packs().unwrap();
    let mut counts: Vec<_> =
        packs.iter().map(|id| store.verify_pack(*id, false).unwrap().entries.len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [9, 1 << 16]);
    assert_holds(&store, &many[65_000..]).await;
}

#[tokio::test]
async fn full_packs_become_live_by_themselves_and_order_does_not_matter() {
    let (_dir, store) = on_disk();
    let many = entries(2, 300, 1000);
    for part in many.chunks(37) {
        store.put(KIND, part.to_vec()).await.unwrap();
    }
    store.sync().await.unwrap();
    assert!(store.packs().unwrap().len() > 10);
    let mut shuffled = many.clone();
    shuffled.sort();
    assert_holds(&store, &shuffled).await;
    shuffled.reverse();
    assert_holds(&store, &shuffled).await;
    let usage = store.usage().unwrap();
    assert_eq!(usage.entries, 300);
    assert_eq!(usage.pack_count, store.packs().unwrap().len() as u64);
    for pack in store.packs().unwrap() {
        let report = store.verify_pack(pack, true).unwrap();
        assert!(report.sealed && report.damaged.is_empty());
    }
}

#[tokio::test]
async fn kinds_are_apart_and_absent_entries_are_named() {
    let f = Fixture::new();
    let one = entries(3, 1, 100);
    f.store.put(KIND, one.clone()).await.unwrap();
    let wrong = f.store.get(ChunkKind::Node, &ids(&one)).await.remove(0).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::NotFound);
    assert!(wrong.to_string().contains(&one[0].0.to_string()), "{wrong}");
    let node = Bytes::from_static(b"a node");
    let id = id_of(ChunkKind::Node, &node);
    f.store.put(ChunkKind::Node, vec![(id, node.clone())]).await.unwrap();
    f.store.sync().await.unwrap();
    assert_eq!(f.other().get(ChunkKind::Node, &[id]).await.remove(0).unwrap(), node);
    assert!(f.store.get(KIND, &[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_puts_of_one_entry_store_it_once() {
    let f = Fixture::new();
    let many = entries(4, 100, 400);
    let puts = (0..8).map(|n| {
        let (store, mut many) = (f.store.clone(), many.clone());
        many.rotate_left(n * 11);
        tokio::spawn(async move { store.put(KIND, many).await })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.unwrap().unwrap();
    }
    f.store.put(KIND, many.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    f.other().put(KIND, many.clone()).await.unwrap();
    let mut stored = 0;
    for pack in f.store.packs().unwrap() {
        stored += f.store.verify_pack(pack, true).unwrap().entries.len();
    }
    assert_eq!(stored, 100);
    assert_holds(&f.store, &many).await;
}

#[tokio::test]
async fn a_cancelled_put_harms_nobody() {
    let f = Fixture::new();
    let (mine, others) = (entries(5, 50, 700), entries(6, 20, 700));
    f.store.put(KIND, others.clone()).await.unwrap();
    // Polled once, then dropped: the work goes on, and may close the pack that holds the others.
    let _ = futures::FutureExt::now_or_never(f.store.put(KIND, mine.clone()));
    f.store.sync().await.unwrap();
    assert_holds(&f.other(), &others).await;
    f.store.put(KIND, mine.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    assert_holds(&f.other(), &mine).await;
}

/// A sync covers what was put before it, whoever seals the pack it is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sync_beside_puts_and_other_syncs_covers_what_was_put_before() {
    for round in 0..40 {
        let f = Fixture::new();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..4 {
            let (store, other) = (f.store.clone(), f.other());
            tasks.spawn(async move {
                let mine = entries(1000 * round + task, 12, 700);
                store.put(KIND, mine.clone()).await.unwrap();
                store.sync().await.unwrap();
                assert_holds(&other, &mine).await;
            });
        }
        tasks.join_all().await;
    }
}

#[tokio::test]
async fn entries_travel_encoded() {
    let f = Fixture::new();
    let soft = Bytes::from(vec![9; 30_000]);
    let id = id_of(KIND, &soft);
    let encoded = Encoder::new(Compression::Zstd(1)).unwrap().encode(&soft);
    f.store.put_encoded(KIND, vec![(id, encoded.clone())]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(f.store.get_encoded(KIND, &[id]).await.remove(0).unwrap(), encoded);
        assert_eq!(f.store.get(KIND, &[id]).await.remove(0).unwrap(), soft);
        let place = f.store.locate(KIND, &[id]).await.unwrap()[0].unwrap();
        assert_eq!((place.stored_len as usize, place.raw_len), (encoded.bytes.len(), 30_000));
        f.store.sync().await.unwrap();
    }
    assert_eq!(f.store.get_range(KIND, &id, 29_990, 10).await.unwrap(), soft.slice(29_990..));
    assert!(f.store.get_range(KIND, &id, 29_990, 11).await.is_err());
}

/// Syncs so many times, after some entries each, and merges what comes of it. Gives the catalog and all entries.
async fn merged(f: &Fixture, syncs: u64, each: u64) -> (Catalog, Vec<(gabion_store_core::ChunkId, Bytes)>) {
    let mut all = Vec::new();
    for n in 0..syncs {
        let some = entries(100 + n, each, 50);
        f.store.put(KIND, some.clone()).await.unwrap();
        f.store.sync().await.unwrap();
        all.extend(some);
    }
    // Whatever runs in the background ends; then this does the rest.
    drop(f.store.0.merging.lock());
    f.store.0.merge_locators();
    (f.store.read_catalog().await.unwrap().value, all)
}

#[tokio::test]
async fn locators_are_merged_and_lose_nothing() {
    let f = Fixture::new();
    let (catalog, all) = merged(&f, 40, 3).await;
    assert!(catalog.locators.len() <= 14, "{}", catalog.locators.len());
    assert_eq!(catalog.locators.iter().map(|locator| locator.entries).sum::<u64>(), 120);
    assert!(!catalog.replaced.is_empty());
    assert_holds(&f.store, &all).await;
    assert_holds(&f.other(), &all).await;
}

/// A store that has lived long without a collection goes on.
#[tokio::test]
async fn locators_are_merged_however_many_were_before() {
    let f = Fixture::new();
    let mut full = f.store.read_catalog().await.unwrap();
    let old = |n: usize| LocatorId::from_bytes((n as u128).to_le_bytes());
    let old = (0..Catalog::MAX_LIST).map(|n| Replaced::Locator(old(n), Timestamp(1)));
    full.value.replaced = old.collect();
    f.store.write_catalog(&full.value, &full.version).await.unwrap();
    let (catalog, all) = merged(&f, 20, 1).await;
    assert!(catalog.locators.len() < 10, "{}", catalog.locators.len());
    assert_holds(&f.other(), &all).await;
}

#[tokio::test]
async fn two_handles_write_at_once() {
    let f = Fixture::new();
    let other = f.other();
    let (left, right) = (entries(7, 60, 600), entries(8, 60, 600));
    for (a, b) in left.chunks(10).zip(right.chunks(10)) {
        let (a, b) = futures::join!(f.store.put(KIND, a.to_vec()), other.put(KIND, b.to_vec()));
        a.and(b).unwrap();
        let (a, b) = futures::join!(f.store.sync(), other.sync());
        a.and(b).unwrap();
    }
    assert_holds(&f.store, &right).await;
    assert_holds(&other, &left).await;
    assert_holds(&f.other(), &left).await;
}

#[tokio::test]
async fn answers_name_the_generation_they_were_given_under() {
    let f = Fixture::new();
    assert_eq!(f.store.sync().await.unwrap().answered_under, None);
    let one = entries(9, 1, 100);
    assert!(!f.store.contains(KIND, &ids(&one)).await.unwrap()[0]);
    assert_eq!(f.store.sync().await.unwrap().answered_under, None);
    f.store.put(KIND, one.clone()).await.unwrap();
    assert_eq!(f.store.sync().await.unwrap().answered_under, Some(0));

    let mut catalog = f.store.read_catalog().await.unwrap();
    catalog.value.condemn_generation = 1;
    f.store.write_catalog(&catalog.value, &catalog.version).await.unwrap();
    assert!(!f.store.contains(KIND, &ids(&entries(10, 1, 100))).await.unwrap()[0]);
    // Handed out once as void; from then on only newer answers count.
    assert_eq!(f.store.sync().await.unwrap().answered_under, Some(0));
    assert_eq!(f.store.sync().await.unwrap().answered_under, Some(1));
}

#[test]
fn only_stores_open() {
    let f = Fixture::new();
    let open = |path: &str| LocalStore::open(Arc::new(f.mem.clone()), Path::new(path)).unwrap_err();
    assert_eq!(open("/nowhere").kind(), ErrorKind::NotFound);
    f.fs().create_dir(Path::new("/plain")).unwrap();
    assert_eq!(open("/plain").kind(), ErrorKind::Invalid);
    let init =
        |path: &str| LocalStore::init(Arc::new(f.mem.clone()), Path::new(path), &FixedClock::default());
    assert_eq!(init("/s").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(init("/no/parent").unwrap_err().kind(), ErrorKind::NotFound);
    f.fs().open(Path::new("/plain/letter"), OpenMode::CreateNew).unwrap();
    let foreign = init("/plain").unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Invalid);
    assert!(foreign.to_string().contains("letter"), "{foreign}");

    let newer = f.store.0.descriptor.encode().replace("\"version\": 1", "\"version\": 2");
    let (members, _) = newer.rsplit_once(",\n  \"crc32c\"").unwrap();
    let plain = format!("{members}\n}}\n");
    let sealed = format!("{members},\n  \"crc32c\": \"{:08x}\"\n}}\n", crc32c::crc32c(plain.as_bytes()));
    for (text, kind) in
        [(newer, ErrorKind::Corrupt), (plain, ErrorKind::Unsupported), (sealed, ErrorKind::Unsupported)]
    {
        crate::fs::replace(f.fs(), Path::new("/s/gabion.json"), text.as_bytes()).unwrap();
        assert_eq!(open("/s").kind(), kind, "{text}");
    }
    for (key, kind) in [("catalog", ErrorKind::Corrupt), ("gabion.json", ErrorKind::Invalid)] {
        let g = Fixture::new();
        g.fs().remove_file(&Path::new("/s").join(key)).unwrap();
        let e = LocalStore::open(Arc::new(g.mem.clone()), Path::new("/s")).unwrap_err();
        assert_eq!(e.kind(), kind, "{e}");
    }
}

#[test]
fn an_interrupted_init_is_finished_by_the_next() {
    let f = Fixture::new();
    f.fs().remove_file(Path::new("/s/gabion.json")).unwrap();
    let again = LocalStore::init(Arc::new(f.mem.clone()), Path::new("/s"), &FixedClock::default());
    assert!(again.is_ok());
}

#[tokio::test]
async fn the_layout_is_the_documented_one() {
    let (dir, store) = on_disk();
    store.put(KIND, entries(1, 1, 10)).await.unwrap();
    store.sync().await.unwrap();
    let fs = StdFs;
    let root = dir.path().join("s");
    let names = fs.read_dir(&root).unwrap();
    let names: Vec<_> = names.iter().filter_map(|name| name.to_str()).collect();
    assert_eq!(names, ["catalog", "gabion.json", "images", "locators", "lock", "maps", "packs"]);
    let pack = store.packs().unwrap()[0];
    assert!(fs.stat(&root.join(layout::pack_key(&pack))).is_ok());
    assert_eq!(LocalStoreOptions::default().pack_target, 64 << 20);
}
