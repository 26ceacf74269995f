//! Every byte of every file changed, every file cut: a read gives the right bytes or an error that names what it is
//! about, and `check` tells of every change.
//!
//! What is exempt, and why:
//!
//! - `lock`: its content means nothing.
//! - an image's record that is gone: so it is once the image was removed.
//! - a layer's blocks: they carry no checksum, and are as safe as the disk below until they are in a checkpoint.
//! - the last batch of a journal that the volume's record does not know of: damage there looks like a flush that was
//!   torn by a crash, which nobody was promised. So does what stands behind it.

use std::{collections::HashSet, path::Path, sync::Arc};

use gabion_store_core::ops::{CheckOptions, Depth, Job};
use gabion_store_local::{
    fs::{Fs as _, FsFileExt as _, MemFs, OpenMode},
    overlay::LocalOverlay,
};

use crate::rig::*;

/// Reads everything and checks everything; whether the damage was noticed by anything but a read.
async fn judge(fs: &MemFs, what: &str) -> bool {
    let local = match open(fs, STORE) {
        Ok(local) => local,
        Err(error) => {
            assert!(names_something(&error), "{what}: {}", error.report());
            return true;
        }
    };
    let store = local.clone().into_store();
    let mut read = true;
    for (image, disk) in images() {
        match content(&store, &image).await {
            Ok(found) => assert!(found == disk, "{what}: image '{image}' has wrong bytes"),
            Err(error) => {
                assert!(names_something(&error), "{what}: {}", error.report());
                read = false;
            }
        }
    }
    // As another process, that knows nothing of what was found.
    let _hint = fs.remove_file(&Path::new(STORE).join("damaged"));
    let noticed = match check_all(&open(fs, STORE).unwrap(), Depth::Hashes).await {
        Ok(damage) => {
            for damage in &damage {
                assert!(names_something(&damage.error), "{what}: {}", damage.error.report());
            }
            !damage.is_empty()
        }
        Err(error) => panic!("{what}: check failed: {}", error.report()),
    };
    assert!(noticed || read, "{what}: a read failed, and check found nothing");
    let _hint = fs.remove_file(&Path::new(STORE).join("damaged"));
    noticed
}

/// Whether a change of a file means anything.
fn matters(path: &str) -> bool {
    !path.ends_with("/lock")
}

#[tokio::test]
async fn a_store_is_whole_before_it_is_damaged() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let damage = check_all(&open(&fs, STORE).unwrap(), Depth::Hashes).await.unwrap();
    assert!(damage.is_empty(), "{damage:?}");
    assert!(!judge(&fs, "nothing").await);
    let files: Vec<_> = files(&fs, Path::new(STORE)).into_iter().map(|(path, _)| path).collect();
    for kind in ["/packs/", "/locators/", "/maps/", "/images/", "/catalog", "/gabion.json"] {
        assert!(files.iter().any(|path| path.contains(kind)), "{kind} of {files:?}");
    }
}

/// Row 11.
#[tokio::test]
async fn every_changed_byte_of_a_store_is_noticed() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    for (path, bytes) in files(&fs, Path::new(STORE)).into_iter().filter(|(path, _)| matters(path)) {
        let file = fs.open(Path::new(&path), OpenMode::ReadWrite).unwrap();
        for at in 0..bytes.len() {
            let flipped = bytes[at] ^ (1 << (at % 8));
            file.write_all_at(&[flipped], at as u64).unwrap();
            // Most bytes are padding, among which a few have to do for the reads.
            let padding =
                bytes[at.saturating_sub(32)..bytes.len().min(at + 32)].iter().all(|byte| *byte == 0);
            let noticed = if padding && at % 61 != 0 {
                let local = open(&fs, STORE).unwrap();
                let found = local.check_files(&CheckOptions::default(), &HashSet::new(), &Job::default());
                !found.unwrap().damage.is_empty()
            } else {
                judge(&fs, &format!("{path}, byte {at}")).await
            };
            assert!(noticed, "{path}: byte {at} went unnoticed");
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
        }
    }
    assert!(!judge(&fs, "everything as it was").await);
}

/// Row 13.
#[tokio::test]
async fn every_cut_of_a_store_is_noticed() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    for (path, bytes) in files(&fs, Path::new(STORE)).into_iter().filter(|(path, _)| matters(path)) {
        // Pages look alike inside: there, some of the lengths.
        let lengths = (0..bytes.len()).filter(|len| *len < 1200 || len % 97 < 2 || len % 4096 < 3);
        for len in lengths {
            put(&fs, &path, &bytes[..len]);
            assert!(
                judge(&fs, &format!("{path}, cut at {len}")).await,
                "{path}: cut at {len} went unnoticed"
            );
        }
        if !path.contains("/images/") {
            fs.remove_file(Path::new(&path)).unwrap();
            assert!(judge(&fs, &format!("{path}, gone")).await, "{path}: it is gone, and nobody noticed");
        }
        put(&fs, &path, &bytes);
    }
    assert!(!judge(&fs, "everything as it was").await);
}

