//! Cases for [`IndexStore`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::{sync::Barrier, task::JoinSet};

use super::{
    chunks::join,
    sample::{name, record, write_id},
};
use crate::{
    CheckpointId, ErrorKind, ImageName, IndexStore, Result,
    clock::Timestamp,
    format::{
        catalog::{Catalog, LocatorRef, PendingRoot, Pin, Replaced},
        image_record::{HistoryEntry, ImageRecord},
    },
    store::{Version, Versioned},
    testing::Rng,
    types::{LocatorId, MapId, VolumeId},
};

const TASKS: usize = 8;
const ROUNDS: u64 = 5;

async fn read(store: &dyn IndexStore, image: &str) -> Option<Versioned<ImageRecord>> {
    store.read_image(&name(image)).await.expect("read_image")
}

/// Reads an image that must be there with exactly this record.
async fn assert_image(store: &dyn IndexStore, expected: &ImageRecord) -> Version {
    let found = store.read_image(&expected.name).await.expect("read_image");
    let found = found.unwrap_or_else(|| panic!("image '{}' is gone", expected.name));
    assert_eq!(&found.value, expected, "image '{}' is not what was written", expected.name);
    found.version
}

fn assert_conflict<T>(result: Result<T>, what: &str) {
    match result {
        Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "{what} must be Conflict, got {e:?}"),
        Ok(_) => panic!("{what} must be Conflict, but succeeded"),
    }
}

async fn names(store: &dyn IndexStore) -> Vec<ImageName> {
    let listed = store.list_images().await.expect("list_images");
    listed.into_iter().collect::<Result<_>>().expect("no record is damaged")
}

/// A fresh store has no image, an empty catalog, no map, and one descriptor.
pub(super) async fn fresh_is_empty(store: &dyn IndexStore) {
    assert_eq!(names(store).await, []);
    assert_eq!(read(store, "vm1").await, None, "read_image of no image");
    let catalog = store.read_catalog().await.expect("a fresh store has a catalog").value;
    assert_eq!((catalog.locators, catalog.pending, catalog.pins), (vec![], vec![], vec![]));
    assert_eq!(catalog.replaced, []);
    assert_eq!(store.descriptor(), store.descriptor());
}

/// Creation succeeds once; the second changes nothing.
pub(super) async fn image_is_created_once(store: &dyn IndexStore) {
    let first = record("vm1", 1, 1);
    let version = store.write_image(&first, None).await.expect("create");
    assert_conflict(store.write_image(&record("vm1", 2, 2), None).await, "creating an image that exists");
    let read = assert_image(store, &first).await;
    assert_eq!(read, version, "the version written is the version read");
    assert_eq!(names(store).await, std::slice::from_ref(&first.name));
    // Another name is another image, even if only its case differs.
    let other = record("VM1", 3, 1);
    store.write_image(&other, None).await.expect("create beside it");
    assert_image(store, &other).await;
    assert_image(store, &first).await;
}

async fn read_value(store: &dyn IndexStore, image: &str) -> ImageRecord {
    read(store, image).await.unwrap_or_else(|| panic!("image '{image}' is gone")).value
}

/// Only the current version can be replaced; a lost compare-and-swap changes nothing.
pub(super) async fn image_is_replaced_by_version(store: &dyn IndexStore) {
    let v1 = store.write_image(&record("vm1", 1, 1), None).await.expect("create");
    let mut second = record("vm1", 2, 7);
    second.history.push(HistoryEntry {
        checkpoint: CheckpointId::from_bytes([1; CheckpointId::LEN]),
        size: 1 << 29,
        created: Timestamp(1_600_000_000_000),
    });
    second.maps = (1..=4).map(|byte| MapId::from_bytes([byte; MapId::LEN])).collect();
    second.boot_trace = Some(MapId::from_bytes([9; MapId::LEN]));
    let v2 = store.write_image(&second, Some(&v1)).await.expect("replace by the version written");
    assert_ne!(v1, v2, "a replaced record has another version");
    assert_conflict(store.write_image(&record("vm1", 3, 3), Some(&v1)).await, "replacing an old version");
    let read = assert_image(store, &second).await;
    let third = record("vm1", 4, 8);
    let v3 = store.write_image(&third, Some(&read)).await.expect("replace by the version read");
    // The same value as before, written anew, is a new version: an old reader still loses.
    let v4 = store.write_image(&ImageRecord { write_id: write_id(), ..second }, Some(&v3)).await;
    v4.expect("back to an earlier value");
    assert_conflict(store.write_image(&record("vm1", 5, 9), Some(&v2)).await, "replacing across A-B-A");
    assert_conflict(store.write_image(&record("vm2", 1, 1), Some(&v3)).await, "replacing an absent image");
    assert!(self::read(store, "vm2").await.is_none(), "a lost compare-and-swap created the image");
}

