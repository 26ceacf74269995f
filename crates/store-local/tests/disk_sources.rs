//! Disk images of the host as sources: content, holes, changes underneath, what is no image, QEMU's locks.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests make the files of others, and fail by panicking"
)]

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::{fs::FileExt as _, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use gabion_store_core::{
    ErrorKind, Result,
    chunking::{DiskSource, Next},
    volume::BaseSource as _,
};
use gabion_store_local::disk_file::{FileIdentity, HostFile, LazyFile, RawFile, StreamSource};
use tempfile::TempDir;

const MIB: usize = 1024 * 1024;

/// A file of 4 MiB and a bit: a hole, 64 KiB of data at 1 MiB, a hole, data at the end.
fn sparse_file(folder: &TempDir) -> (PathBuf, Vec<u8>) {
    let path = folder.path().join("disk.raw");
    let mut content = vec![0; 4 * MIB + 1234];
    content[MIB..MIB + 65536].fill(7);
    content[4 * MIB..].fill(9);
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    file.write_all_at(&content[MIB..MIB + 65536], MIB as u64).unwrap();
    file.write_all_at(&content[4 * MIB..], 4 * MIB as u64).unwrap();
    file.sync_all().unwrap();
    (path, content)
}

/// All bytes of a source, and how many of them it called zeros.
fn drain(source: &mut dyn DiskSource, buf_len: usize) -> Result<(Vec<u8>, u64)> {
    let (mut bytes, mut zeros, mut buf) = (Vec::new(), 0, vec![0xee; buf_len]);
    loop {
        match source.next(&mut buf)? {
            Next::Data(n) => bytes.extend_from_slice(&buf[..n]),
            Next::Zero(n) => {
                zeros += n;
                bytes.resize(bytes.len() + n as usize, 0);
            }
            Next::End => return Ok((bytes, zeros)),
            Next::Skip(n) => panic!("skipped {n}"),
        }
    }
}

#[test]
fn raw_file_reads_content_and_passes_over_holes() {
    let folder = TempDir::new().unwrap();
    let (path, content) = sparse_file(&folder);
    for buf_len in [1000, 65536, 2 * MIB] {
        let mut source = RawFile::open(&path).unwrap();
        assert_eq!(source.size(), Some(content.len() as u64));
        let (bytes, zeros) = drain(&mut source, buf_len).unwrap();
        assert!(bytes == content, "content differs with reads of {buf_len}");
        assert!(zeros >= 3 * MIB as u64, "only {zeros} bytes of holes were seen");
    }
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(drain(&mut RawFile::open(&empty).unwrap(), 10).unwrap(), (vec![], 0));
}

#[test]
fn a_file_changed_while_it_is_read_is_a_conflict() {
    let changes: [fn(&Path); 3] = [
        |path| overwrite(path, 0, b"changed"),
        |path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(5000).unwrap(),
        |path| std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        let folder = TempDir::new().unwrap();
        let (path, _) = sparse_file(&folder);
        let mut source = RawFile::open(&path).unwrap();
        change(&path);
        let error = drain(&mut source, 65536).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "change {number}: {error:?}");
        assert!(error.report().contains("disk.raw"), "{error:?}");
    }
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn what_is_no_disk_image_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("a.fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let socket = folder.path().join("a.socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, what) in [
        (fifo.as_path(), "FIFO"),
        (socket.as_path(), "socket"),
        (folder.path(), "folder"),
        (Path::new("/dev/null"), "character device"),
    ] {
        let error = RawFile::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
        let report = error.report();
        assert!(report.contains(what) && report.contains(path.to_str().unwrap()), "{report}");
    }
    let error = RawFile::open(&folder.path().join("absent")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("absent"));
}

#[cfg(target_os = "linux")]
#[test]
fn permission_denied_is_told_as_such() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("secret.raw");
    std::fs::write(&path, "x").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o0)).unwrap();
    // Of this thread alone, and only root needs it: root may read everything.
    let error = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        RawFile::open(&path).unwrap_err()
    })
    .join()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
}

