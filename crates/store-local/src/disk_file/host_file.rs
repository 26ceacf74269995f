//! [`HostFile`]: someone else's file, opened to be read. The one place that opens foreign files for reading.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "files of the host are no part of a store, so they stay outside the seam"
)]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use gabion_store_core::{Error, ErrorKind, Result};
use rustix::{
    fs::SeekFrom,
    io::Errno,
    time::{ClockId, clock_gettime},
};

use super::{FileIdentity, locks};

/// Most waits for the end of a clock tick when a file was changed just now. A fuzzer, which changes its file all the
/// time, does without.
const MAX_TICKS: u32 = if cfg!(fuzzing) { 0 } else { 50 };
/// Longest tick of a kernel's clock, in nanoseconds, generously.
const LONGEST_TICK: i64 = 50_000_000;

/// A regular file or block device of the host, open for reading, with its identity at that moment.
///
/// **Locking**: it is held as QEMU holds an image that it reads: a QEMU that writes to it makes
/// [`open`](Self::open) fail, and one that wants to write later is refused until this is dropped. Where the
/// file system knows no such locks there is none, and a change is noticed all the same.
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    file: File,
    identity: FileIdentity,
    size: u64,
    block_device: bool,
    /// The file system knows no holes, or no reads that never wait; asking each time would cost a call.
    no_holes: AtomicBool,
    no_nowait: AtomicBool,
}

impl HostFile {
    /// Opens a file for reading, shared with readers only.
    ///
    /// **Errors**: `NotFound`, `PermissionDenied`; `Invalid` for what is neither a regular file nor a block
    /// device (which is not even opened); `Conflict` if a process holds it for writing.
    pub fn open(path: &Path) -> Result<Self> {
        let file = Self::open_unlocked(path)?;
        locks::share_for_reading(&file.file, &file.path)?;
        Ok(file)
    }

