//! One suite of what the seam promises, run on every implementation.

use std::{io, path::Path, sync::Arc};

use super::{
    CrashFs, FaultFs, Fs, FsFault, FsFileExt as _, MemFs, On, OpenMode, StdFs, exists, make_folders,
    read_whole, replace,
};

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(e) => e.kind(),
    }
}

fn on_each(check: impl Fn(&Arc<dyn Fs>, &Path)) {
    let folder = tempfile::tempdir().unwrap();
    check(&(Arc::new(StdFs) as Arc<dyn Fs>), folder.path());
    check(&(Arc::new(MemFs::new()) as Arc<dyn Fs>), Path::new("/"));
    let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1).unwrap();
    check(&(Arc::new(crash) as Arc<dyn Fs>), Path::new("/"));
}

#[test]
fn names() {
    on_each(|fs, root| {
        let (a, b, dir) = (root.join("a"), root.join("b"), root.join("dir"));
        assert_eq!(kind(fs.open(&a, OpenMode::Read)), io::ErrorKind::NotFound);
        assert_eq!(kind(fs.open(&a, OpenMode::ReadWrite)), io::ErrorKind::NotFound);
        assert_eq!(kind(fs.open(&dir.join("x"), OpenMode::Create)), io::ErrorKind::NotFound);
        assert_eq!(kind(fs.create_dir(&dir.join("x"))), io::ErrorKind::NotFound);
        assert_eq!(kind(fs.stat(&a)), io::ErrorKind::NotFound);
        assert!(!exists(&**fs, &a).unwrap());

        fs.open(&a, OpenMode::CreateNew).unwrap().write_all_at(b"one", 0).unwrap();
        assert_eq!(kind(fs.open(&a, OpenMode::CreateNew)), io::ErrorKind::AlreadyExists);
        assert_eq!(fs.open(&a, OpenMode::Create).unwrap().len().unwrap(), 3, "Create keeps what is there");
        assert_eq!(kind(fs.open(&a.join("x"), OpenMode::Create)), io::ErrorKind::NotADirectory);
        assert!(!fs.stat(&a).unwrap().is_dir);
        assert_eq!(fs.stat(&a).unwrap().len, 3);

        fs.create_dir(&dir).unwrap();
        assert_eq!(kind(fs.create_dir(&dir)), io::ErrorKind::AlreadyExists);
        assert!(fs.stat(&dir).unwrap().is_dir);
        fs.open(&dir.join("z"), OpenMode::Create).unwrap();
        fs.open(&dir.join("y"), OpenMode::Create).unwrap();
        assert_eq!(fs.read_dir(root).unwrap(), [Path::new("a"), Path::new("dir")]);
        assert_eq!(fs.read_dir(&dir).unwrap(), [Path::new("y"), Path::new("z")]);
        assert_eq!(kind(fs.read_dir(&b)), io::ErrorKind::NotFound);
        assert_eq!(kind(fs.remove_dir(&dir)), io::ErrorKind::DirectoryNotEmpty);
        assert_eq!(kind(fs.remove_dir(&a)), io::ErrorKind::NotADirectory);
        assert!(fs.remove_file(&dir).is_err());

        fs.rename(&dir.join("z"), &b).unwrap();
        fs.rename(&a, &b).unwrap();
        assert_eq!(read_whole(&**fs, &b, 3).unwrap(), b"one");
        assert_eq!(kind(fs.rename(&a, &b)), io::ErrorKind::NotFound);
        fs.remove_file(&b).unwrap();
        assert_eq!(kind(fs.remove_file(&b)), io::ErrorKind::NotFound);
        fs.remove_file(&dir.join("y")).unwrap();
        fs.remove_dir(&dir).unwrap();
        fs.sync_dir(root).unwrap();
        assert_eq!(kind(fs.sync_dir(&dir)), io::ErrorKind::NotFound);
        assert!(fs.read_dir(root).unwrap().is_empty());
    });
}

