//! Wrong bytes on the disk: always an error that names the entry, never wrong bytes, healed by a put.

use std::path::{Path, PathBuf};

use gabion_store_core::{ChunkStore as _, ErrorKind, IndexStore as _, format::layout};

use super::fixture::{Fixture, KIND, assert_holds, entries, ids};
use crate::fs::{Fs, FsFileExt as _, OpenMode, read_whole};

fn flip(fs: &dyn Fs, path: &Path, at: u64) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn path_of(key: &str) -> PathBuf {
    Path::new("/s").join(key)
}

/// Every byte of the pack in turn: what is read is right, or an error that names the entry.
#[tokio::test]
async fn a_flipped_byte_in_a_pack_is_noticed_and_healed() {
    let f = Fixture::new();
    let all = entries(1, 3, 40);
    f.store.put(KIND, all.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let path = path_of(&layout::pack_key(&f.store.packs().unwrap()[0]));
    let len = f.fs().stat(&path).unwrap().len;
    for at in 0..len {
        flip(f.fs(), &path, at);
        let store = f.other();
        for ((id, bytes), got) in all.iter().zip(store.get(KIND, &ids(&all)).await) {
            match got {
                Ok(got) => assert_eq!(got, bytes),
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "{e:?}");
                    if e.kind() == ErrorKind::Corrupt {
                        assert!(e.to_string().contains(&id.to_string()), "{e}");
                        assert_eq!(store.contains(KIND, &[*id]).await.unwrap(), [false]);
                    }
                }
            }
        }
        flip(f.fs(), &path, at);
    }
    assert_holds(&f.other(), &all).await;
}