/// Gives its bytes in odd pieces, interrupted now and then, and may fail at the end.
struct OddStream(Vec<u8>, usize, bool);

impl Read for OddStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let n = self.0.len().min(buf.len()).min(777);
        if n == 0 && self.2 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0.drain(..n);
        Ok(n)
    }
}

#[test]
fn a_stream_is_read_to_its_end_or_to_its_error() {
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    let mut source = StreamSource::new(OddStream(content.clone(), 0, false), "the pipe");
    assert_eq!(source.size(), None);
    assert!(drain(&mut source, 4096).unwrap().0 == content);
    let mut source = StreamSource::new(OddStream(content, 0, true), "the pipe");
    assert!(drain(&mut source, 4096).unwrap_err().report().contains("the pipe"));
}

#[test]
fn a_lazy_file_reads_what_was_taken_on_or_fails() {
    let folder = TempDir::new().unwrap();
    let (path, content) = sparse_file(&folder);
    let copy = folder.path().join("copy");
    let lazy = LazyFile::open(&path, &copy).unwrap();
    assert_eq!(lazy.size(), content.len() as u64);
    let mut buf = vec![0; 10_000];
    lazy.read(MIB as u64 - 100, &mut buf).unwrap();
    assert!(buf == content[MIB - 100..MIB + 9900]);
    // Just read, so it is in memory, unless the file system can't tell.
    if let Some(read) = lazy.try_read(MIB as u64 - 100, &mut buf) {
        read.unwrap();
        assert!(buf == content[MIB - 100..MIB + 9900]);
    }
    let mut at = 0;
    while at < lazy.size() {
        let (hole, end) = lazy.first_run(at, lazy.size()).unwrap();
        assert!(end > at && end <= lazy.size());
        assert!(!hole || content[at as usize..end as usize].iter().all(|b| *b == 0));
        at = end;
    }
    lazy.check().unwrap();

    overwrite(&path, MIB as u64, b"changed");
    if lazy.is_private() {
        lazy.read(MIB as u64, &mut buf).unwrap();
        assert!(buf == content[MIB..MIB + 10_000]);
        return;
    }
    assert!(!copy.exists(), "the copy that could not be made is left behind");
    let mut errors = vec![
        lazy.check().unwrap_err(),
        lazy.read(0, &mut buf).unwrap_err(),
        lazy.first_run(0, 4096).unwrap_err(),
    ];
    if let Some(read) = lazy.try_read(0, &mut buf) {
        errors.push(read.unwrap_err());
    }
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.report().contains("disk.raw"), "{error:?}");
    }
}

