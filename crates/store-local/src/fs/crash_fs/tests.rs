//! What may be found after a crash, and what may not.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::*;
use crate::fs::{FaultFs, FsFault, FsFileExt as _, FsOp, MemFs, On, exists, read_whole, replace};

const FILE: &str = "/file";

fn new() -> CrashFs {
    CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1).unwrap()
}

fn make(fs: &dyn Fs, path: &str, bytes: &[u8]) -> Arc<dyn FsFile> {
    let file = fs.open(Path::new(path), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

/// A file that is durable with its name.
fn durable(fs: &dyn Fs, path: &str, bytes: &[u8]) -> Arc<dyn FsFile> {
    let file = make(fs, path, bytes);
    file.sync_data().unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    file
}

/// Everything that a file may be found as.
fn found(fs: &CrashFs, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let read = |image: CrashImage| match read_whole(image.fs(), Path::new(path), 1 << 20) {
        Ok(bytes) => Some(bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("{image}: {e}"),
    };
    fs.crash().images(7, usize::MAX).map(read).collect()
}

fn one(content: impl Into<Option<Vec<u8>>>) -> BTreeSet<Option<Vec<u8>>> {
    BTreeSet::from([content.into()])
}

fn sectors(fills: &[u8]) -> Vec<u8> {
    fills.iter().flat_map(|&fill| [fill; 512]).collect()
}

#[test]
fn a_file_needs_its_own_sync_and_that_of_its_folder() {
    let fs = new();
    let file = make(&fs, FILE, b"some");
    assert_eq!(found(&fs, FILE), [None, Some(vec![]), Some(vec![0; 4]), Some(b"some".to_vec())].into());
    file.sync_data().unwrap();
    assert_eq!(found(&fs, FILE), [None, Some(b"some".to_vec())].into());
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(found(&fs, FILE), one(b"some".to_vec()));
    assert_eq!(fs.crash().pending(), 0);

    make(&fs, "/other", b"some");
    fs.sync_dir(Path::new("/")).unwrap();
    assert!(!found(&fs, "/other").contains(&None), "the name is durable, whatever it leads to");
}

#[test]
fn sectors_are_old_or_new_and_so_is_each_of_several_writes() {
    let fs = new();
    let file = durable(&fs, FILE, &sectors(&[1, 1]));
    file.write_all_at(&sectors(&[2, 2]), 0).unwrap();
    file.write_all_at(&sectors(&[3]), 0).unwrap();
    let expected = [1, 2, 3].into_iter().flat_map(|a| [1, 2].map(|b| Some(sectors(&[a, b]))));
    assert_eq!(found(&fs, FILE), expected.collect());
    // Part of a sector goes to the disk with the rest of it.
    file.sync_data().unwrap();
    file.write_all_at(&[9; 512], 256).unwrap();
    for found in found(&fs, FILE).into_iter().flatten() {
        assert!(found[..256] == [3; 256] && found[768..] == [2; 256]);
        assert!(found[256..512] == [3; 256] || found[256..512] == [9; 256]);
        assert!(found[512..768] == [2; 256] || found[512..768] == [9; 256]);
    }
}

#[test]
fn a_file_that_grew_may_end_in_zeros_and_one_that_was_cut_shows_nothing_old_later() {
    let fs = new();
    let file = durable(&fs, FILE, b"");
    file.write_all_at(&sectors(&[1, 1]), 0).unwrap();
    let found_now = found(&fs, FILE);
    for content in [vec![], sectors(&[0, 0]), sectors(&[1, 0]), sectors(&[1, 1])] {
        assert!(found_now.contains(&Some(content)));
    }
    assert_eq!(found_now.len(), 5);
    file.sync_data().unwrap();
    file.set_len(100).unwrap();
    file.set_len(1024).unwrap();
    let cut = [vec![1; 100], vec![0; 924]].concat();
    let tail_zeroed = [vec![1; 100], vec![0; 412], vec![1; 512]].concat();
    // The last length can't arrive without the one before it.
    let expected = [sectors(&[1, 1]), tail_zeroed, vec![1; 100], cut.clone()];
    assert_eq!(found(&fs, FILE), expected.into_iter().map(Some).collect());
    file.sync_data().unwrap();
    assert_eq!(found(&fs, FILE), one(cut));
}

#[test]
fn holes_are_writes_of_zeros() {
    let fs = new();
    let file = durable(&fs, FILE, &[1; 8192]);
    file.punch_hole(0, 4096).unwrap();
    assert_eq!(fs.crash().pending(), 8);
    let expected = [0, 1].into_iter().flat_map(|a| [0, 1].map(|b| (a, b)));
    let firsts: BTreeSet<_> = found(&fs, FILE).into_iter().flatten().map(|b| (b[0], b[512])).collect();
    assert_eq!(firsts, expected.collect());
    file.sync_data().unwrap();
    file.punch_hole(0, 4096).unwrap();
    file.write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(fs.crash().pending(), 0, "what changes nothing can't be torn");
    assert_eq!(
        found(&fs, FILE).into_iter().flatten().next().unwrap()[..4097],
        [&[0; 4096][..], &[1]].concat()
    );
}

#[test]
fn names_are_old_or_new() {
    let fs = new();
    durable(&fs, FILE, b"old");
    replace(&fs, Path::new(FILE), b"new").unwrap();
    assert_eq!(found(&fs, FILE), one(b"new".to_vec()));
    let points = fs.record();
    replace(&fs, Path::new(FILE), b"newest").unwrap();
    let mut after = BTreeSet::new();
    for point in points.take() {
        for image in point.images(3, usize::MAX) {
            let found = read_whole(image.fs(), Path::new(FILE), 10).unwrap();
            after.insert((point.after().to_owned(), String::from_utf8(found).unwrap()));
        }
    }
    let renamed = "rename /file.tmp to /file".to_owned();
    assert!(after.contains(&(renamed.clone(), "new".into())) && after.contains(&(renamed, "newest".into())));
    assert!(
        after.contains(&("sync /".into(), "newest".into()))
            && !after.contains(&("sync /".into(), "new".into()))
    );
    assert!(after.iter().all(|(_, found)| found == "new" || found == "newest"));

    fs.remove_file(Path::new(FILE)).unwrap();
    assert_eq!(found(&fs, FILE), [None, Some(b"newest".to_vec())].into());
    make(&fs, FILE, b"another");
    assert!(found(&fs, FILE).contains(&Some(b"newest".to_vec())));
    fs.remove_file(Path::new(FILE)).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(found(&fs, FILE), one(None));
}

#[test]
fn what_is_in_a_folder_that_was_not_synced_goes_with_it() {
    let fs = new();
    fs.create_dir(Path::new("/dir")).unwrap();
    make(&fs, "/dir/file", b"some").sync_data().unwrap();
    fs.sync_dir(Path::new("/dir")).unwrap();
    assert_eq!(found(&fs, "/dir/file"), [None, Some(b"some".to_vec())].into());
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!(found(&fs, "/dir/file"), one(b"some".to_vec()));
}

#[test]
fn after_a_failed_sync_nothing_is_known_until_it_is_written_anew() {
    let hook = FaultFs::new(Arc::new(MemFs::new()));
    let fs = CrashFs::new(Arc::new(hook.clone()), Path::new("/"), 1).unwrap();
    let file = durable(&fs, FILE, &sectors(&[1, 1]));
    file.write_all_at(&sectors(&[2, 2]), 0).unwrap();
    hook.fail(On::op(FsOp::Sync).path(FILE), FsFault::EIO);
    file.sync_data().unwrap_err();
    // The next sync succeeds, and says nothing about them.
    file.sync_data().unwrap();
    assert_eq!(found(&fs, FILE).len(), 4);
    file.write_all_at(&sectors(&[3]), 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(found(&fs, FILE), [Some(sectors(&[3, 1])), Some(sectors(&[3, 2]))].into());

    // Memory shows the new bytes until the cache is dropped; then the disk's, whichever they are.
    let read = || read_whole(&fs, Path::new(FILE), 1024).unwrap();
    assert_eq!(read(), sectors(&[3, 2]));
    file.drop_cache().unwrap();
    assert_eq!(found(&fs, FILE), one(read()));

    // Names stay what the next sync is about.
    hook.fail(On::op(FsOp::SyncDir), FsFault::EIO);
    fs.rename(Path::new(FILE), Path::new("/new")).unwrap();
    fs.sync_dir(Path::new("/")).unwrap_err();
    assert_eq!(found(&fs, "/new"), [None, Some(read_whole(&fs, Path::new("/new"), 1024).unwrap())].into());
    fs.sync_dir(Path::new("/")).unwrap();
    assert_eq!((found(&fs, FILE), found(&fs, "/new").len()), (one(None), 1));
}

#[test]
fn dropping_a_cache_shows_either_and_keeps_what_was_written_since() {
    let mut seen = BTreeSet::new();
    for seed in 0..16 {
        let hook = FaultFs::new(Arc::new(MemFs::new()));
        let fs = CrashFs::new(Arc::new(hook.clone()), Path::new("/"), seed).unwrap();
        let file = durable(&fs, FILE, &sectors(&[1, 1, 1]));
        file.write_all_at(&sectors(&[2, 2, 2]), 0).unwrap();
        hook.fail(On::op(FsOp::Sync).path(FILE), FsFault::EIO);
        file.sync_data().unwrap_err();
        file.write_all_at(&sectors(&[3]), 0).unwrap();
        file.drop_cache().unwrap();
        let mut bytes = sectors(&[0, 0, 0]);
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..512], [3; 512]);
        seen.insert((bytes[512], bytes[1024]));
    }
    assert_eq!(seen, [(1, 1), (1, 2), (2, 1), (2, 2)].into());
}

#[test]
fn a_sync_covers_what_was_written_before_it_began() {
    let hook = FaultFs::new(Arc::new(MemFs::new()));
    let fs = CrashFs::new(Arc::new(hook.clone()), Path::new("/"), 1).unwrap();
    let file = durable(&fs, FILE, &sectors(&[1, 1]));
    file.write_all_at(&sectors(&[2]), 0).unwrap();
    let racing = file.clone();
    hook.on(move |op, _| if op == FsOp::Sync { racing.write_all_at(&sectors(&[3]), 512) } else { Ok(()) });
    file.sync_data().unwrap();
    assert_eq!(found(&fs, FILE), [Some(sectors(&[2, 1])), Some(sectors(&[2, 3]))].into());
}

#[test]
fn the_note_of_a_lock_is_as_any_file() {
    let fs = new();
    let lock = fs.lock(Path::new(FILE), false).unwrap();
    fs.sync_dir(Path::new("/")).unwrap();
    lock.write_note("somebody").unwrap();
    assert_eq!(found(&fs, FILE), [vec![], vec![0; 8], b"somebody".to_vec()].map(Some).into());
    for image in fs.crash().images(1, usize::MAX) {
        image.fs().lock(Path::new(FILE), false).unwrap();
    }
}

#[test]
fn many_changes_are_sampled_and_a_sample_can_be_had_again() {
    let fs = new();
    let file = durable(&fs, FILE, &[1; 100 * 512]);
    file.write_all_at(&[2; 100 * 512], 0).unwrap();
    let point = fs.crash();
    assert_eq!(point.images(1, usize::MAX).count(), 2 + 2 * 100 + 32);
    let some = |seed| point.images(seed, 20).map(|image| image.to_string()).collect::<Vec<_>>();
    assert_eq!((some(1).len(), some(1)), (20, some(1)));
    assert_ne!(some(1), some(2));
    assert!(some(3)[0].ends_with("None") && some(3)[1].ends_with("All"), "{:?}", some(3));
}

#[test]
fn an_image_is_a_file_system_of_its_own_that_can_crash_again() {
    let fs = new();
    let file = durable(&fs, FILE, &sectors(&[1]));
    file.write_all_at(&sectors(&[2]), 0).unwrap();
    for image in fs.crash().images(1, usize::MAX) {
        let before = read_whole(image.fs(), Path::new(FILE), 512).unwrap();
        let again = CrashFs::new(image.into_fs(), Path::new("/"), 1).unwrap();
        assert_eq!(again.crash().pending(), 0, "what was found is on the disk");
        let file = again.open(Path::new(FILE), OpenMode::ReadWrite).unwrap();
        file.write_all_at(&sectors(&[9]), 0).unwrap();
        assert_eq!(found(&again, FILE), [Some(before), Some(sectors(&[9]))].into());
    }
    assert_eq!(found(&fs, FILE), [Some(sectors(&[1])), Some(sectors(&[2]))].into());
}

#[test]
fn over_real_files() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("dir/file");
    crate::fs::StdFs.create_dir(&folder.path().join("dir")).unwrap();
    make(&crate::fs::StdFs, path.to_str().unwrap(), &sectors(&[1]));
    let fs = CrashFs::new(Arc::new(crate::fs::StdFs), folder.path(), 1).unwrap();
    let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&sectors(&[2]), 0).unwrap();
    assert_eq!(found(&fs, path.to_str().unwrap()), [Some(sectors(&[1])), Some(sectors(&[2]))].into());
    let outside = fs.open(Path::new("/outside"), OpenMode::Create).unwrap_err();
    assert_eq!(outside.kind(), io::ErrorKind::InvalidInput);
    assert!(!exists(&crate::fs::StdFs, Path::new("/outside")).unwrap());
}