/// Only the current version can be removed; the name is free after.
pub(super) async fn image_is_removed_by_version(store: &dyn IndexStore) {
    let vm1 = name("vm1");
    let v1 = store.write_image(&record("vm1", 1, 1), None).await.expect("create");
    let second = record("vm1", 2, 1);
    let v2 = store.write_image(&second, Some(&v1)).await.expect("replace");
    assert_conflict(store.remove_image(&vm1, &v1).await, "removing an old version");
    assert_image(store, &second).await;
    store.remove_image(&vm1, &v2).await.expect("remove");
    assert!(read(store, "vm1").await.is_none(), "a removed image is still there");
    assert_eq!(names(store).await, []);
    assert_conflict(store.remove_image(&vm1, &v2).await, "removing what is gone");
    assert_conflict(store.write_image(&record("vm1", 3, 1), Some(&v2)).await, "replacing what is gone");
    let again = record("vm1", 4, 1);
    store.write_image(&again, None).await.expect("create anew");
    assert_conflict(store.remove_image(&vm1, &v2).await, "removing a new image by an old version");
    assert_image(store, &again).await;
}

/// The list is whole and sorted, whatever the names look like.
pub(super) async fn names_are_listed_sorted(store: &dyn IndexStore) {
    let long = "x".repeat(255);
    let texts = ["z", "a/b/c", "a", "team/web-3", "A", "Ünïcode", "a.b_c", "a b", "..x", &long];
    let mut names: Vec<_> = texts.map(name).into();
    for text in texts {
        store.write_image(&record(text, 1, 1), None).await.expect("create");
    }
    names.sort();
    assert_eq!(self::names(store).await, names);
    for text in texts {
        assert_eq!(read_value(store, text).await.name, name(text));
    }
}

fn sample_catalog(stamp: u8) -> Catalog {
    let checkpoint = CheckpointId::from_bytes([stamp; CheckpointId::LEN]);
    let since = Timestamp(1_700_000_000_000);
    Catalog {
        condemn_generation: u64::from(stamp),
        locators: vec![LocatorRef { id: LocatorId::from_bytes([stamp; LocatorId::LEN]), entries: 3 }],
        pending: vec![PendingRoot { checkpoint, image: name("team/vm1"), since }],
        pins: vec![Pin { owner: VolumeId::from_bytes([stamp; VolumeId::LEN]), checkpoint, since }],
        replaced: vec![
            Replaced::Locator(LocatorId::from_bytes([stamp; LocatorId::LEN]), since),
            Replaced::Map(MapId::from_bytes([stamp; MapId::LEN]), since),
        ],
        write_id: write_id(),
    }
}

/// Only the current version of the catalog can be replaced.
pub(super) async fn catalog_is_replaced_by_version(store: &dyn IndexStore) {
    let v0 = store.read_catalog().await.expect("read_catalog").version;
    let first = sample_catalog(1);
    let v1 = store.write_catalog(&first, &v0).await.expect("write_catalog");
    assert_conflict(store.write_catalog(&sample_catalog(2), &v0).await, "replacing an old catalog");
    let read = store.read_catalog().await.expect("read_catalog");
    assert_eq!(read.value, first, "a lost compare-and-swap changed the catalog");
    assert_eq!(read.version, v1, "the version written is the version read");
    let third = sample_catalog(3);
    store.write_catalog(&third, &read.version).await.expect("replace by the version read");
    assert_eq!(store.read_catalog().await.expect("read_catalog").value, third);
}

/// Maps are kept as they are; an absent one is `NotFound`.
pub(super) async fn maps_are_kept(store: &dyn IndexStore) {
    let mut rng = Rng::new(11);
    let id = |byte| MapId::from_bytes([byte; MapId::LEN]);
    let maps = [1, 100, 1 << 20].map(|len| Bytes::from(rng.bytes(len)));
    for (byte, map) in (1..).zip(&maps) {
        store.put_map(id(byte), map.clone()).await.expect("put_map");
        store.put_map(id(byte), map.clone()).await.expect("the same put_map again");
    }
    for (byte, map) in (1..).zip(&maps) {
        assert_eq!(&store.get_map(id(byte)).await.expect("get_map"), map, "map {byte} is another one");
    }
    match store.get_map(id(200)).await {
        Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "an absent map must be NotFound, got {e:?}"),
        Ok(_) => panic!("a map that was never put was answered"),
    }
}