#[test]
fn contents() {
    on_each(|fs, root| {
        let path = root.join("file");
        let file = fs.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(b"middle", 5000).unwrap();
        assert_eq!(file.len().unwrap(), 5006);
        let mut all = vec![1; 5006];
        file.read_exact_at(&mut all, 0).unwrap();
        assert!(all[..5000].iter().all(|&byte| byte == 0));
        assert_eq!(&all[5000..], b"middle");
        assert_eq!(file.read_at(&mut [0; 8], 5006).unwrap(), 0);
        assert_eq!(file.read_at(&mut [0; 8], 5004).unwrap(), 2);
        assert_eq!(kind(file.read_exact_at(&mut [0; 8], 5004)), io::ErrorKind::UnexpectedEof);

        // Cutting and growing again shows zeros, not what was there.
        file.set_len(5003).unwrap();
        file.set_len(1 << 40).unwrap();
        let mut cut = [1; 8];
        file.read_exact_at(&mut cut, 5000).unwrap();
        assert_eq!(&cut, b"mid\0\0\0\0\0");

        file.write_all_at(&[7; 12288], 8192).unwrap();
        file.punch_hole(10_000, 8000).unwrap();
        assert_eq!(file.len().unwrap(), 1 << 40, "a hole keeps the length");
        let mut holed = vec![1; 12288];
        file.read_exact_at(&mut holed, 8192).unwrap();
        for (i, &byte) in holed.iter().enumerate() {
            let want = if (1808..9808).contains(&i) { 0 } else { 7 };
            assert_eq!(byte, want, "at {i}");
        }
        file.sync_data().unwrap();
        file.drop_cache().unwrap();
        if file.try_read_exact_at(&mut holed, 8192).unwrap().is_some() {
            assert_eq!((holed[0], holed[1808]), (7, 0));
        }
        assert!(file.try_read_exact_at(&mut [0; 8], (1 << 40) - 4).unwrap().is_none());

        let reader = fs.open(&path, OpenMode::Read).unwrap();
        assert!(reader.write_at(b"x", 0).is_err());
        fs.remove_file(&path).unwrap();
        reader.read_exact_at(&mut cut, 5000).unwrap();
        assert_eq!(&cut, b"mid\0\0\0\0\0", "an open file outlives its name");
    });
}

#[test]
fn locks() {
    on_each(|fs, root| {
        let path = root.join("lock");
        let held = fs.lock(&path, false).unwrap();
        held.write_note("a longer note").unwrap();
        held.write_note("a note").unwrap();
        assert_eq!(kind(fs.lock(&path, false)), io::ErrorKind::WouldBlock);
        assert_eq!(read_whole(&**fs, &path, 100).unwrap(), b"a note");
        let waiter = std::thread::spawn({
            let (fs, path) = (fs.clone(), path.clone());
            move || drop(fs.lock(&path, true).unwrap())
        });
        drop(held);
        waiter.join().unwrap();
        fs.lock(&path, false).unwrap();
    });
}

#[test]
fn replacing() {
    on_each(|fs, root| {
        let path = root.join("record");
        for bytes in [b"first".as_slice(), b"", b"third, longer"] {
            replace(&**fs, &path, bytes).unwrap();
            assert_eq!(read_whole(&**fs, &path, 64).unwrap(), bytes);
        }
        fs.open(&root.join("record.tmp"), OpenMode::Create).unwrap();
        replace(&**fs, &path, b"over what a crash left").unwrap();
        assert_eq!(fs.read_dir(root).unwrap(), [Path::new("record")]);
        assert_eq!(kind(read_whole(&**fs, &path, 3)), io::ErrorKind::InvalidData);
        assert_eq!(kind(replace(&**fs, &root.join("no/record"), b"")), io::ErrorKind::NotFound);
    });
}

#[test]
fn folders_are_durable_whoever_began_to_make_them() {
    on_each(|fs, root| {
        let deep = root.join("a/b/c");
        make_folders(&**fs, &deep).unwrap();
        make_folders(&**fs, &deep).unwrap();
        assert!(fs.stat(&deep).unwrap().is_dir);
        fs.open(&root.join("file"), OpenMode::Create).unwrap();
        assert_eq!(kind(make_folders(&**fs, &root.join("file"))), io::ErrorKind::NotADirectory);
        assert_eq!(kind(make_folders(&**fs, &root.join("file/x"))), io::ErrorKind::NotADirectory);
    });
    for died_after in 0.. {
        let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1).unwrap();
        let dies = FaultFs::new(Arc::new(crash.clone()));
        dies.fail(On::change().skip(died_after).always(), FsFault::EIO);
        let lived = make_folders(&dies, Path::new("/a/b/c")).is_ok();
        make_folders(&crash, Path::new("/a/b/c")).unwrap();
        for image in crash.crash().images(1, usize::MAX) {
            assert!(exists(image.fs(), Path::new("/a/b/c")).unwrap(), "died after {died_after}; {image}");
        }
        if lived {
            assert!(died_after > 6);
            break;
        }
    }
}

#[test]
fn memory_runs_out_and_comes_back() {
    let fs = MemFs::new();
    fs.set_capacity(3 * 4096);
    let file = fs.open(Path::new("/file"), OpenMode::Create).unwrap();
    file.set_len(1 << 40).unwrap();
    assert_eq!(file.write_at(&[1; 5 * 4096], 4096).unwrap(), 3 * 4096, "short first");
    assert_eq!(kind(file.write_at(&[1; 1], 0)), io::ErrorKind::StorageFull);
    file.write_all_at(&[2; 4096], 8192).unwrap();
    file.punch_hole(0, 8192).unwrap();
    assert_eq!(fs.used(), 2 * 4096);
    file.write_all_at(&[1; 1], 0).unwrap();
    fs.remove_file(Path::new("/file")).unwrap();
    assert_eq!(fs.used(), 3 * 4096, "still open");
    drop(file);
    assert_eq!(fs.used(), 0);
}
