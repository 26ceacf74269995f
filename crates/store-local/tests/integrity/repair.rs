//! Stores with something lost or damaged, and what a repair makes of them.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use gabion_store_core::{
    ChunkStore, IndexStore as _, Store,
    clock::Timestamp,
    ops::{Depth, Job, heal},
    stores::Healing,
    testing::{FixedClock, Rng},
};
use gabion_store_local::{
    fs::{FaultFs, Fs, FsFault, MemFs, On},
    store::{LocalStore, RepairOptions, RepairReport},
};

use crate::rig::*;

fn options(dry_run: bool) -> RepairOptions {
    RepairOptions { dry_run, pins: Vec::new(), clock: Arc::new(FixedClock::new(Timestamp(77))) }
}

fn repair(fs: &MemFs) -> RepairReport {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    LocalStore::repair(&fs, Path::new(STORE), &options(false), &Job::default()).unwrap()
}

async fn damaged_store(damage: impl Fn(&str, &mut Vec<u8>) -> bool) -> MemFs {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let mut any = false;
    for (path, mut bytes) in files(&fs, Path::new(STORE)) {
        if damage(&path, &mut bytes) {
            any = true;
            if bytes.is_empty() {
                fs.remove_file(Path::new(&path)).unwrap();
            } else {
                put(&fs, &path, &bytes);
            }
        }
    }
    assert!(any, "nothing was damaged");
    fs
}

async fn assert_whole(fs: &MemFs, what: &str) {
    let local = open(fs, STORE).unwrap();
    let damage = check_all(&local, Depth::Hashes).await.unwrap();
    assert!(damage.is_empty(), "{what}: {damage:?}");
    let store = local.into_store();
    for (image, disk) in images() {
        assert!(content(&store, &image).await.unwrap() == disk, "{what}: image '{image}'");
    }
}

type Change = fn(&str, &mut Vec<u8>) -> bool;

fn gone(path: &str, part: &str, bytes: &mut Vec<u8>) -> bool {
    path.contains(part) && {
        bytes.clear();
        true
    }
}

fn flipped(path: &str, part: &str, at: usize, bytes: &mut [u8]) -> bool {
    path.contains(part) && {
        bytes[at] ^= 4;
        true
    }
}

/// Damage that a store can be cured of without another.
const CURABLE: &[(&str, Change)] = &[
    ("no catalog", |path, bytes| gone(path, "/catalog", bytes)),
    ("a damaged catalog", |path, bytes| flipped(path, "/catalog", 60, bytes)),
    ("no locators", |path, bytes| gone(path, "/locators/", bytes)),
    ("damaged locators", |path, bytes| flipped(path, "/locators/", 5000, bytes)),
    ("neither catalog nor locators", |path, bytes| {
        gone(path, "/catalog", bytes) || gone(path, "/locators/", bytes)
    }),
    ("a damaged descriptor", |path, bytes| flipped(path, "/gabion.json", 80, bytes)),
    ("no descriptor", |path, bytes| gone(path, "/gabion.json", bytes)),
    ("damaged maps", |path, bytes| flipped(path, "/maps/", 40, bytes)),
    ("no maps", |path, bytes| gone(path, "/maps/", bytes)),
    ("records with a wrong write id", |path, bytes| flipped(path, "/images/", 40, bytes)),
    ("records with a wrong checksum", |path, bytes| {
        let last = bytes.len().saturating_sub(1);
        flipped(path, "/images/", last, bytes)
    }),
    ("packs without an end", |path, bytes| {
        path.contains("/packs/") && {
            bytes.truncate(bytes.len() - 3);
            true
        }
    }),
    ("packs with a damaged header", |path, bytes| flipped(path, "/packs/", 20, bytes)),
    ("packs without an end, and no locators", |path, bytes| {
        gone(path, "/locators/", bytes)
            || path.contains("/packs/") && {
                bytes.truncate(bytes.len() - 3);
                true
            }
    }),
];

#[tokio::test]
async fn what_can_be_made_good_is() {
    for (what, change) in CURABLE {
        let fs = damaged_store(change).await;
        let before = files(&fs, Path::new(STORE));
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let planned = LocalStore::repair(&shared, Path::new(STORE), &options(true), &Job::default());
        assert!(!planned.unwrap().done.is_empty(), "{what}");
        let contents = |all: Vec<(String, Vec<u8>)>| -> Vec<_> {
            all.into_iter().filter(|(path, _)| !path.ends_with("/lock")).collect()
        };
        assert!(
            contents(files(&fs, Path::new(STORE))) == contents(before),
            "{what}: a dry run changed something"
        );

        let done = repair(&fs);
        assert!(!done.done.is_empty() && done.lost.is_empty(), "{what}: {done:?}");
        assert_whole(&fs, what).await;
        let again = repair(&fs);
        assert!(again.done.is_empty() && again.lost.is_empty(), "{what}: {again:?}");
    }
}

