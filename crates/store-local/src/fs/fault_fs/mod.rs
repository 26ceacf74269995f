//! [`FaultFs`]: a file system that fails when told to.

mod plan;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{FileStat, Fs, FsFile, FsLock, OpenMode};
use plan::Plan;
pub use plan::{FsFault, FsOp, On};

/// A file system around another, with faults. Without any it is the other one. A clone is the same one.
///
/// Faults come from rules, which say [on](On) which operations what [goes wrong](FsFault); from the space that is
/// left; and from a hook, which is called before each operation and may fail it, wait, or do something else in between.
/// It stands around any file system, real ones too. Around a `CrashFs` its errors are those of a process, with
/// nothing done below; below a `CrashFs` a failed sync is one after which nobody knows what the disk has.
///
/// ```
/// use std::{io, path::Path, sync::Arc};
///
/// use gabion_store_local::fs::{FaultFs, Fs, FsFault, FsFileExt, FsOp, MemFs, On, OpenMode};
///
/// let fs = FaultFs::new(Arc::new(MemFs::new()));
/// let file = fs.open(Path::new("/journal"), OpenMode::CreateNew)?;
/// // The second sync fails, once.
/// fs.fail(On::op(FsOp::Sync).path("journal").skip(1), FsFault::EIO);
/// file.sync_data()?;
/// assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
/// file.sync_data()?;
/// // 1024 bytes may still be written.
/// fs.set_space(Some(1024));
/// assert_eq!(file.write_at(&[1; 2000], 0)?, 1024);
/// assert_eq!(file.write_all_at(&[1; 2000], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Clone)]
pub struct FaultFs {
    inner: Arc<dyn Fs>,
    plan: Arc<Plan>,
}

impl FaultFs {
    /// Stands around `inner`, without a fault.
    pub fn new(inner: Arc<dyn Fs>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Adds a rule. Of several that are about an operation the first counts.
    pub fn fail(&self, on: On, fault: FsFault) {
        self.plan.add(on, fault);
    }

    /// Lets so many more bytes be written, wherever they go, as on a file system that writes nothing in place. Behind
    /// that writes are cut short, at a sector's end, and then fail with `ENOSPC`, and so do new files, folders and names.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.plan.set_space(bytes);
    }

    /// Calls `hook` before each operation, in place of an earlier hook; an error of it is the operation's. It may
    /// use the file system: what is done meanwhile, by anyone, is not shown to it.
    pub fn on(&self, hook: impl FnMut(FsOp, &Path) -> io::Result<()> + Send + 'static) {
        self.plan.set_hook(Some(Box::new(hook)));
    }

    /// Ends all faults. Whether each rule was met as often as it was to be; rules that always fail need
    /// have been met once.
    pub fn heal(&self) -> bool {
        self.plan.heal()
    }

    fn call<T>(&self, op: FsOp, path: &Path, below: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.plan.meet(op, path)? {
            Some(FsFault::Fails(errno) | FsFault::Torn(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(FsFault::FailsAfter(errno)) => {
                below()?;
                Err(io::Error::from_raw_os_error(errno))
            }
            // About reads and writes alone.
            Some(FsFault::Short(_) | FsFault::Rot(_) | FsFault::Misdirected(_)) | None => below(),
        }
    }
}

impl fmt::Debug for FaultFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultFs").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Fs for FaultFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        let op = match mode {
            OpenMode::Read | OpenMode::ReadWrite => FsOp::Open,
            OpenMode::CreateNew | OpenMode::Create => FsOp::Create,
        };
        let inner = self.call(op, path, || self.inner.open(path, mode))?;
        Ok(Arc::new(FaultFile { inner, fs: self.clone(), path: path.to_path_buf() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(FsOp::Rename, to, || self.inner.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(FsOp::Remove, path, || self.inner.remove_file(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.call(FsOp::CreateDir, path, || self.inner.create_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.call(FsOp::RemoveDir, path, || self.inner.remove_dir(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.call(FsOp::ReadDir, path, || self.inner.read_dir(path))
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.call(FsOp::Stat, path, || self.inner.stat(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(FsOp::SyncDir, path, || self.inner.sync_dir(path))
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        self.call(FsOp::Lock, path, || self.inner.lock(path, wait))
    }
}

struct FaultFile {
    inner: Arc<dyn FsFile>,
    fs: FaultFs,
    path: PathBuf,
}

impl fmt::Debug for FaultFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl FaultFile {
    fn call<T>(&self, op: FsOp, below: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.fs.call(op, &self.path, below)
    }

    /// Where a transfer goes that is asked for `offset`.
    fn astray(offset: u64, fault: Option<FsFault>) -> u64 {
        match fault {
            Some(FsFault::Misdirected(by)) => offset.saturating_add_signed(by),
            _ => offset,
        }
    }
}

impl FsFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let fault = self.fs.plan.meet(FsOp::Read, &self.path)?;
        let most = match fault {
            Some(FsFault::Short(most)) => most.clamp(1, buf.len().max(1)).min(buf.len()),
            Some(FsFault::Fails(errno) | FsFault::Torn(errno) | FsFault::FailsAfter(errno)) => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            _ => buf.len(),
        };
        let done = self.inner.read_at(&mut buf[..most], Self::astray(offset, fault))?;
        if let Some(FsFault::Rot(at)) = fault
            && done > 0
        {
            buf[at % done] ^= 1;
        }
        Ok(done)
    }

    /// Would wait, if a read of it might be at fault: that is up to [`read_at`](FsFile::read_at).
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        if self.fs.plan.watches(FsOp::Read, &self.path) {
            return Ok(None);
        }
        self.inner.try_read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let fault = self.fs.plan.meet(FsOp::Write, &self.path)?;
        let most = match fault {
            Some(FsFault::Fails(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(FsFault::Short(most)) => most.clamp(1, buf.len().max(1)).min(buf.len()),
            Some(FsFault::Torn(_)) => buf.len() / 2,
            _ => buf.len(),
        };
        let most = self.fs.plan.take_space(offset, most)?;
        let done = self.inner.write_at(&buf[..most], Self::astray(offset, fault))?;
        match fault {
            Some(FsFault::Torn(errno) | FsFault::FailsAfter(errno)) => {
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(done),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.call(FsOp::Len, || self.inner.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(FsOp::SetLen, || self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call(FsOp::Sync, || self.inner.sync_data())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call(FsOp::PunchHole, || self.inner.punch_hole(offset, len))
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.call(FsOp::DropCache, || self.inner.drop_cache())
    }
}
