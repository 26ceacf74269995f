//! Image records, catalog and maps.

use bytes::Bytes;
use gabion_store_core::{
    CheckpointId, Error, ErrorKind, ImageName, IndexStore as _,
    clock::Timestamp,
    format::{
        image_record::{HistoryEntry, ImageRecord},
        layout,
        tombstone::Tombstone,
    },
    types::{MapId, WriteId},
};

use super::fixture::Fixture;
use crate::fs::replace;

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

#[tokio::test]
async fn images_change_by_compare_and_swap_only() {
    let f = Fixture::new();
    let other = f.other();
    let (one, two, three) = (record("vm", 1), record("vm", 2), record("vm", 3));
    assert_eq!(f.store.read_image(&one.name).await.unwrap(), None);
    let v1 = f.store.write_image(&one, None).await.unwrap();
    assert_eq!(other.write_image(&two, None).await.unwrap_err().kind(), ErrorKind::Conflict);
    let read = other.read_image(&one.name).await.unwrap().unwrap();
    assert_eq!((&read.value, &read.version), (&one, &v1));
    let v2 = other.write_image(&two, Some(&v1)).await.unwrap();
    assert_eq!(f.store.write_image(&three, Some(&v1)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.store.read_image(&one.name).await.unwrap().unwrap().value, two);
    assert_eq!(f.store.remove_image(&one.name, &v1).await.unwrap_err().kind(), ErrorKind::Conflict);
    f.store.remove_image(&one.name, &v2).await.unwrap();
    assert_eq!(f.store.read_image(&one.name).await.unwrap(), None);
    assert_eq!(f.store.remove_image(&one.name, &v2).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.store.write_image(&two, Some(&v2)).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn images_are_listed_by_name_and_damage_is_no_empty_list() {
    let f = Fixture::new();
    assert!(f.store.list_images().await.unwrap().is_empty());
    for (n, name) in ["b", "a/x", "a", "B"].into_iter().enumerate() {
        f.store.write_image(&record(name, n as u8), None).await.unwrap();
    }
    let listed = async || -> Vec<String> {
        let listed = f.store.list_images().await.unwrap();
        listed.iter().map(|name| name.as_ref().map_or_else(Error::report, ToString::to_string)).collect()
    };
    assert_eq!(listed().await, ["B", "a", "a/x", "b"]);

    // A record in another's place.
    let (a, b) = (ImageName::new("a").unwrap(), ImageName::new("b").unwrap());
    let path = |name| f.store.dir().join(layout::image_key(name));
    let bytes = record("b", 9).encode().unwrap();
    replace(f.fs(), &path(&a), &bytes).unwrap();
    assert_eq!(f.store.read_image(&a).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let names = listed().await;
    assert_eq!(names[..3], ["B", "a/x", "b"]);
    assert!(names[3].contains(&layout::image_key(&a)), "{names:?}");
    replace(f.fs(), &path(&b), &bytes[..20]).unwrap();
    let e = f.store.read_image(&b).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.report().contains("image 'b'"), "{}", e.report());
}

#[tokio::test]
async fn the_catalog_changes_by_compare_and_swap_only() {
    let f = Fixture::new();
    let other = f.other();
    let mut first = f.store.read_catalog().await.unwrap();
    first.value.write_id = WriteId::random().unwrap();
    let version = other.write_catalog(&first.value, &first.version).await.unwrap();
    let late = f.store.write_catalog(&first.value, &first.version).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Conflict);
    assert_eq!(f.store.read_catalog().await.unwrap().version, version);
}

#[tokio::test]
async fn maps_are_kept_and_missing_ones_are_not_found() {
    let f = Fixture::new();
    let id = MapId::random().unwrap();
    assert_eq!(f.store.get_map(id).await.unwrap_err().kind(), ErrorKind::NotFound);
    f.store.put_map(id, Bytes::from_static(b"a map")).await.unwrap();
    assert_eq!(f.other().get_map(id).await.unwrap(), Bytes::from_static(b"a map"));
    assert_eq!(f.fs().read_dir(&f.store.dir().join("maps")).unwrap().len(), 1);
}

#[tokio::test]
async fn a_tombstone_copied_out_of_a_bucket_is_no_image() {
    let f = Fixture::new();
    let (one, two) = (record("vm", 1), record("vm", 2));
    let version = f.store.write_image(&one, None).await.unwrap();
    let tombstone = Tombstone { name: one.name.clone(), write_id: WriteId::from_bytes([9; 16]) };
    let path = f.store.dir().join(layout::image_key(&one.name));
    replace(f.fs(), &path, &tombstone.encode()).unwrap();
    assert_eq!(f.store.read_image(&one.name).await.unwrap(), None);
    assert_eq!(f.store.list_images().await.unwrap().len(), 0);
    assert_eq!(f.store.write_image(&two, Some(&version)).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(f.store.remove_image(&one.name, &version).await.unwrap_err().kind(), ErrorKind::Conflict);
    f.store.write_image(&two, None).await.unwrap();
    assert_eq!(f.store.read_image(&one.name).await.unwrap().unwrap().value, two);
    assert_eq!(f.store.write_image(&one, None).await.unwrap_err().kind(), ErrorKind::Conflict);
}