#[test]
fn a_lazy_file_cut_short_never_reads_as_zeros() {
    let folder = TempDir::new().unwrap();
    let (path, content) = sparse_file(&folder);
    let lazy = LazyFile::open(&path, &folder.path().join("copy")).unwrap();
    if lazy.is_private() {
        return;
    }
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let end = content.len() as u64;
    let mut buf = [0; 512];
    assert_eq!(lazy.first_run(end - 512, end).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(lazy.read(end - 512, &mut buf).unwrap_err().kind(), ErrorKind::Conflict);
    assert!(lazy.try_read(end - 512, &mut buf).is_none_or(|read| read.is_err()));
}

#[test]
fn a_lazy_file_whose_path_names_another_is_a_conflict() {
    let folder = TempDir::new().unwrap();
    let (path, content) = sparse_file(&folder);
    let copy = folder.path().join("copy");
    let lazy = LazyFile::open(&path, &copy).unwrap();
    let identity = lazy.identity();
    let other = folder.path().join("other");
    std::fs::write(&other, &content).unwrap();
    std::fs::rename(&other, &path).unwrap();
    if lazy.is_private() {
        return lazy.check().unwrap();
    }
    assert_eq!(lazy.check().unwrap_err().kind(), ErrorKind::Conflict);
    drop(lazy);
    assert_eq!(LazyFile::reopen(&path, identity, &copy).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn a_lazy_file_is_taken_up_again_if_it_is_what_it_was() {
    let folder = TempDir::new().unwrap();
    let (path, content) = sparse_file(&folder);
    let copy = folder.path().join("copy");
    let lazy = LazyFile::open(&path, &copy).unwrap();
    let recorded = serde_json::to_string(&lazy.identity()).unwrap();
    let absolute = lazy.path().to_owned();
    drop(lazy);

    let identity: FileIdentity = serde_json::from_str(&recorded).unwrap();
    let restarted = FileIdentity { device: identity.device + 1, ..identity };
    LazyFile::reopen(&absolute, restarted, &copy).unwrap().check().unwrap();
    for wrong in [
        FileIdentity { inode: identity.inode + 1, ..identity },
        FileIdentity { modified: identity.modified + 1, ..identity },
        FileIdentity { changed: identity.changed - 1, ..identity },
    ] {
        let lazy = LazyFile::reopen(&absolute, wrong, &copy);
        // A private copy answers for itself.
        assert!(copy.exists() || lazy.unwrap_err().kind() == ErrorKind::Conflict);
    }

    // With a private copy, the file itself no longer matters.
    std::fs::write(&copy, &content).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lazy = LazyFile::reopen(&absolute, identity, &copy).unwrap();
    assert!(lazy.is_private());
    let mut buf = vec![0; content.len()];
    lazy.read(0, &mut buf).unwrap();
    assert!(buf == content);
    drop(lazy);
    std::fs::write(&copy, "short").unwrap();
    assert_eq!(LazyFile::reopen(&absolute, identity, &copy).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_private_copy_never_replaces_a_file() {
    let folder = TempDir::new().unwrap();
    let (path, _) = sparse_file(&folder);
    let copy = folder.path().join("copy");
    std::fs::write(&copy, "mine").unwrap();
    assert_eq!(LazyFile::open(&path, &copy).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&copy).unwrap(), b"mine");
}

/// A `qemu-io` that has the file open until it is ended.
struct QemuIo(Child);

impl QemuIo {
    fn start(path: &Path, arguments: &[&str], command: &str, done: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(["-f", "raw"])
            .args(arguments)
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io is needed by this test (package qemu-utils)");
        child.stdin.as_mut().unwrap().write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(done)), "qemu-io ended early");
        Self(child)
    }

    fn end(mut self) {
        self.0.stdin.take().unwrap().write_all(b"quit\n").unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

fn qemu_io(path: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("qemu-io")
        .args(["-f", "raw"])
        .args(arguments)
        .arg(path)
        .output()
        .expect("qemu-io is needed by this test (package qemu-utils)");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_qemu_writes_to_is_in_use() {
    let folder = TempDir::new().unwrap();
    let (path, _) = sparse_file(&folder);
    let writer = QemuIo::start(&path, &[], "write 0 4k", "wrote 4096");
    let error = RawFile::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(error.report().contains("in use") && error.report().contains("disk.raw"), "{error:?}");
    assert!(LazyFile::open(&path, &folder.path().join("copy")).is_err());
    assert!(!folder.path().join("copy").exists());
    writer.end();
    RawFile::open(&path).unwrap();

    let reader = QemuIo::start(&path, &["-r"], "read 0 4k", "read 4096");
    RawFile::open(&path).unwrap();
    reader.end();
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_read_here_can_be_read_but_not_written_by_qemu() {
    let folder = TempDir::new().unwrap();
    let (path, _) = sparse_file(&folder);
    let (first, second) = (HostFile::open(&path).unwrap(), HostFile::open(&path).unwrap());
    drop(first);
    let (written, message) = qemu_io(&path, &["-c", "write 0 4k"]);
    assert!(!written && message.contains("lock"), "{message}");
    let (read, message) = qemu_io(&path, &["-r", "-c", "read 0 4k"]);
    assert!(read, "{message}");
    second.check().unwrap();
    drop(second);
    let (written, message) = qemu_io(&path, &["-c", "write 0 4k"]);
    assert!(written, "{message}");
}
