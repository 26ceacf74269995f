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

use parking_lot::{Condvar, Mutex};

use super::{FileStat, Fs, FsFile, FsFileExt as _, FsLock, OpenMode};

const PAGE: usize = 4096;

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

    fn file(&self, path: &Path, make: bool, may_exist: bool) -> io::Result<Arc<MemFile>> {
        let path = normal(path);
        let mut names = self.0.names.lock();
        check_parent(&names, &path)?;
        match names.get(&path) {
            Some(_) if !may_exist => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(file)) => Ok(file.clone()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None if make => {
                let file = Arc::new(MemFile::new(self.0.space.clone()));
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
            Some(Node::File(file)) => Ok(FileStat { len: file.content.lock().len, is_dir: false }),
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
    content: Mutex<Content>,
    locked: Mutex<bool>,
    unlocked: Condvar,
    space: Arc<Space>,
}

/// Pages that are not there are zero. Bytes of a page behind `len` are zero.
#[derive(Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl MemFile {
    fn new(space: Arc<Space>) -> Self {
        Self { content: Mutex::default(), locked: Mutex::default(), unlocked: Condvar::new(), space }
    }

    fn give_back(&self, pages: usize) {
        self.space.used.fetch_sub(pages as u64, Ordering::Relaxed);
    }

    /// Makes `start..end` zero and frees the pages that lie wholly in it.
    fn clear(&self, content: &mut Content, start: u64, end: u64) {
        let page = PAGE as u64;
        let (first, last) = (start.div_ceil(page), end / page);
        if first < last {
            let mut inside = content.pages.split_off(&first);
            let mut behind = inside.split_off(&last);
            content.pages.append(&mut behind);
            self.give_back(inside.len());
        }
        for index in [start / page, end / page] {
            let Some(bytes) = content.pages.get_mut(&index) else { continue };
            let from = start.saturating_sub(index * page).min(page) as usize;
            let to = end.saturating_sub(index * page).min(page) as usize;
            bytes[from..to].fill(0);
        }
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        let pages = self.content.get_mut().pages.len();
        self.give_back(pages);
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
            .field("len", &self.file.content.lock().len)
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
        let content = self.file.content.lock();
        let len = (buf.len() as u64).min(content.len.saturating_sub(offset)) as usize;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(len - done);
            match content.pages.get(&(at / PAGE as u64)) {
                Some(page) => buf[done..done + n].copy_from_slice(&page[within..within + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
        Ok(len)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buf, offset).map(Some)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.check_writable()?;
        let mut content = self.file.content.lock();
        let space = &self.file.space;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(buf.len() - done);
            let page = match content.pages.entry(at / PAGE as u64) {
                std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
                std::collections::btree_map::Entry::Vacant(hole) => {
                    if space.used.load(Ordering::Relaxed) >= space.limit.load(Ordering::Relaxed) {
                        break;
                    }
                    space.used.fetch_add(1, Ordering::Relaxed);
                    hole.insert(Box::new([0; PAGE]))
                }
            };
            page[within..within + n].copy_from_slice(&buf[done..done + n]);
            done += n;
        }
        if done == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        content.len = content.len.max(offset + done as u64);
        Ok(done)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.content.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut content = self.file.content.lock();
        let old = content.len;
        if len < old {
            self.file.clear(&mut content, len, old.next_multiple_of(PAGE as u64));
        }
        content.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut content = self.file.content.lock();
        let end = offset.saturating_add(len);
        self.file.clear(&mut content, offset, end);
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
