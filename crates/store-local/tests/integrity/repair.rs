//! Stores with something lost or damaged, and what a repair makes of them.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, ChunkStore, ErrorKind, IndexStore as _, Store,
    clock::Timestamp,
    ops::{Depth, Job, heal},
    stores::Healing,
    testing::{FixedClock, Rng},
};
use gabion_store_local::{
    fs::{FaultFs, Fs, FsFault, FsOp, MemFs, On},
    overlay::LocalOverlay,
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

/// Row 13.
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

/// The process ends at each change of a file in turn; the next repair does what is left. Row 15.
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

/// A sector that the disk can't read is damage like any other. Row 11.
#[tokio::test]
async fn reads_of_bad_sectors_heal_from_a_store_farther_away() {
    let (fs, other) = (MemFs::new(), MemFs::new());
    make_store(&fs, STORE).await;
    make_store(&other, STORE).await;
    let faults = FaultFs::new(Arc::new(fs.clone()));
    let near = LocalStore::open(Arc::new(faults.clone()), Path::new(STORE)).unwrap();
    faults.fail(On::op(FsOp::Read).path("/packs/").always(), FsFault::EIO);
    let lone = near.clone().into_store();
    for (image, disk) in images() {
        assert_eq!(content(&lone, &image).await.unwrap_err().kind(), ErrorKind::Corrupt);
        let healing = Healing::new(Arc::new(near.clone()), Arc::new(open(&other, STORE).unwrap()));
        let store = Store { chunks: Arc::new(healing), index: Arc::new(near.clone()) };
        assert!(content(&store, &image).await.unwrap() == disk, "image '{image}'");
    }
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

/// A volume of three flushes, and one of them damaged: the journal's name, what the volume showed, and what it shows
/// without that flush.
async fn volume_without(flush: usize) -> (MemFs, String, Vec<u8>, Vec<u8>) {
    let fs = MemFs::new();
    let whole = make_volume(&fs).await;
    let (path, mut bytes) =
        files(&fs, Path::new(VOLUME)).into_iter().find(|(path, _)| path.ends_with(".journal")).unwrap();
    bytes[512 * (1 + flush) + 41] ^= 1;
    put(&fs, &path, &bytes);
    let mut without = whole.clone();
    let blocks = [0..1, 3..5, 5..7][flush].clone();
    without[blocks.start * BLOCK_SIZE..blocks.end * BLOCK_SIZE].fill(0);
    (fs, path, whole, without)
}

#[tokio::test]
async fn what_is_whole_of_a_journal_is_salvaged() {
    for flush in 0..2 {
        let (fs, journal, _, without) = volume_without(flush).await;
        let refused = open_volume(&fs).map(drop).unwrap_err();
        let said = refused.report();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        let told = format!("keep {flush} batches before it and {} behind", 2 - flush);
        assert!(said.contains(&format!("batch {}", flush + 1)) && said.contains(&told), "{said}");

        let before = files(&fs, Path::new(VOLUME));
        let planned = LocalOverlay::repair(&fs, Path::new(VOLUME), true).unwrap();
        assert_eq!(planned.len(), 1);
        let sequence = flush as u64 + 1;
        assert_eq!(planned[0].lost, [sequence..=sequence]);
        assert_eq!(planned[0].blocks, [4, 3][flush]);
        assert!(files(&fs, Path::new(VOLUME)) == before, "a dry run changed something");

        let damaged = before.into_iter().find(|(path, _)| *path == journal).unwrap().1;
        let done = LocalOverlay::repair(&fs, Path::new(VOLUME), false).unwrap();
        assert_eq!(done, planned);
        let volume = open_volume(&fs).unwrap();
        assert!(whole(&volume).await.unwrap() == without, "without flush {flush}");
        // It goes on as any other, and the damaged file is kept.
        volume.write(0, vec![9; BLOCK_SIZE].into()).await.unwrap();
        volume.flush().await.unwrap();
        drop(volume);
        let mut written = without;
        written[..BLOCK_SIZE].fill(9);
        assert!(whole(&open_volume(&fs).unwrap()).await.unwrap() == written);
        let kept =
            files(&fs, Path::new(VOLUME)).into_iter().find(|(path, _)| Path::new(path) == done[0].kept_as);
        assert!(kept.unwrap().1 == damaged);
        assert!(LocalOverlay::repair(&fs, Path::new(VOLUME), false).unwrap().is_empty());
    }
    // The last one can't be told from one that a crash tore: the volume opens without it.
    let (fs, _, _, without) = volume_without(2).await;
    assert!(LocalOverlay::repair(&fs, Path::new(VOLUME), false).unwrap().is_empty());
    assert!(whole(&open_volume(&fs).unwrap()).await.unwrap() == without);
}

/// The process ends at each change of a file in turn; the volume opens as repaired or not at all, and the next repair
/// does what is left. Row 15.
#[tokio::test]
async fn a_salvage_that_is_cut_off_is_repeated() {
    for skip in 0.. {
        let (fs, _, _, without) = volume_without(1).await;
        let faults = FaultFs::new(Arc::new(fs.clone()));
        faults.fail(On::change().skip(skip).always(), FsFault::EIO);
        let ended = LocalOverlay::repair(&faults, Path::new(VOLUME), false);
        if let Ok(volume) = open_volume(&fs) {
            assert!(whole(&volume).await.unwrap() == without, "cut off at change {skip}");
        }
        LocalOverlay::repair(&fs, Path::new(VOLUME), false).unwrap();
        let volume = open_volume(&fs).unwrap();
        assert!(whole(&volume).await.unwrap() == without, "cut off at change {skip}, then repaired");
        if ended.is_ok() {
            assert!(skip > 5, "it changes files");
            break;
        }
    }
}