#[tokio::test]
async fn a_damaged_entry_is_healed_for_everyone_and_stays_healed_when_locators_merge() {
    let f = Fixture::new();
    let all = entries(2, 4, 60);
    f.store.put(KIND, all.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let bad = &all[2];
    let place = f.store.locate(KIND, &[bad.0]).await.unwrap()[0].unwrap();
    flip(f.fs(), &path_of(&layout::pack_key(&place.pack)), place.offset + 5);

    let e = f.store.get(KIND, &ids(&all)).await.remove(2).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert_eq!(f.store.contains(KIND, &ids(&all)).await.unwrap(), [true, true, false, true]);
    f.store.put(KIND, all.clone()).await.unwrap();
    assert_holds(&f.store, &all).await;
    f.store.sync().await.unwrap();
    assert_ne!(f.store.locate(KIND, &[bad.0]).await.unwrap()[0].unwrap().pack, place.pack);
    assert_holds(&f.other(), &all).await;

    for n in 0..8 {
        f.store.put(KIND, entries(50 + n, 2, 50)).await.unwrap();
        f.store.sync().await.unwrap();
    }
    drop(f.store.0.merging.lock());
    f.store.0.merge_locators();
    assert!(f.store.read_catalog().await.unwrap().value.locators.len() < 8);
    assert_holds(&f.other(), &all).await;

    let pack = f.store.verify_pack(place.pack, true).unwrap();
    assert!(pack.sealed);
    assert_eq!(pack.damaged.iter().map(|entry| entry.key.id).collect::<Vec<_>>(), [bad.0]);
}

/// The damage is in a pack that is still open: the new entry goes into another pack.
#[tokio::test]
async fn an_entry_damaged_before_its_pack_is_sealed_is_healed() {
    let f = Fixture::new();
    let all = entries(3, 3, 60);
    f.store.put(KIND, all.clone()).await.unwrap();
    let place = f.store.locate(KIND, &[all[1].0]).await.unwrap()[0].unwrap();
    flip(f.fs(), &path_of(&layout::pack_key(&place.pack)), place.offset);
    assert!(f.store.get(KIND, &[all[1].0]).await.remove(0).is_err());
    f.store.put(KIND, all.clone()).await.unwrap();
    assert_holds(&f.store, &all).await;
    f.store.sync().await.unwrap();
    assert_holds(&f.store, &all).await;
    assert_holds(&f.other(), &all).await;
}

#[tokio::test]
async fn a_missing_or_cut_pack_is_damage_of_its_entries_alone() {
    for cut in [None, Some(10), Some(300)] {
        let f = Fixture::new();
        let (lost, kept) = (entries(4, 3, 100), entries(5, 3, 100));
        f.store.put(KIND, lost.clone()).await.unwrap();
        f.store.sync().await.unwrap();
        let path = path_of(&layout::pack_key(&f.store.packs().unwrap()[0]));
        f.store.put(KIND, kept.clone()).await.unwrap();
        f.store.sync().await.unwrap();
        match cut {
            None => f.fs().remove_file(&path).unwrap(),
            Some(len) => f.fs().open(&path, OpenMode::ReadWrite).unwrap().set_len(len).unwrap(),
        }
        let store = f.other();
        let got = store.get(KIND, &ids(&lost)).await;
        let whole = if cut == Some(300) { 1 } else { 0 };
        assert_eq!(got.iter().filter(|entry| entry.is_ok()).count(), whole);
        for e in got.into_iter().filter_map(Result::err) {
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
        }
        assert_holds(&store, &kept).await;
        store.put(KIND, lost.clone()).await.unwrap();
        store.sync().await.unwrap();
        assert_holds(&f.other(), &lost).await;
    }
}

/// Row 12.
#[tokio::test]
async fn swapped_packs_are_noticed() {
    let f = Fixture::new();
    let (one, two) = (entries(6, 1, 100), entries(7, 1, 100));
    for each in [&one, &two] {
        f.store.put(KIND, each.clone()).await.unwrap();
        f.store.sync().await.unwrap();
    }
    let paths: Vec<_> = f.store.packs().unwrap().iter().map(|id| path_of(&layout::pack_key(id))).collect();
    f.fs().rename(&paths[0], Path::new("/s/aside")).unwrap();
    f.fs().rename(&paths[1], &paths[0]).unwrap();
    f.fs().rename(Path::new("/s/aside"), &paths[1]).unwrap();
    for got in f.other().get(KIND, &[one[0].0, two[0].0]).await {
        assert_eq!(got.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// Every byte of the locator in turn: never "absent" to a reader, and no obstacle to storing again.
#[tokio::test]
async fn a_damaged_locator_makes_nothing_absent() {
    let f = Fixture::new();
    let all = entries(8, 3, 40);
    f.store.put(KIND, all.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let id = f.store.read_catalog().await.unwrap().value.locators[0].id;
    let path = path_of(&layout::locator_key(&id));
    let len = read_whole(f.fs(), &path, 1 << 20).unwrap().len() as u64;
    for at in (0..len).step_by(41) {
        flip(f.fs(), &path, at);
        let store = f.other();
        for ((_, bytes), got) in all.iter().zip(store.get(KIND, &ids(&all)).await) {
            match got {
                Ok(got) => assert_eq!(got, bytes),
                Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}"),
            }
        }
        flip(f.fs(), &path, at);
    }
    f.fs().remove_file(&path).unwrap();
    let store = f.other();
    for got in store.get(KIND, &ids(&all)).await {
        assert_eq!(got.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    store.put(KIND, all.clone()).await.unwrap();
    store.sync().await.unwrap();
    assert_holds(&f.other(), &all).await;
}

/// What one process finds damaged, another stores anew; what was restored meanwhile is sound again.
#[tokio::test]
async fn damage_is_remembered_for_later_handles() {
    let f = Fixture::new();
    let all = entries(8, 3, 60);
    f.store.put(KIND, all.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let place = f.store.locate(KIND, &[all[1].0]).await.unwrap()[0].unwrap();
    let pack = path_of(&layout::pack_key(&place.pack));
    flip(f.fs(), &pack, place.offset + 5);
    assert!(f.other().get(KIND, &[all[1].0]).await[0].is_err());
    assert_eq!(f.other().contains(KIND, &ids(&all)).await.unwrap(), [true, false, true]);

    flip(f.fs(), &pack, place.offset + 5);
    assert_holds(&f.other(), &all).await;
    assert_eq!(f.other().contains(KIND, &ids(&all)).await.unwrap(), [true, true, true]);

    // Lines that say nothing, and a torn one, are no obstacle.
    let file = f.fs().open(&path_of("damaged"), OpenMode::ReadWrite).unwrap();
    file.write_all_at(b"\xff\n7 x y\n0 ", file.len().unwrap()).unwrap();
    flip(f.fs(), &pack, place.offset + 5);
    assert!(f.other().get(KIND, &[all[1].0]).await[0].is_err());
    let other = f.other();
    other.put(KIND, all.clone()).await.unwrap();
    other.sync().await.unwrap();
    assert_holds(&f.other(), &all).await;
}

#[tokio::test]
async fn entries_of_a_missing_or_cut_pack_are_stored_anew() {
    let f = Fixture::new();
    let all = entries(9, 3, 60);
    f.store.put(KIND, all.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let place = f.store.locate(KIND, &[all[2].0]).await.unwrap()[0].unwrap();
    let pack = path_of(&layout::pack_key(&place.pack));
    f.fs().open(&pack, OpenMode::ReadWrite).unwrap().set_len(place.offset + 1).unwrap();
    assert_eq!(f.other().contains(KIND, &[all[2].0]).await.unwrap(), [false]);
    f.fs().remove_file(&pack).unwrap();
    let other = f.other();
    assert_eq!(other.contains(KIND, &ids(&all)).await.unwrap(), [false; 3]);
    other.put(KIND, all.clone()).await.unwrap();
    other.sync().await.unwrap();
    assert_holds(&f.other(), &all).await;
}
