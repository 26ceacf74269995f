//! [`MemFs`]: a file system in memory, for tests that make many and want them fast. Files are sparse, so
//! that a disk of terabytes costs what was written; a capacity can be set to run out of.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gabion_store_core::sync::{Condvar, Mutex};

use super::{
    FileStat, Fs, FsFile, FsFileExt as _, FsLock, OpenMode,
    sparse::{PAGE, Sparse},
};

/// A file system in memory. A clone shares the files. At first there is the folder `/`.
///
/// Durability is not modelled: everything is as if synced at once.
#[derive(Clone)]
pub struct MemFs(Arc<Inner>);

struct Inner {
    names: Mutex<BTreeMap<PathBuf, Node>>,
    space: Arc<Space>,
}

#[derive(Clone)]
enum Node {
    Dir,
    File(Arc<MemFile>),
}

/// Pages in use by all files, and how many there may be.
struct Space {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Space {
    /// Takes a page, if there is one left.
    fn take(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let more = |used: u64| (used < limit).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

impl MemFs {
    /// An empty file system without bounds.
    pub fn new() -> Self {
        let space = Space { used: AtomicU64::new(0), limit: AtomicU64::new(u64::MAX) };
        let names = BTreeMap::from([(PathBuf::from("/"), Node::Dir)]);
        Self(Arc::new(Inner { names: Mutex::new(names), space: Arc::new(space) }))
    }

    /// Sets how many bytes all files together may take, in pages of 4 KiB; beyond it writes fail with
    /// `StorageFull`. What is there stays.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.space.limit.store(bytes / PAGE as u64, Ordering::Relaxed);
    }

    /// Bytes that all files together take, in pages of 4 KiB.
    pub fn used(&self) -> u64 {
        self.0.space.used.load(Ordering::Relaxed) * PAGE as u64
    }

    /// A file system with these folders, each behind the one it is in, and files.
    pub(super) fn assemble(
        folders: impl IntoIterator<Item = PathBuf>,
        files: impl IntoIterator<Item = (PathBuf, Arc<Sparse>)>,
    ) -> Self {
        let fs = Self::new();
        let mut names = fs.0.names.lock();
        names.extend(folders.into_iter().map(|folder| (folder, Node::Dir)));
        for (path, content) in files {
            names.insert(path, Node::File(Arc::new(MemFile::new(content, fs.0.space.clone()))));
        }
        drop(names);
        fs
    }

    fn file(&self, path: &Path, make: bool, may_exist: bool) -> io::Result<Arc<MemFile>> {
        let path = normal(path);
        let mut names = self.0.names.lock();
        check_parent(&names, &path)?;
        match names.get(&path) {
            Some(_) if !may_exist => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(file)) => Ok(file.clone()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None if make => {
                let file = Arc::new(MemFile::new(Arc::default(), self.0.space.clone()));
                names.insert(path, Node::File(file.clone()));
                Ok(file)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Default for MemFs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFs")
            .field("names", &self.0.names.lock().len())
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

fn normal(path: &Path) -> PathBuf {
    path.components().collect()
}

fn check_parent(names: &BTreeMap<PathBuf, Node>, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    match names.get(parent) {
        Some(Node::Dir) => Ok(()),
        Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Names right in `folder`.
fn names_in<'a>(names: &'a BTreeMap<PathBuf, Node>, folder: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    names
        .range(folder.to_path_buf()..)
        .take_while(move |(path, _)| path.starts_with(folder))
        .filter(move |(path, _)| path.parent() == Some(folder))
        .filter_map(|(path, _)| path.file_name().map(PathBuf::from))
}

impl Fs for MemFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        let file = match mode {
            OpenMode::Read | OpenMode::ReadWrite => self.file(path, false, true)?,
            OpenMode::CreateNew => self.file(path, true, false)?,
            OpenMode::Create => self.file(path, true, true)?,
        };
        Ok(Arc::new(Handle { file, writable: mode != OpenMode::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut names = self.0.names.lock();
        check_parent(&names, &to)?;
        match (names.get(&from), names.get(&to)) {
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(Node::Dir), _) | (_, Some(Node::Dir)) => Err(io::ErrorKind::IsADirectory.into()),
            (Some(file), _) => {
                let file = file.clone();
                names.remove(&from);
                names.insert(to, file);
                Ok(())
            }
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut names = self.0.names.lock();
        match names.get(&path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            Some(Node::File(_)) => {
                names.remove(&path);
                Ok(())
            }
        }
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut names = self.0.names.lock();
        check_parent(&names, &path)?;
        if names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names.insert(path, Node::Dir);
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut names = self.0.names.lock();
        match names.get(&path) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) if names_in(&names, &path).next().is_some() => {
                Err(io::ErrorKind::DirectoryNotEmpty.into())
            }
            Some(Node::Dir) => {
                names.remove(&path);
                Ok(())
            }
        }
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.sync_dir(path)?;
        Ok(names_in(&self.0.names.lock(), &normal(path)).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        match self.0.names.lock().get(&normal(path)) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Node::Dir) => Ok(FileStat { len: 0, is_dir: true }),
            Some(Node::File(file)) => Ok(FileStat { len: file.content.lock().len(), is_dir: false }),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match self.0.names.lock().get(&normal(path)) {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Dir) => Ok(()),
        }
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        let file = self.file(path, true, true)?;
        let mut locked = file.locked.lock();
        while *locked {
            if !wait {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            file.unlocked.wait(&mut locked);
        }
        *locked = true;
        drop(locked);
        Ok(Box::new(MemLock(Handle { file, writable: true })))
    }
}

struct MemFile {
    content: Mutex<Arc<Sparse>>,
    locked: Mutex<bool>,
    unlocked: Condvar,
    space: Arc<Space>,
}

impl MemFile {
    fn new(content: Arc<Sparse>, space: Arc<Space>) -> Self {
        space.used.fetch_add(content.pages(), Ordering::Relaxed);
        Self { content: Mutex::new(content), locked: Mutex::default(), unlocked: Condvar::new(), space }
    }

    /// Changes the content so that no page is added, and gives back the space of those that went.
    fn shrink(&self, change: impl FnOnce(&mut Sparse)) {
        let content = &mut *self.content.lock();
        let before = content.pages();
        change(Arc::make_mut(content));
        self.space.used.fetch_sub(before - content.pages(), Ordering::Relaxed);
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let pages = self.content.get_mut().pages();
        self.space.used.fetch_sub(pages, Ordering::Relaxed);
    }
}

/// An open file.
struct Handle {
    file: Arc<MemFile>,
    writable: bool,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFile")
            .field("len", &self.file.content.lock().len())
            .field("writable", &self.writable)
            .finish()
    }
}

impl Handle {
    fn check_writable(&self) -> io::Result<()> {
        // What the kernel says of a descriptor that is open for reading only.
        if self.writable { Ok(()) } else { Err(rustix::io::Errno::BADF.into()) }
    }
}

impl FsFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.file.content.lock().read(buf, offset))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.check_writable()?;
        let content = &mut *self.file.content.lock();
        let done = Arc::make_mut(content).write(buf, offset, || self.file.space.take());
        if done == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.content.lock().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.file.shrink(|content| content.set_len(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.file.shrink(|content| content.clear(offset, offset.saturating_add(len)));
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct MemLock(Handle);

impl FsLock for MemLock {
    fn write_note(&self, note: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.write_all_at(note.as_bytes(), 0)
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        *self.0.file.locked.lock() = false;
        self.0.file.unlocked.notify_one();
    }
}
