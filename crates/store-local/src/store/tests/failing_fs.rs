//! A file system whose n-th change fails, once.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::fs::{FileStat, Fs, FsFile, FsLock, OpenMode};

/// Counts changes (and syncs) down to the one that fails.
#[derive(Clone, Debug, Default)]
pub(super) struct Fuse(Arc<AtomicU64>);

impl Fuse {
    /// Lets the change after `n` others fail.
    pub(super) fn set(&self, n: u64) {
        self.0.store(n + 1, Ordering::SeqCst);
    }

    /// Lets nothing fail; `true` if something was still to fail.
    pub(super) fn clear(&self) -> bool {
        self.0.swap(0, Ordering::SeqCst) > 0
    }

    fn burn(&self) -> io::Result<()> {
        let count_down = |left: u64| left.checked_sub(1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count_down) {
            Ok(1) => Err(io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(super) struct FailingFs<F> {
    pub(super) below: F,
    pub(super) fuse: Fuse,
}

impl<F: Fs> Fs for FailingFs<F> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        if mode != OpenMode::Read {
            self.fuse.burn()?;
        }
        Ok(Arc::new(FailingFile { below: self.below.open(path, mode)?, fuse: self.fuse.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.below.remove_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.below.read_dir(path)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.below.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.sync_dir(path)
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        self.fuse.burn()?;
        self.below.lock(path, wait)
    }
}

struct FailingFile {
    below: Arc<dyn FsFile>,
    fuse: Fuse,
}

impl fmt::Debug for FailingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.below.fmt(f)
    }
}

impl FsFile for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.below.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.below.try_read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if let Err(e) = self.fuse.burn() {
            // Half of it went through.
            self.below.write_at(&buf[..buf.len() / 2], offset)?;
            return Err(e);
        }
        self.below.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fuse.burn()?;
        self.below.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.punch_hole(offset, len)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.below.drop_cache()
    }
}