/// Two copies of a volume's files, of which the first is damaged: whether that was noticed. What can be read of it
/// is what was flushed.
async fn judge_volume(fs: &MemFs, disk: &[u8], what: &str) -> bool {
    let checked = LocalOverlay::check(fs, Path::new(VOLUME));
    let opened = open_volume(fs);
    for error in [checked.as_ref().err(), opened.as_ref().err()].into_iter().flatten() {
        assert!(names_something(error), "{what}: {}", error.report());
    }
    match opened {
        // Nothing is served of what is damaged.
        Err(error) => assert!(checked.is_err(), "{what}: check finds nothing, but {}", error.report()),
        Ok(volume) => match whole(&volume).await {
            Ok(found) => assert!(found == disk, "{what}: wrong bytes"),
            Err(error) => assert!(names_something(&error), "{what}: {}", error.report()),
        },
    }
    checked.is_err()
}

/// The volume's files but for the zeros at their ends, and their lengths.
/// With `closed`, the record knows of all batches.
async fn volume_files(closed: bool) -> (Vec<(String, Vec<u8>, usize)>, Vec<u8>) {
    let fs = MemFs::new();
    let disk = make_volume(&fs).await;
    if closed {
        let overlay = LocalOverlay::open(Arc::new(fs.clone()), Path::new(VOLUME), None).unwrap();
        overlay.record_journals().unwrap();
    }
    let trimmed = files(&fs, Path::new(VOLUME)).into_iter().map(|(path, bytes)| {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        (path, bytes[..used].to_vec(), bytes.len())
    });
    (trimmed.collect(), disk)
}

fn restore(files: &[(String, Vec<u8>, usize)]) -> MemFs {
    let fs = MemFs::new();
    fs.create_dir(Path::new(VOLUME)).unwrap();
    for (path, bytes, len) in files {
        put(&fs, path, bytes);
        fs.open(Path::new(path), OpenMode::ReadWrite).unwrap().set_len(*len as u64).unwrap();
    }
    fs
}

fn flip(fs: &MemFs, path: &str, at: usize) {
    let file = fs.open(Path::new(path), OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at as u64).unwrap();
}

/// Three flushes are three batches of a sector each, behind the header.
const LAST_BATCH: usize = 3 * 512;

/// Rows 11 and 47.
#[tokio::test]
async fn every_changed_byte_of_a_volume_is_noticed() {
    for closed in [false, true] {
        let (files, disk) = volume_files(closed).await;
        assert!(!judge_volume(&restore(&files), &disk, "nothing").await);
        let journal = files.iter().find(|(path, ..)| path.ends_with(".journal")).unwrap();
        assert!((LAST_BATCH..LAST_BATCH + 512).contains(&journal.1.len()), "{}", journal.1.len());
        for (path, bytes, _) in files.iter().filter(|(path, ..)| matters(path) && !path.ends_with(".data")) {
            let checked = if path.ends_with(".journal") && !closed { LAST_BATCH } else { bytes.len() };
            for at in 0..checked {
                let fs = restore(&files);
                flip(&fs, path, at);
                assert!(judge_volume(&fs, &disk, &format!("{path}, byte {at}")).await, "{path}: byte {at}");
            }
        }
    }
}

/// The last batch of a journal, and what stands behind it: dropped or harmless, and never taken for anything else.
#[tokio::test]
async fn a_changed_last_batch_is_as_a_torn_flush() {
    let (files, disk) = volume_files(false).await;
    let (path, bytes, len) = files.iter().find(|(path, ..)| path.ends_with(".journal")).unwrap();
    // What it held before the last flush.
    let mut before = disk.clone();
    before[5 * BLOCK..7 * BLOCK].fill(0);
    let behind = (bytes.len()..bytes.len() + 1024).chain((bytes.len()..*len).step_by(9973));
    for at in (LAST_BATCH..bytes.len()).chain(behind) {
        let fs = restore(&files);
        flip(&fs, path, at);
        let Ok(volume) = open_volume(&fs) else {
            // Its kind, or its sequence number, told of a later version.
            assert!(at < LAST_BATCH + 40, "byte {at}");
            continue;
        };
        let found = whole(&volume).await.unwrap();
        assert!(found == disk || (found == before && at < bytes.len()), "byte {at}");
    }
}

const BLOCK: usize = gabion_store_core::BLOCK_SIZE;

/// Row 13.
#[tokio::test]
async fn every_cut_of_a_volume_is_noticed_or_torn() {
    for closed in [false, true] {
        cut_everywhere(closed).await;
    }
}

async fn cut_everywhere(closed: bool) {
    let (files, disk) = volume_files(closed).await;
    for (path, bytes, len) in files.iter().filter(|(path, ..)| matters(path)) {
        let journal = path.ends_with(".journal");
        for cut in (0..bytes.len()).filter(|cut| *cut < 2048 || cut % 997 < 2).chain([len - 1]) {
            let fs = restore(&files);
            fs.open(Path::new(path), OpenMode::ReadWrite).unwrap().set_len(cut as u64).unwrap();
            let what = format!("{path}, cut at {cut}");
            let known = if closed { bytes.len() } else { 512 };
            if journal && cut >= known {
                // Whole flushes, from the first to some other: a journal ends where its last batch does.
                if let Ok(volume) = open_volume(&fs) {
                    let found = whole(&volume).await.unwrap();
                    let old_or_new =
                        |(found, new): (&[u8], &[u8])| found == new || found.iter().all(|b| *b == 0);
                    assert!(found.chunks(BLOCK).zip(disk.chunks(BLOCK)).all(old_or_new), "{what}");
                }
            } else {
                assert!(judge_volume(&fs, &disk, &what).await, "{what}");
            }
        }
        let fs = restore(&files);
        fs.remove_file(Path::new(path)).unwrap();
        assert!(judge_volume(&fs, &disk, &format!("{path}, gone")).await, "{path}");
    }
}
