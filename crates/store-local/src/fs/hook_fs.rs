//! [`HookFs`]: calls a test before each operation that changes or syncs anything, and fails as told.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{FileStat, Fs, FsFile, FsLock, MemFs, OpenMode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Write,
    SetLen,
    Sync,
    Create,
    Rename,
    Remove,
    SyncDir,
}

type Hook = Box<dyn FnMut(Op, &Path) -> io::Result<()> + Send>;

#[derive(Clone)]
pub(crate) struct HookFs {
    inner: MemFs,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl fmt::Debug for HookFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookFs")
    }
}

impl HookFs {
    pub(crate) fn new(inner: MemFs) -> Self {
        Self { inner, hook: Arc::default() }
    }

    /// Installs the hook. Operations that it makes itself are not shown to it.
    pub(crate) fn on(&self, hook: impl FnMut(Op, &Path) -> io::Result<()> + Send + 'static) {
        *self.hook.lock() = Some(Box::new(hook));
    }

    /// Fails every operation of one sort on paths that contain `part`, `times` times.
    pub(crate) fn fail(&self, op: Op, part: &'static str, mut times: usize, kind: io::ErrorKind) {
        self.on(move |on, path| {
            let hit = on == op && path.to_str().is_some_and(|path| path.contains(part)) && times > 0;
            times -= usize::from(hit);
            if hit { Err(kind.into()) } else { Ok(()) }
        });
    }

    fn call(&self, op: Op, path: &Path) -> io::Result<()> {
        let Some(mut hook) = self.hook.lock().take() else { return Ok(()) };
        let result = hook(op, path);
        self.hook.lock().get_or_insert(hook);
        result
    }

    fn wrap(&self, file: Arc<dyn FsFile>, path: &Path) -> Arc<dyn FsFile> {
        Arc::new(HookFile { fs: self.clone(), file, path: path.to_path_buf() })
    }
}

impl Fs for HookFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        if mode == OpenMode::CreateNew {
            self.call(Op::Create, path)?;
        }
        Ok(self.wrap(self.inner.open(path, mode)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Rename, to)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Remove, path)?;
        self.inner.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.read_dir(path)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.inner.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Op::SyncDir, path)?;
        self.inner.sync_dir(path)
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        self.inner.lock(path, wait)
    }
}

#[derive(Debug)]
struct HookFile {
    fs: HookFs,
    file: Arc<dyn FsFile>,
    path: PathBuf,
}

impl FsFile for HookFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.file.try_read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.fs.call(Op::Write, &self.path)?;
        self.file.write_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fs.call(Op::SetLen, &self.path)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.call(Op::Sync, &self.path)?;
        self.file.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch_hole(offset, len)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