    /// As [`open`](Self::open), for a file that nobody else knows.
    pub(super) fn open_unlocked(path: &Path) -> Result<Self> {
        let failed = |e| Error::io(format!("{} can't be opened", path.display()), e);
        // Asked before opening: to open a FIFO may wait for ever, and to open a tape winds it back.
        require_disk(path, fs::metadata(path).map_err(failed)?.file_type())?;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags.bits()).expect("flags of open fit an int"))
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        require_disk(path, kind)?;
        let identity = settled_identity(&file).map_err(failed)?;
        let block_device = kind.is_block_device();
        let size = match block_device {
            true => rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| failed(e.into()))?,
            false => identity.size,
        };
        Ok(Self {
            path: std::path::absolute(path).map_err(failed)?,
            file,
            identity,
            size,
            block_device,
            no_holes: AtomicBool::new(false),
            no_nowait: AtomicBool::new(false),
        })
    }

    /// Absolute path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What it was when it was opened.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Whether it is a block device, whose changes can't be seen by [`check`](Self::check).
    pub fn is_block_device(&self) -> bool {
        self.block_device
    }

    /// `Conflict` if the file is no longer what it was when it was opened.
    pub fn check(&self) -> Result<()> {
        if self.block_device {
            return Ok(());
        }
        let stat = rustix::fs::fstat(&self.file)
            .map_err(|e| Error::io(format!("{} can't be looked at", self.path.display()), e.into()))?;
        if FileIdentity::of(&stat) == self.identity { Ok(()) } else { Err(self.changed()) }
    }

    /// As [`check`](Self::check); also `Conflict` if the path names another file now, or none.
    pub fn check_with_path(&self) -> Result<()> {
        self.check()?;
        match rustix::fs::stat(&self.path) {
            Ok(stat) if FileIdentity::of(&stat).same_file(&self.identity) => Ok(()),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Err(self.changed()),
            Err(e) => Err(Error::io(format!("{} can't be looked at", self.path.display()), e.into())),
        }
    }

    /// The error for a file that changed underneath.
    pub(super) fn changed(&self) -> Error {
        Error::new(
            ErrorKind::Conflict,
            format!(
                "{} was changed since it was opened: stop what writes to it and start again",
                self.path.display()
            ),
        )
    }

    /// Fills `buf` from `offset`. `Conflict` if the file ends before: it was longer when it was opened.
    pub fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                Ok(0) => return Err(self.changed()),
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.unreadable(offset, e)),
            }
        }
        Ok(())
    }

    /// Fills `buf` from `offset` if all of it is in memory; else `None`, and `buf` may hold anything.
    pub fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> Option<Result<()>> {
        if self.no_nowait.load(Ordering::Relaxed) {
            return None;
        }
        match read_cached(&self.file, buf, offset) {
            Ok(n) if n == buf.len() => Some(Ok(())),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => None,
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.no_nowait.store(true, Ordering::Relaxed);
                None
            }
            Err(e) => Some(Err(self.unreadable(offset, e.into()))),
        }
    }

    fn unreadable(&self, offset: u64, error: io::Error) -> Error {
        Error::io(format!("{} can't be read at byte {offset}", self.path.display()), error)
    }

    /// Whether the byte at `start` is in a hole, and where that run ends, at most `end`; `start < end`, both
    /// within the size. Where holes are unknown, all is data. A file cut short meanwhile looks like a hole:
    /// believe it only after a [`check`](Self::check).
    pub fn first_run(&self, start: u64, end: u64) -> Result<(bool, u64)> {
        if self.block_device || self.no_holes.load(Ordering::Relaxed) {
            return Ok((false, end));
        }
        match self.seek(SeekFrom::Data(start), start)? {
            Seek::At(data) if data > start => Ok((true, data.min(end))),
            Seek::Nothing => Ok((true, end)),
            Seek::Unknown => Ok((false, end)),
            Seek::At(_) => match self.seek(SeekFrom::Hole(start), start)? {
                // Not beyond `start` can only be a file that changes right now.
                Seek::At(hole) if hole > start => Ok((false, hole.min(end))),
                _ => Ok((false, end)),
            },
        }
    }

    fn seek(&self, to: SeekFrom, offset: u64) -> Result<Seek> {
        match rustix::fs::seek(&self.file, to) {
            Ok(at) => Ok(Seek::At(at)),
            Err(Errno::NXIO) => Ok(Seek::Nothing),
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => {
                self.no_holes.store(true, Ordering::Relaxed);
                Ok(Seek::Unknown)
            }
            Err(e) => Err(self.unreadable(offset, e.into())),
        }
    }

    /// Tells the kernel that the file will be read from start to end.
    pub(super) fn will_read_all(&self) {
        #[cfg(target_os = "linux")]
        // A hint: what it answers changes nothing.
        let _refused = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::Sequential);
    }
}

impl AsFd for HostFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Where a seek for data or a hole ended.
enum Seek {
    At(u64),
    /// No data up to the end of the file.
    Nothing,
    /// The file system can't tell.
    Unknown,
}

fn require_disk(path: &Path, kind: fs::FileType) -> Result<()> {
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a character device"
    };
    Err(Error::invalid(format!("{} is {what}, which is no disk image", path.display())))
}

/// The identity of a file, taken when the clock tick of its last change is over. Otherwise a write in the same
/// tick as the last one would leave the identity as it is.
fn settled_identity(file: &File) -> io::Result<FileIdentity> {
    for _ in 0..MAX_TICKS {
        let identity = FileIdentity::of(&rustix::fs::fstat(file)?);
        let now = clock_gettime(TICKING);
        let now = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        // A time further ahead is someone's wrong clock: no wait would help.
        if !(now..now + LONGEST_TICK).contains(&identity.changed) {
            return Ok(identity);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(FileIdentity::of(&rustix::fs::fstat(file)?))
}

/// The clock that file systems stamp with.
#[cfg(target_os = "linux")]
const TICKING: ClockId = ClockId::RealtimeCoarse;
#[cfg(not(target_os = "linux"))]
const TICKING: ClockId = ClockId::Realtime;

#[cfg(target_os = "linux")]
fn read_cached(file: &File, buf: &mut [u8], offset: u64) -> Result<usize, Errno> {
    rustix::io::preadv2(file, &mut [io::IoSliceMut::new(buf)], offset, rustix::io::ReadWriteFlags::NOWAIT)
}

#[cfg(not(target_os = "linux"))]
fn read_cached(_: &File, _: &mut [u8], _: u64) -> Result<usize, Errno> {
    Err(Errno::OPNOTSUPP)
}
