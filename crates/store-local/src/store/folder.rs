//! The store's folder: its objects by key, with errors that name them.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{Error, ErrorKind, Result, sync::Mutex};

use crate::fs::{self, Fs, FsFile, FsFileExt as _, FsLock, OpenMode};

/// Key of the file whose lock orders compare-and-swaps.
const LOCK_KEY: &str = "lock";

/// A folder that holds a store.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    fs: Arc<dyn Fs>,
    root: PathBuf,
    /// Folders whose last sync failed: a name that they show is not durable. Who wrote it was told of an error, and may
    /// look whether it is there.
    in_doubt: Arc<Mutex<BTreeSet<String>>>,
}

impl Folder {
    pub(super) fn new(fs: Arc<dyn Fs>, root: &Path) -> Self {
        Self { fs, root: root.to_path_buf(), in_doubt: Arc::default() }
    }

    pub(super) fn fs(&self) -> &dyn Fs {
        &*self.fs
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, key: &str) -> PathBuf {
        if key.is_empty() { self.root.clone() } else { self.root.join(key) }
    }

    /// An I/O error about an object. What ends early or is too long is corrupt, not unavailable.
    pub(super) fn error(&self, doing: &str, key: &str, e: io::Error) -> Error {
        let message = format!("{doing} {}", self.path(key).display());
        match e.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Error::with_source(ErrorKind::Corrupt, message, e)
            }
            _ => Error::io(message, e),
        }
    }

    pub(super) fn exists(&self, key: &str) -> Result<bool> {
        fs::exists(self.fs(), &self.path(key)).map_err(|e| self.error("looking for", key, e))
    }

    /// `Invalid` if a file is where the folder should be.
    pub(super) fn require_folder(&self) -> Result<()> {
        match self.fs.stat(&self.root) {
            Ok(stat) if !stat.is_dir => Err(Error::invalid(format!(
                "{} is a file, and a store is a folder: choose another place",
                self.root.display()
            ))),
            _ => Ok(()),
        }
    }

    /// All bytes of an object of at most `max` bytes, or `None` if it does not exist. What this process changed of it
    /// is durable then, even if that failed at first.
    pub(super) fn read(&self, key: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let found = match fs::read_whole(self.fs(), &self.path(key), max) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(self.error("reading", key, e)),
        };
        if self.in_doubt.lock().contains(parent(key)) {
            self.sync_dir(parent(key))?;
        }
        Ok(found)
    }

    /// Length of an object in bytes.
    pub(super) fn len(&self, key: &str) -> Result<u64> {
        let stat = self.fs.stat(&self.path(key));
        stat.map(|stat| stat.len).map_err(|e| self.error("looking for", key, e))
    }

    /// Opens an object for reading.
    pub(super) fn open(&self, key: &str) -> Result<Arc<dyn FsFile>> {
        self.fs.open(&self.path(key), OpenMode::Read).map_err(|e| self.error("opening", key, e))
    }

    /// Makes a file durable that was written by who knows whom, with its name and that of its folder, and has reads of it
    /// see what the disk has.
    pub(super) fn settle(&self, key: &str) -> Result<()> {
        let file = self.open(key)?;
        let synced = file.sync_data().and_then(|()| file.drop_cache());
        synced.map_err(|e| self.error("syncing", key, e))?;
        let folder = parent(key);
        self.sync_dir(folder)?;
        self.sync_dir(parent(folder))
    }

    /// Opens an object for writing.
    pub(super) fn open_to_write(&self, key: &str) -> Result<Arc<dyn FsFile>> {
        self.fs.open(&self.path(key), OpenMode::ReadWrite).map_err(|e| self.error("opening", key, e))
    }

    /// Makes a new object, for writing.
    pub(super) fn create(&self, key: &str) -> Result<Arc<dyn FsFile>> {
        self.fs.open(&self.path(key), OpenMode::CreateNew).map_err(|e| self.error("making", key, e))
    }

    /// Replaces an object, atomically and durably.
    pub(super) fn replace(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let replaced = fs::replace(self.fs(), &self.path(key), bytes);
        self.synced(parent(key), replaced.is_ok());
        replaced.map_err(|e| self.error("writing", key, e))
    }

    /// Writes a new object in pieces and makes it durable with its name. Nothing stays after an error.
    pub(super) fn write_new(
        &self,
        key: &str,
        write: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        let file = self.create(key)?;
        let mut at = 0;
        let mut append = |bytes: &[u8]| {
            file.write_all_at(bytes, at).map_err(|e| self.error("writing", key, e))?;
            at += bytes.len() as u64;
            Ok(())
        };
        let written = write(&mut append)
            .and_then(|()| file.sync_data().map_err(|e| self.error("syncing", key, e)))
            .and_then(|()| self.sync_dir(parent(key)));
        if written.is_err() {
            self.remove_quietly(key);
        }
        written
    }

    /// Removes what nothing refers to; if that fails it stays as an orphan, for a collection to find.
    pub(super) fn remove_quietly(&self, key: &str) {
        if let Err(error) = self.fs.remove_file(&self.path(key)) {
            tracing::warn!(key, %error, "an unused file stays behind");
        }
    }

    /// Removes an object durably; `false` if it was not there.
    pub(super) fn remove(&self, key: &str) -> Result<bool> {
        match self.fs.remove_file(&self.path(key)) {
            Ok(()) => self.sync_dir(parent(key)).map(|()| true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.error("removing", key, e)),
        }
    }

    /// Makes a folder unless it is there.
    pub(super) fn make_dir(&self, key: &str) -> Result<()> {
        match self.fs.create_dir(&self.path(key)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(self.error("making", key, e)),
            _ => Ok(()),
        }
    }

    pub(super) fn sync_dir(&self, key: &str) -> Result<()> {
        let done = self.fs.sync_dir(&self.path(key));
        self.synced(key, done.is_ok());
        done.map_err(|e| self.error("syncing", key, e))
    }

    /// Remembers how the sync of a folder ended. Unlike bytes, names are what its next sync is about, too.
    fn synced(&self, folder: &str, done: bool) {
        let mut in_doubt = self.in_doubt.lock();
        match done {
            true => in_doubt.remove(folder),
            false => in_doubt.insert(folder.to_owned()),
        };
    }

    /// Names in a folder, as far as they are text; empty if there is no such folder.
    pub(super) fn list(&self, key: &str) -> Result<Vec<String>> {
        match self.fs.read_dir(&self.path(key)) {
            Ok(names) => Ok(names.into_iter().filter_map(|name| name.to_str().map(str::to_owned)).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.error("listing", key, e)),
        }
    }

    /// Takes the lock of a pack, whose file it makes if it is not there: who holds it is writing the pack. `Conflict` at
    /// once if somebody else does.
    pub(super) fn lock_pack(&self, key: &str) -> Result<Box<dyn FsLock>> {
        self.fs.lock(&self.path(key), false).map_err(|e| self.error("locking", key, e))
    }

    /// Takes the store's lock, waiting for whoever holds it. Held for a compare-and-swap, never longer.
    pub(super) fn lock(&self) -> Result<Box<dyn FsLock>> {
        self.fs.lock(&self.path(LOCK_KEY), true).map_err(|e| self.error("locking", LOCK_KEY, e))
    }
}

fn parent(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}
