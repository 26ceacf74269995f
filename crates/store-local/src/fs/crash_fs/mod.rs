//! [`CrashFs`]: a file system that knows what a power failure at any moment would leave of it.

mod changes;
mod point;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::sync::Mutex;

pub use point::{CrashImage, CrashPoint, CrashPoints};

use super::{FileStat, Fs, FsFile, FsLock, OpenMode};
use changes::Node;
use state::State;

/// A file system around another that can tell what a power failure would leave. A clone is the same one.
///
/// It shows the other [`Fs`] unchanged, and keeps beside it what the *disk* has: what was
/// synced, and nothing else. Everything changed since is *pending*, in pieces that arrive on a disk whole or not at
/// all: each 512-byte sector written, each length, each name made, renamed or removed. A [`CrashPoint`] is
/// such a state, cheap to keep; its [`images`](CrashPoint::images) are what a machine may find after the failure: the
/// disk with some of the pending pieces, as file systems in memory that can be opened, written to and crashed again.
///
/// - A file's sync makes its bytes and its length durable, not its name. A folder's sync makes the names
///   in it durable, not what they lead to. A sync covers what was changed before it began.
/// - What was written and not synced is old or new, sector by sector, and so is each of several writes to one
///   sector. Where a file grew, its end may have arrived without the bytes: zeros. A file's lengths arrive in order.
/// - A name that was not synced may be old or new. What it leads to is not lost with it: an unlinked file comes back.
/// - After a failed sync of a file nobody knows: bytes it was about may have arrived or not, and stay so through later
///   syncs that succeed, until they are written anew. Dropping the file's cache shows what became of them. Lengths and
///   names are a file system's own, which keeps them until it has written them, or fails from then on.
///
/// ```
/// use std::{path::Path, sync::Arc};
///
/// use gabion_store_local::fs::{CrashFs, Fs, FsFileExt, MemFs, OpenMode, read_whole, replace};
///
/// let fs = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1)?;
/// let record = Path::new("/record");
/// replace(&fs, record, b"old")?;
/// // From here on, a point after each operation.
/// let points = fs.record();
/// replace(&fs, record, b"new")?;
/// for point in points.take() {
///     for image in point.images(1, usize::MAX) {
///         let found = read_whole(image.fs(), record, 100)?;
///         assert!(found == b"old" || found == b"new", "{image}: {found:?}");
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// **Concurrency**: a change and its record are one step, so a change of the file system below must not wait
/// for another one; syncs run beside changes.
#[derive(Clone, Debug)]
pub struct CrashFs {
    inner: Arc<dyn Fs>,
    state: Arc<Mutex<State>>,
}

impl CrashFs {
    /// Stands around `inner`, below `root` (an absolute path): what is there now is durable, and other paths are
    /// refused. `seed` decides what dropping a cache shows after a failed sync.
    pub fn new(inner: Arc<dyn Fs>, root: &Path, seed: u64) -> io::Result<Self> {
        let state = State::read(&*inner, root, seed)?;
        Ok(Self { inner, state: Arc::new(Mutex::new(state)) })
    }

    /// The moment now.
    pub fn crash(&self) -> CrashPoint {
        self.state.lock().point("now")
    }

    /// Records a point after each operation that changes or syncs anything, from now on.
    pub fn record(&self) -> CrashPoints {
        let points = CrashPoints::default();
        let to = points.clone();
        self.observe(move |point| to.push(point));
        points
    }

    /// Calls `observer` after each operation that changes or syncs anything, before the operation returns and
    /// before the next change, in place of an earlier observer. It must not use this file system.
    pub fn observe(&self, observer: impl FnMut(CrashPoint) + Send + 'static) {
        self.state.lock().observe(Some(Box::new(observer)));
    }

    /// Calls nobody any more.
    pub fn unobserve(&self) {
        self.state.lock().observe(None);
    }

    /// A change: done below and recorded, as one step.
    fn change<T>(
        &self,
        operation: impl FnOnce() -> String,
        below: impl FnOnce() -> io::Result<T>,
        record: impl FnOnce(&mut State, &T),
    ) -> io::Result<T> {
        let mut state = self.state.lock();
        let done = below()?;
        record(&mut state, &done);
        state.notify(operation);
        Ok(done)
    }