/// Starts a call on every task at once and gives back the successful answers.
async fn race<T: Send + 'static, F>(call: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = Result<T>> + Send + 'static,
{
    let barrier = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (call, barrier) = (call(task), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            call.await
        });
    }
    let mut won = Vec::new();
    for result in tasks.join_all().await {
        match result {
            Ok(value) => won.push(value),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict, "a lost race must be Conflict, got {e:?}"),
        }
    }
    won
}

/// Many create one image at once: one succeeds, and the image is the winner's.
pub(super) async fn one_creator_wins(store: Arc<dyn IndexStore>) {
    for round in 0..ROUNDS {
        let image = format!("vm{round}");
        let won = race(|task| {
            let (store, record) = (store.clone(), record(&image, task as u8 + 1, round));
            async move { store.write_image(&record, None).await.map(|version| (record, version)) }
        })
        .await;
        assert_eq!(won.len(), 1, "round {round}: one create must win");
        assert_eq!(assert_image(&*store, &won[0].0).await, won[0].1);
    }
}

/// Many replace one version at once: one wins in each round, and its record stands.
pub(super) async fn one_writer_wins_each_round(store: Arc<dyn IndexStore>) {
    let mut version = store.write_image(&record("vm1", 0, 0), None).await.expect("create");
    for round in 1..=ROUNDS {
        let won = race(|task| {
            let (store, version) = (store.clone(), version.clone());
            let record = record("vm1", task as u8 + 1, round);
            async move { store.write_image(&record, Some(&version)).await.map(|version| (record, version)) }
        })
        .await;
        assert_eq!(won.len(), 1, "round {round}: one replacement must win");
        version = assert_image(&*store, &won[0].0).await;
        assert_eq!(version, won[0].1);
    }
}

/// Removal and replacement of one version at once: one of them wins, and what it did stands.
pub(super) async fn removal_races_replacement(store: Arc<dyn IndexStore>) {
    for round in 0..ROUNDS {
        let image = format!("vm{round}");
        let version = store.write_image(&record(&image, 0, 0), None).await.expect("create");
        let won = race(|task| {
            let (store, version, image) = (store.clone(), version.clone(), image.clone());
            async move {
                if task % 2 == 0 {
                    store.remove_image(&name(&image), &version).await.map(|()| None)
                } else {
                    let record = record(&image, task as u8, round);
                    store.write_image(&record, Some(&version)).await.map(|_| Some(record))
                }
            }
        })
        .await;
        assert_eq!(won.len(), 1, "round {round}: one removal or replacement must win");
        let found = read(&*store, &image).await.map(|found| found.value);
        assert_eq!(found, won[0], "round {round}: what the winner did must stand");
    }
}

/// Many add pins to the catalog, each retrying when it lost: none is lost, none is there twice.
pub(super) async fn catalog_loses_no_update(store: Arc<dyn IndexStore>) {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS as u8 {
        let store = store.clone();
        tasks.spawn(async move {
            for round in 0..ROUNDS as u8 {
                let owner = VolumeId::from_bytes([task * 16 + round; VolumeId::LEN]);
                add_pin(&*store, owner).await;
            }
        });
    }
    join(tasks).await;
    let found = store.read_catalog().await.expect("read_catalog").value;
    let owners: Vec<_> = found.pins.iter().map(|pin| pin.owner).collect();
    let expected: Vec<_> = (0..TASKS as u8)
        .flat_map(|task| (0..ROUNDS as u8).map(move |round| VolumeId::from_bytes([task * 16 + round; 16])))
        .collect();
    assert_eq!(owners, expected, "updates of the catalog were lost or doubled");
}

async fn add_pin(store: &dyn IndexStore, owner: VolumeId) {
    loop {
        let Versioned { value: mut catalog, version } = store.read_catalog().await.expect("read_catalog");
        let checkpoint = CheckpointId::from_bytes([1; CheckpointId::LEN]);
        catalog.pins.push(Pin { owner, checkpoint, since: Timestamp(1) });
        catalog.pins.sort_by_key(|pin| (pin.owner, pin.checkpoint));
        catalog.write_id = write_id();
        match store.write_catalog(&catalog, &version).await {
            Ok(_) => return,
            // A single-threaded runtime lets the others go on.
            Err(e) if e.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
            Err(e) => panic!("write_catalog: {e:?}"),
        }
    }
}
