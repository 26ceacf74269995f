//! Records over buckets in memory and in folders, shared and by a single writer; tombstones; what is recalled.

use gabion_store_core::{
    CheckpointId,
    clock::Timestamp,
    format::image_record::HistoryEntry,
    testing::conformance::{self, Capabilities},
};
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, memory::InMemory, path::Path};
use std::sync::Arc;

use super::*;
use crate::{
    RemoteOptions,
    scripted::{Act, Scripted},
};

fn record(name: &str, n: u8) -> ImageRecord {
    ImageRecord {
        name: ImageName::new(name).unwrap(),
        history: vec![HistoryEntry {
            checkpoint: CheckpointId::from_bytes([n; 32]),
            size: 4096,
            created: Timestamp(1),
        }],
        maps: Vec::new(),
        boot_trace: None,
        writer_epoch: 0,
        write_id: WriteId::from_bytes([n; 16]),
    }
}

async fn init(bucket: Arc<dyn ObjectStore>) -> RemoteStore {
    RemoteStore::init_in(bucket, Path::from("p"), "s3://bucket/p", RemoteOptions::default()).await.unwrap()
}

async fn open(bucket: Arc<dyn ObjectStore>) -> RemoteStore {
    RemoteStore::open_in(bucket, Path::from("p"), "s3://bucket/p", RemoteOptions::default()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_bucket_conforms() {
    conformance::index_store(Capabilities::FULL, async || init(Arc::new(InMemory::new())).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_a_single_writer_conforms() {
    let options = RemoteOptions { single_writer: true, ..RemoteOptions::default() };
    conformance::index_store(Capabilities::FULL, async || {
        // Each bucket has a place of its own.
        let place = format!("memory://{}", WriteId::random().unwrap());
        let bucket = Arc::new(InMemory::new());
        RemoteStore::init_in(bucket, Path::from("p"), &place, options.clone()).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_conforms_with_a_single_writer() {
    let folder = tempfile::tempdir().unwrap();
    conformance::index_store(Capabilities::FULL, async || {
        let place = folder.path().join(WriteId::random().unwrap().to_string());
        let url = format!("file://{}?single_writer=true", place.display()).parse().unwrap();
        RemoteStore::init(&url, RemoteOptions::default()).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_folder_does_not_hold_conditional_writes() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let e = RemoteStore::init_in(bucket, Path::from("p"), "file:///p", RemoteOptions::default()).await;
    let e = e.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.to_string().contains("single_writer=true"), "{e}");
}

#[tokio::test]
async fn a_removed_image_leaves_a_tombstone_that_a_new_one_replaces() {
    let bucket = Arc::new(InMemory::new());
    let store = init(bucket.clone()).await;
    let (one, two) = (record("vm1", 1), record("vm1", 2));
    let version = store.write_image(&one, None).await.unwrap();
    store.remove_image(&one.name, &version).await.unwrap();
    let path = Path::from(format!("p/{}", layout::image_key(&one.name)));
    let bytes = bucket.get(&path).await.unwrap().bytes().await.unwrap();
    assert_eq!(Tombstone::decode(&bytes).unwrap().name, one.name);
    let other = open(bucket.clone()).await;
    assert_eq!(other.read_image(&one.name).await.unwrap(), None);
    assert_eq!(other.recall_image(&one.name).await.unwrap(), None);
    assert!(other.list_images().await.unwrap().is_empty());
    let again = other.write_image(&two, None).await.unwrap();
    assert_eq!(store.read_image(&one.name).await.unwrap().unwrap(), Versioned { value: two, version: again });
}

#[tokio::test]
async fn damage_and_misplacement_are_told_and_hide_nothing() {
    let bucket = Arc::new(InMemory::new());
    let store = init(bucket.clone()).await;
    store.write_image(&record("good", 1), None).await.unwrap();
    let put = async |name: &str, bytes: Vec<u8>| {
        let key = layout::image_key(&ImageName::new(name).unwrap());
        bucket.put(&Path::from(format!("p/{key}")), bytes.into()).await.unwrap();
    };
    put("elsewhere", record("vm1", 1).encode().unwrap()).await;
    put("damaged", b"GABIIMAG".to_vec()).await;
    bucket.put(&Path::from("p/images/README"), "no record".into()).await.unwrap();
    for name in ["elsewhere", "damaged"] {
        let e = store.read_image(&ImageName::new(name).unwrap()).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{name}");
        let e = store.write_image(&record(name, 1), None).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{name}");
    }
    let listed = store.list_images().await.unwrap();
    assert_eq!(listed[0].as_ref().unwrap().as_str(), "good");
    assert_eq!(listed.len(), 3);
    for damaged in &listed[1..] {
        let e = damaged.as_ref().unwrap_err();
        assert!(e.kind() == ErrorKind::Corrupt && e.report().contains("s3://bucket/p"), "{}", e.report());
    }
}

#[tokio::test]
async fn what_only_a_newer_library_may_write_is_not_replaced() {
    let bucket = Arc::new(InMemory::new());
    let store = init(bucket.clone()).await;
    let record = record("vm1", 1);
    store.write_image(&record, None).await.unwrap();
    let newer = async |key: &str| {
        let path = Path::from(format!("p/{key}"));
        let mut bytes = bucket.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
        bytes.truncate(bytes.len() - 4);
        bytes[18] = 1;
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bucket.put(&path, bytes.into()).await.unwrap();
    };
    newer(&layout::image_key(&record.name)).await;
    newer(CATALOG_KEY).await;
    let found = store.read_image(&record.name).await.unwrap().unwrap();
    for e in [
        store.write_image(&record, Some(&found.version)).await.map(drop).unwrap_err(),
        store.remove_image(&record.name, &found.version).await.unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(e.report().contains("use a newer gabion"), "{}", e.report());
    }
    assert_eq!(store.read_image(&record.name).await.unwrap().unwrap(), found);
    let found = store.read_catalog().await.unwrap();
    let e = store.write_catalog(&found.value, &found.version).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn what_was_read_or_written_is_recalled_until_it_is_lost() {
    let bucket = Scripted::new();
    let (store, other) = (init(bucket.clone()).await, open(bucket.clone()).await);
    let (one, two) = (record("vm1", 1), record("vm1", 2));
    let version = store.write_image(&one, None).await.unwrap();
    let catalog = store.read_catalog().await.unwrap();
    bucket.requests();
    let recalled = store.recall_image(&one.name).await.unwrap().unwrap();
    assert_eq!((&recalled.value, &recalled.version), (&one, &version));
    assert_eq!(store.recall_catalog().await.unwrap(), catalog);
    assert_eq!(bucket.requests(), [""; 0]);

    other.write_image(&two, Some(&version)).await.unwrap();
    let changed = Catalog::empty(WriteId::from_bytes([5; 16]));
    other.write_catalog(&changed, &catalog.version).await.unwrap();
    // Still what it was, and the compare-and-swap finds out.
    assert_eq!(store.recall_image(&one.name).await.unwrap().unwrap().value, one);
    assert_eq!(store.recall_catalog().await.unwrap(), catalog);
    let e = store.write_image(&record("vm1", 3), Some(&version)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    let e = store.write_catalog(&Catalog::empty(WriteId::from_bytes([6; 16])), &catalog.version).await;
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.recall_image(&one.name).await.unwrap().unwrap().value, two);
    assert_eq!(store.recall_catalog().await.unwrap().value, changed);
}

#[tokio::test]
async fn a_fresh_handle_asks_once_whether_it_may_write_and_never_to_read() {
    let bucket = Scripted::new();
    init(bucket.clone()).await;
    bucket.requests();
    let store = open(bucket.clone()).await;
    let name = ImageName::new("vm1").unwrap();
    store.read_image(&name).await.unwrap();
    let catalog = store.read_catalog().await.unwrap();
    let key = layout::image_key(&name);
    assert_eq!(bucket.requests(), ["GET p/gabion.json", &format!("GET p/{key}"), "GET p/catalog"]);
    let (one, two) = (record("vm1", 1), record("vm2", 1));
    let (a, b) = tokio::join!(store.write_image(&one, None), store.write_image(&two, None));
    a.unwrap();
    b.unwrap();
    store.write_catalog(&Catalog::empty(WriteId::from_bytes([6; 16])), &catalog.version).await.unwrap();
    let requests = bucket.requests();
    assert_eq!(
        requests.iter().filter(|request| request.starts_with("GET p/probes/")).count(),
        1,
        "{requests:?}"
    );
    assert_eq!(requests.len(), 4, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_a_publish_is_no_conflict() {
    let bucket = Scripted::new();
    let store = init(bucket.clone()).await;
    bucket.puts([Act::status_after(500)]);
    let version = store.write_image(&record("vm1", 1), None).await.unwrap();
    bucket.puts([Act::status_after(503)]);
    store.write_image(&record("vm1", 2), Some(&version)).await.unwrap();
    bucket.puts([Act::status(503), Act::status_after(500)]);
    let found = store.read_catalog().await.unwrap();
    store.write_catalog(&Catalog::empty(WriteId::from_bytes([7; 16])), &found.version).await.unwrap();
}
