//! Every fault, and which operations it befalls.

use super::*;
use crate::fs::{FsFileExt as _, MemFs, StdFs, read_whole};

fn file(fs: &FaultFs, path: &str) -> Arc<dyn FsFile> {
    fs.open(Path::new(path), OpenMode::Create).unwrap()
}

fn new() -> FaultFs {
    FaultFs::new(Arc::new(MemFs::new()))
}

fn errno<T: fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

#[test]
fn rules_count_what_they_are_about() {
    let fs = new();
    let (a, b) = (file(&fs, "/a"), file(&fs, "/b"));
    fs.fail(On::op(FsOp::Sync).path("b").skip(1).times(2), FsFault::EIO);
    for _ in 0..3 {
        a.sync_data().unwrap();
        b.write_all_at(b"x", 0).unwrap();
    }
    b.sync_data().unwrap();
    assert_eq!((errno(b.sync_data()), errno(b.sync_data())), (5, 5));
    b.sync_data().unwrap();
    assert!(fs.heal());

    fs.fail(On::change().always(), FsFault::Fails(30));
    assert_eq!(errno(fs.rename(Path::new("/a"), Path::new("/c"))), 30);
    assert_eq!(errno(fs.sync_dir(Path::new("/"))), 30);
    assert_eq!(errno(b.punch_hole(0, 1)), 30);
    fs.stat(Path::new("/a")).unwrap();
    fs.fail(On::any().skip(100), FsFault::EIO);
    assert!(!fs.heal(), "the last was not met");
    fs.sync_dir(Path::new("/")).unwrap();
}

#[test]
fn transfers_end_early_or_half_way_or_after_all() {
    let fs = new();
    let file = file(&fs, "/file");
    let read = || read_whole(&fs, Path::new("/file"), 100).unwrap();
    fs.fail(On::op(FsOp::Write), FsFault::Short(3));
    assert_eq!(file.write_at(b"abcdef", 0).unwrap(), 3);
    fs.fail(On::op(FsOp::Write), FsFault::Torn(5));
    assert_eq!(errno(file.write_at(b"ABCD", 0)), 5);
    assert_eq!(read(), b"ABc");
    fs.fail(On::op(FsOp::Write), FsFault::FailsAfter(5));
    assert_eq!(errno(file.write_at(b"xyz", 0)), 5);
    assert_eq!(read(), b"xyz");
    fs.fail(On::op(FsOp::Read).times(3), FsFault::Short(1));
    assert_eq!(file.read_at(&mut [0; 3], 0).unwrap(), 1);
    assert_eq!(read(), b"xyz", "who goes on gets all");
    fs.fail(On::op(FsOp::Read).times(2), FsFault::EINTR);
    fs.fail(On::op(FsOp::Write).times(2), FsFault::EINTR);
    file.write_all_at(b"again", 0).unwrap();
    assert_eq!(read(), b"again");
    fs.fail(On::op(FsOp::Rename), FsFault::FailsAfter(5));
    assert_eq!(errno(fs.rename(Path::new("/file"), Path::new("/new"))), 5);
    assert!(fs.heal());
    assert_eq!(read_whole(&fs, Path::new("/new"), 100).unwrap(), b"again");
}

#[test]
fn bytes_rot_and_go_astray() {
    let fs = new();
    let file = file(&fs, "/file");
    file.write_all_at(b"0123456789", 0).unwrap();
    fs.fail(On::op(FsOp::Read).always(), FsFault::Rot(4));
    let mut bytes = [0; 10];
    assert!(
        file.try_read_exact_at(&mut bytes, 0).unwrap().is_none(),
        "left to the read that can be at fault"
    );
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"0123556789");
    file.read_exact_at(&mut bytes[..3], 4).unwrap();
    assert_eq!(&bytes[..3], b"446", "the fifth of three is the second");
    fs.heal();
    fs.fail(On::op(FsOp::Read), FsFault::Misdirected(3));
    fs.fail(On::op(FsOp::Write), FsFault::Misdirected(-2));
    file.read_exact_at(&mut bytes[..2], 4).unwrap();
    assert_eq!(&bytes[..2], b"78");
    file.write_all_at(b"xx", 4).unwrap();
    assert_eq!(read_whole(&fs, Path::new("/file"), 100).unwrap(), b"01xx456789");
}

#[test]
fn space_runs_out() {
    let folder = tempfile::tempdir().unwrap();
    let fs = FaultFs::new(Arc::new(StdFs));
    let path = folder.path().join("file");
    let file = fs.open(&path, OpenMode::CreateNew).unwrap();
    fs.set_space(Some(15));
    file.write_all_at(b"0123456789", 0).unwrap();
    assert_eq!(errno(file.write_all_at(b"xxxxxx", 0)), 28);
    fs.set_space(Some(600));
    assert_eq!(errno(file.write_all_at(&[1; 1200], 0)), 28);
    assert_eq!(read_whole(&fs, &path, 1000).unwrap(), [1; 512], "sectors are whole");
    assert_eq!(errno(fs.rename(&path, &folder.path().join("new"))), 28);
    assert_eq!(errno(fs.create_dir(&folder.path().join("dir"))), 28);
    fs.set_space(None);
    file.write_all_at(b"0123456789", 0).unwrap();
}

#[test]
fn a_hook_comes_first_and_may_use_the_file_system() {
    let fs = new();
    let file = file(&fs, "/file");
    let again = file.clone();
    fs.on(move |op, path| {
        assert_eq!((op, path), (FsOp::Sync, Path::new("/file")));
        again.write_all_at(b"meanwhile", 0)?;
        Err(io::ErrorKind::TimedOut.into())
    });
    assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(file.sync_data().unwrap_err().kind(), io::ErrorKind::TimedOut);
    fs.heal();
    assert_eq!(read_whole(&fs, Path::new("/file"), 100).unwrap(), b"meanwhile");
}