/// The process ends at each change of a file in turn; the next repair does what is left.
#[tokio::test]
async fn a_repair_that_is_cut_off_is_repeated() {
    for (what, change) in CURABLE {
        for skip in 0.. {
            let fs = damaged_store(change).await;
            let faults = FaultFs::new(Arc::new(fs.clone()));
            faults.fail(On::change().skip(skip).always(), FsFault::EIO);
            let shared: Arc<dyn Fs> = Arc::new(faults);
            let ended = LocalStore::repair(&shared, Path::new(STORE), &options(false), &Job::default());
            repair(&fs);
            assert_whole(&fs, &format!("{what}, cut off at change {skip}")).await;
            if ended.is_ok() {
                break;
            }
        }
    }
}

/// A byte of each entry in turn: the check after the repair names what is lost, and another store has it.
#[tokio::test]
async fn what_another_store_has_is_fetched() {
    let mut rng = Rng::new(9);
    for round in 0..40 {
        let fs = MemFs::new();
        make_store(&fs, STORE).await;
        let other = MemFs::new();
        make_store(&other, STORE).await;
        let packs: Vec<_> =
            files(&fs, Path::new(STORE)).into_iter().filter(|(path, _)| path.contains("/packs/")).collect();
        let (path, mut bytes) = packs[round % packs.len()].clone();
        if round < 4 {
            fs.remove_file(Path::new(&path)).unwrap();
        } else {
            // Behind the header.
            let at = 54 + rng.below(bytes.len() - 54);
            bytes[at] ^= 1;
            put(&fs, &path, &bytes);
        }
        let what = format!("round {round}, {path}");
        let done = repair(&fs);
        assert!(!done.done.is_empty(), "{what}");
        if round >= 4 {
            let aside = files(&fs, Path::new(STORE));
            assert!(
                aside.iter().any(|(path, found)| path.contains("/quarantine/") && *found == bytes),
                "{what}: the damaged pack is not in the quarantine"
            );
        }
        let local = open(&fs, STORE).unwrap();
        let damage = check_all(&local, Depth::Hashes).await.unwrap();
        let store = local.clone().into_store();
        let mut lost = BTreeSet::new();
        for (image, disk) in images() {
            match content(&store, &image).await {
                Ok(found) => assert!(found == disk, "{what}: image '{image}' has wrong bytes"),
                Err(_) => drop(lost.insert(image)),
            }
        }
        let told: BTreeSet<_> = damage.iter().filter_map(|damage| damage.image.clone()).collect();
        assert_eq!(told, lost, "{what}: {damage:?}");
        for damage in &damage {
            assert!(damage.entry.is_some() && !damage.checkpoints.is_empty(), "{what}: {damage:?}");
            assert!(!damage.ranges.is_empty(), "{what}: {damage:?}");
        }

        let from: Arc<dyn ChunkStore> = Arc::new(open(&other, STORE).unwrap());
        let healed = heal(&store, &from, Depth::Structure, &Job::default()).await.unwrap();
        assert_eq!(healed.entries == 0, lost.is_empty(), "{what}");
        assert!(healed.left.damage.is_empty(), "{what}: {:?}", healed.left.damage);
        drop((store, local));
        assert_whole(&fs, &what).await;
    }
}

/// An image whose record can't be read is told of, and its record stays.
#[tokio::test]
async fn no_image_is_dropped_silently() {
    let fs = damaged_store(|path, bytes| {
        path.contains("/images/") && {
            bytes[63] ^= 1;
            true
        }
    })
    .await;
    let done = repair(&fs);
    assert_eq!(done.lost.len(), 2, "{done:?}");
    let local = open(&fs, STORE).unwrap();
    assert!(local.list_images().await.unwrap().iter().all(Result::is_err));
}

/// A store that is damaged answers with what another one has, and is whole afterwards.
#[tokio::test]
async fn reads_heal_from_a_store_farther_away() {
    let other = MemFs::new();
    make_store(&other, STORE).await;
    let fs = damaged_store(|path, bytes| {
        path.contains("/packs/") && {
            // Behind the header, where the first entry's bytes are.
            bytes[54 + 48 + 3] ^= 1;
            true
        }
    })
    .await;
    let near = open(&fs, STORE).unwrap();
    let healing = Healing::new(Arc::new(near.clone()), Arc::new(open(&other, STORE).unwrap()));
    let store = Store { chunks: Arc::new(healing.clone()), index: Arc::new(near.clone()) };
    for (image, disk) in images() {
        assert!(content(&store, &image).await.unwrap() == disk, "image '{image}'");
    }
    healing.settle().await;
    drop((store, healing, near));
    let store = open(&fs, STORE).unwrap().into_store();
    for (image, disk) in images() {
        assert!(content(&store, &image).await.unwrap() == disk, "image '{image}' is not healed");
    }
}