    /// A sync of a file or folder: covers what was changed before it began.
    fn sync(&self, node: Node, path: &Path, below: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let until = self.state.lock().next_number();
        let done = below();
        let mut state = self.state.lock();
        match done {
            Ok(()) => state.synced(node, until),
            Err(_) => state.sync_failed(node, until),
        }
        state.notify(|| format!("sync {}", path.display()));
        done
    }

    fn wrap(&self, inner: Arc<dyn FsFile>, node: Node, path: &Path) -> CrashFile {
        CrashFile { fs: self.clone(), inner, node, path: path.to_path_buf() }
    }
}

impl Fs for CrashFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>> {
        let mut state = self.state.lock();
        let place = state.place(path)?;
        let inner = self.inner.open(path, mode)?;
        let node = match state.at(&place) {
            Some(node) => node,
            None => {
                let node = state.make_file(place);
                state.notify(|| format!("create {}", path.display()));
                node
            }
        };
        Ok(Arc::new(self.wrap(inner, node, path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let places = {
            let state = self.state.lock();
            (state.place(from)?, state.place(to)?)
        };
        self.change(
            || format!("rename {} to {}", from.display(), to.display()),
            || self.inner.rename(from, to),
            |state, ()| state.rename(places.0, places.1),
        )
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let place = self.state.lock().place(path)?;
        self.change(
            || format!("remove {}", path.display()),
            || self.inner.remove_file(path),
            |state, ()| state.set_name(place, None),
        )
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let place = self.state.lock().place(path)?;
        self.change(
            || format!("create folder {}", path.display()),
            || self.inner.create_dir(path),
            |state, ()| state.make_folder(place),
        )
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let place = self.state.lock().place(path)?;
        self.change(
            || format!("remove folder {}", path.display()),
            || self.inner.remove_dir(path),
            |state, ()| state.set_name(place, None),
        )
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.read_dir(path)
    }

    fn stat(&self, path: &Path) -> io::Result<FileStat> {
        self.inner.stat(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let node = self.state.lock().folder(path)?;
        self.sync(node, path, || self.inner.sync_dir(path))
    }

    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>> {
        let place = self.state.lock().place(path)?;
        // May wait for who makes changes meanwhile.
        let inner = self.inner.lock(path, wait)?;
        let mut state = self.state.lock();
        let node = match state.at(&place) {
            Some(node) => node,
            None => {
                let node = state.make_file(place);
                state.notify(|| format!("create lock {}", path.display()));
                node
            }
        };
        Ok(Box::new(CrashLock { fs: self.clone(), inner, node }))
    }
}

#[derive(Debug)]
struct CrashLock {
    fs: CrashFs,
    inner: Box<dyn FsLock>,
    node: Node,
}

impl FsLock for CrashLock {
    fn write_note(&self, note: &str) -> io::Result<()> {
        self.fs.change(
            || "write the note of a lock".to_owned(),
            || self.inner.write_note(note),
            |state, ()| {
                state.set_len(self.node, 0);
                state.write(self.node, 0, note.as_bytes());
            },
        )
    }
}

#[derive(Debug)]
struct CrashFile {
    fs: CrashFs,
    inner: Arc<dyn FsFile>,
    node: Node,
    path: PathBuf,
}

impl FsFile for CrashFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.inner.try_read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.fs.state.lock();
        let done = self.inner.write_at(buf, offset);
        match &done {
            Ok(n) => state.write(self.node, offset, &buf[..*n]),
            // Part of it may have got through.
            Err(_) => state.reread(self.node, &*self.inner, offset, buf.len()),
        }
        state.notify(|| format!("write {} at {offset}", self.path.display()));
        done
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fs.change(
            || format!("set the length of {} to {len}", self.path.display()),
            || self.inner.set_len(len),
            |state, ()| state.set_len(self.node, len),
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.sync(self.node, &self.path, || self.inner.sync_data())
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.fs.change(
            || format!("punch a hole into {} at {offset}", self.path.display()),
            || self.inner.punch_hole(offset, len),
            |state, ()| state.punch(self.node, offset, len),
        )
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.inner.drop_cache()?;
        self.fs.state.lock().show_given_up(self.node, &*self.inner)
    }
}
