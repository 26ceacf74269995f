//! A file system that calls the test before each operation, and fails or waits as that does.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::fs::{FileStat, Fs, FsFile, FsLock, OpenMode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Open,
    Read,
    Write,
    Remove,
    Other,
}

type Hook = Arc<dyn Fn(Op) -> io::Result<()> + Send + Sync>;

#[derive(Clone)]
pub(super) struct HookFs<F> {
    pub(super) below: F,
    hook: Hook,
}

impl<F: Fs> HookFs<F> {
    pub(super) fn new(below: F, hook: impl Fn(Op) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self { below, hook: Arc::new(hook) }
    }
}

impl<F> fmt::Debug for HookFs<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookFs")
    }
}

impl<F: Fs> Fs for HookFs<F> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        (self.hook)(Op::Open)?;
        Ok(Arc::new(HookFile { below: self.below.open(path, mode)?, hook: self.hook.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.below.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Op::Remove)?;
        self.below.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
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
        self.below.sync_dir(path)
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        self.below.lock(path, wait)
    }
}

struct HookFile {
    below: Arc<dyn FsFile>,
    hook: Hook,
}

impl fmt::Debug for HookFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.below.fmt(f)
    }
}

impl FsFile for HookFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        (self.hook)(Op::Read)?;
        self.below.read_at(buf, offset)
    }

    /// Always would wait, as on a file system that does not know such reads.
    fn try_read_at(&self, _buf: &mut [u8], _offset: u64) -> io::Result<Option<usize>> {
        Ok(None)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if let Err(e) = (self.hook)(Op::Write) {
            // Half of it went through.
            self.below.write_at(&buf[..buf.len() / 2], offset)?;
            return Err(e);
        }
        self.below.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        (self.hook)(Op::Other)?;
        self.below.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        (self.hook)(Op::Other)?;
        self.below.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.below.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.punch_hole(offset, len)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.below.drop_cache()
    }
}
