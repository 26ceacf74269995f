//! The durable overlay: a volume's writes in files, safe across a crash at any moment.
//!
//! A volume's folder:
//!
//! ```text
//! record               what the volume is and which files it has: the only commit point
//! lock                 held by the one process that has the volume open
//! layer-3.data         blocks at their own offsets, sparse
//! layer-3.4.journal    which of them are data or zero, as of the last flush
//! ```
//!
//! [`record`] is replaced as a whole and names every file that counts; any other is a remnant and goes at
//! the next open. [`layer`] holds blocks, [`journal`] their states, [`flush`] makes both durable, [`mod@repair`] salvages
//! what is whole of a damaged journal, and [`volumes`] keeps the folders of all volumes of a host.

mod flush;
mod health;
mod journal;
mod layer;
pub mod record;
mod repair;
#[cfg(test)]
mod tests;
mod volumes;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use gabion_store_core::{
    CheckpointId, Error, ErrorKind, Result,
    blocking::spawn_blocking,
    overlay::{Layer, Overlay},
    sync::{Mutex, RwLock},
    types::blocks_for,
};

use crate::fs::{Fs, FsLock, exists, folder_of, read_whole, replace};
use health::Health;
use layer::LocalLayer;
use record::{LayerFiles, MAX_LAYERS, MAX_RECORD_LEN, VolumeInfo, VolumeRecord};
pub use repair::SalvagedJournal;
pub use volumes::{FoundVolume, Volumes};

const RECORD: &str = "record";
const LOCK: &str = "lock";
/// Longest note in a lock file, in bytes.
const MAX_NOTE_LEN: u64 = 4096;

/// A volume's layers in files, and its record.
///
/// **Durability**: as [`Overlay`] says; a sync that fails poisons it until it is opened again.
/// **Concurrency**: one opener on the host, by a lock that dies with the process.
/// **Cancel safety**: the work of a future goes on when it is dropped, and holds the lock until it ends.
#[derive(Debug)]
pub struct LocalOverlay {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    lock: Box<dyn FsLock>,
    health: Arc<Health>,
    /// What the record on disk says, but for `next_number`, which may run ahead. Held through every change
    /// of the volume's files.
    record: Mutex<VolumeRecord>,
    /// Newest first.
    layers: RwLock<Vec<Arc<LocalLayer>>>,
    gate: Arc<flush::Gate>,
}

impl LocalOverlay {
    /// Makes a volume with one empty layer in `folder`, which is made if it is not there; its parent is.
    /// Durable on success; blocks. `AlreadyExists` if the folder holds a volume, in use or not, `Conflict` if
    /// someone else is making one. After another error there is no volume, only remnants that the next one
    /// removes.
    pub fn create(fs: Arc<dyn Fs>, folder: &Path, info: VolumeInfo) -> Result<Self> {
        match fs.create_dir(folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(io_error("making", folder, e)),
            _ => {}
        }
        let refuse_existing = || match exists(&*fs, &folder.join(RECORD)) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("volume '{}' exists already: choose another name or remove it", info.name),
            )),
            Err(e) => Err(io_error("looking into", folder, e)),
        };
        // Before the lock, too: whether it is in use does not matter then.
        refuse_existing()?;
        let lock = take_lock(&*fs, folder, &format!("volume '{}'", info.name))?;
        refuse_existing()?;
        lock.write_note("").map_err(|e| io_error("noting who uses", folder, e))?;
        let free = remove_remnants(&*fs, folder, &[])?;
        let blocks = blocks_for(info.size);
        let health = Arc::new(Health::new(info.name.clone()));
        let files = LayerFiles { layer: free, journal: free + 1, batches: 0 };
        let record = VolumeRecord { info, layers: vec![files], next_number: free + 2 };
        // Bounds are checked before anything is made.
        let bytes = record.encode()?;
        let layer = LocalLayer::create(&*fs, folder, files, blocks, health.clone())?;
        // The layer's names, and the folder's own, must be durable before the record says that they are.
        fs.sync_dir(folder).map_err(|e| io_error("syncing", folder, e))?;
        let parent = folder_of(folder);
        fs.sync_dir(parent).map_err(|e| io_error("syncing", parent, e))?;
        replace(&*fs, &folder.join(RECORD), &bytes).map_err(|e| {
            // It may have its name already; a volume that is said not to be there must not be.
            let _not_there = fs.remove_file(&folder.join(RECORD));
            io_error("saving the record of", folder, e)
        })?;
        Ok(Self::assemble(fs, folder, lock, health, record, vec![Arc::new(layer)]))
    }

    /// Opens the volume in `folder` and recovers what the last process left: reads every journal, drops
    /// what a crash tore off, removes remnants. Blocks; O(changes since the last compaction).
    ///
    /// `note` is left in the lock file for whoever finds the volume in use, see
    /// [`read_lock_note`](Self::read_lock_note).
    ///
    /// **Errors**: `NotFound` if there is no volume; `Conflict` if it is in use; `Corrupt`, with nothing
    /// changed, if durable bytes are damaged.
    pub fn open(fs: Arc<dyn Fs>, folder: &Path, note: Option<&str>) -> Result<Self> {
        // The name first, so that a refusal can say it.
        let name = read_record(&*fs, folder)?.info.name;
        let lock = take_lock(&*fs, folder, &format!("volume '{name}'"))?;
        let mut record = read_record(&*fs, folder)?;
        // A process that was killed, or whose sync failed, may have left the record's name in memory only. What is
        // written from now on rests on this record, and must not be found under an older one.
        fs.sync_dir(folder).map_err(|e| io_error("syncing", folder, e))?;
        let blocks = blocks_for(record.info.size);
        let health = Arc::new(Health::new(name));
        let layers = record
            .layers
            .iter()
            .map(|&files| LocalLayer::open(&*fs, folder, files, blocks, health.clone()).map(Arc::new))
            .collect::<Result<Vec<_>>>()?;
        // A name that was used by an attempt is not used again, even if the attempt came to nothing.
        record.next_number = record.next_number.max(remove_remnants(&*fs, folder, &record.layers)?);
        lock.write_note(note.unwrap_or_default()).map_err(|e| io_error("noting who uses", folder, e))?;
        Ok(Self::assemble(fs, folder, lock, health, record, layers))
    }

    /// Looks at the files of the volume in `folder`, which may be in use, and changes nothing. Blocks.
    ///
    /// **Errors**: `NotFound` if there is no volume; `Corrupt`, with the file's name, for what is damaged. Blocks'
    /// bytes have no checksum, and a damaged batch at the end of a journal can't be told from one that a crash tore.
    pub fn check(fs: &dyn Fs, folder: &Path) -> Result<()> {
        let mut last = None;
        loop {
            let record = read_record(fs, folder)?;
            let blocks = blocks_for(record.info.size);
            let check = |&files: &LayerFiles| LocalLayer::check(fs, folder, files, blocks);
            let Err(error) = record.layers.iter().try_for_each(check) else { return Ok(()) };
            // Whoever has it open may have replaced files meanwhile, or added to a journal: damage stays.
            let found = Some((record, error.report()));
            if last == found {
                return Err(error);
            }
            last = found;
        }
    }

    /// Makes a volume whose journal is damaged in its middle usable again, with what is whole of it; what that is,
    /// or with `dry_run` would be. The damaged file is kept beside. Empty if nothing is damaged that way. Blocks.
    ///
    /// **Errors**: `Conflict` if the volume is in use; `Corrupt` for damage that nothing can be salvaged from: of the
    /// record, of a journal's header, of a layer's file that was cut.
    pub fn repair(fs: &dyn Fs, folder: &Path, dry_run: bool) -> Result<Vec<SalvagedJournal>> {
        repair::repair(fs, folder, dry_run)
    }

    fn assemble(
        fs: Arc<dyn Fs>,
        folder: &Path,
        lock: Box<dyn FsLock>,
        health: Arc<Health>,
        record: VolumeRecord,
        layers: Vec<Arc<LocalLayer>>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                fs,
                folder: folder.to_path_buf(),
                lock,
                health,
                record: Mutex::new(record),
                layers: RwLock::new(layers),
                gate: Arc::default(),
            }),
        }
    }

    /// What the process that has, or last had, the volume in `folder` open left as its note: a hint, such
    /// as the path of its control socket. `None` if there is none.
    pub fn read_lock_note(fs: &dyn Fs, folder: &Path) -> Result<Option<String>> {
        match read_whole(fs, &folder.join(LOCK), MAX_NOTE_LEN) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok().filter(|note| !note.is_empty())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("reading the lock of", folder, e)),
        }
    }

    /// Replaces the note in the lock file.
    pub fn set_lock_note(&self, note: &str) -> Result<()> {
        self.inner.lock.write_note(note).map_err(|e| io_error("noting who uses", &self.inner.folder, e))
    }

    /// The volume's folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The record as it now is.
    pub fn record(&self) -> VolumeRecord {
        self.inner.record.lock().clone()
    }

    /// Changes what the volume is, durably; blocks. Its identity, name and size stay: `Invalid` otherwise
    /// ([`Overlay::grow`] changes the size). An error whose outcome is unknown poisons the volume.
    pub fn update_info(&self, change: impl FnOnce(&mut VolumeInfo)) -> Result<()> {
        let inner = &*self.inner;
        let mut record = inner.record.lock();
        let mut next = inner.next(&record);
        change(&mut next.info);
        if (next.info.id, &next.info.name, next.info.size)
            != (record.info.id, &record.info.name, record.info.size)
        {
            return Err(Error::invalid("a volume's identity, name and size are not changed by an update"));
        }
        inner.health.check()?;
        inner.save(&mut record, next)
    }

    /// Records how much each journal has, so that whatever is lost of it later is noticed; for the end of a process
    /// that has flushed. Without it, a loss at a journal's end looks like a flush that a crash tore, as far as
    /// batches are concerned that came since the record was last saved. Blocks.
    pub fn record_journals(&self) -> Result<()> {
        let inner = &*self.inner;
        let mut record = inner.record.lock();
        let next = inner.next(&record);
        if next == *record {
            return Ok(());
        }
        inner.health.check()?;
        inner.save(&mut record, next)
    }

    /// Gives up the base that is not ingested yet: the volume no longer needs its file. Blocks.
    pub fn clear_lazy_base(&self) -> Result<()> {
        self.update_info(|info| info.lazy_base = None)
    }

    /// Runs blocking work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        spawn_blocking(move || work(&inner)).await.unwrap_or_else(|e| {
            Err(Error::with_source(ErrorKind::Unavailable, "work on the volume was stopped", e))
        })
    }
}

#[async_trait]
impl Overlay for LocalOverlay {
    fn layers(&self) -> Vec<Arc<dyn Layer>> {
        self.inner.layers.read().iter().map(|layer| layer.clone() as _).collect()
    }

    async fn push_layer(&self) -> Result<Arc<dyn Layer>> {
        self.blocking(Inner::push_layer).await
    }

    async fn flush(&self) -> Result<()> {
        flush::flush(&self.inner).await
    }

    async fn rebase(&self, base: CheckpointId, count: usize) -> Result<()> {
        self.blocking(move |inner| inner.rebase(base, count)).await
    }

    async fn grow(&self, size: u64) -> Result<()> {
        self.blocking(move |inner| inner.grow(size)).await
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl Inner {
    fn push_layer(&self) -> Result<Arc<dyn Layer>> {
        self.health.check()?;
        let mut record = self.record.lock();
        if record.layers.len() >= MAX_LAYERS {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "volume '{}' has {} unfinished checkpoints, the most it can have: finish them first",
                    record.info.name,
                    MAX_LAYERS - 1
                ),
            ));
        }
        let files = LayerFiles { layer: record.next_number, journal: record.next_number + 1, batches: 0 };
        // Used up, whatever comes of it.
        record.next_number += 2;
        let mut next = self.next(&record);
        next.layers.insert(0, files);
        let blocks = blocks_for(record.info.size);
        let made = LocalLayer::create(&*self.fs, &self.folder, files, blocks, self.health.clone())
            .and_then(|layer| {
                // The names must be durable before the record leads to them.
                self.fs.sync_dir(&self.folder).map_err(|e| io_error("syncing", &self.folder, e))?;
                self.save(&mut record, next)?;
                Ok(Arc::new(layer))
            })
            .inspect_err(|_| {
                // Unless the record on disk may name them already.
                if self.health.check().is_ok() {
                    self.remove_layer(files);
                }
            })?;
        self.layers.write().insert(0, made.clone());
        Ok(made)
    }

    fn rebase(&self, base: CheckpointId, count: usize) -> Result<()> {
        self.health.check()?;
        let mut record = self.record.lock();
        let mut next = self.next(&record);
        let Some(left) = next.layers.len().checked_sub(count).filter(|&left| left > 0) else {
            return Err(Error::invalid(format!(
                "{count} of the {} layers of volume '{}' can't go: one must stay",
                next.layers.len(),
                next.info.name
            )));
        };
        let gone = next.layers.split_off(left);
        next.info.base = Some(base);
        self.save(&mut record, next)?;
        // Readers that still have one keep its file open.
        self.layers.write().truncate(left);
        gone.into_iter().for_each(|files| self.remove_layer(files));
        Ok(())
    }

    fn grow(&self, size: u64) -> Result<()> {
        self.health.check()?;
        let mut record = self.record.lock();
        if size < record.info.size {
            return Err(Error::invalid(format!(
                "volume '{}' has {} bytes and can't shrink to {size}",
                record.info.name, record.info.size
            )));
        }
        let mut next = self.next(&record);
        next.info.size = size;
        let blocks = blocks_for(size);
        // Bounds first; then the files, durably, because shorter ones than the record says count as damaged.
        next.encode()?;
        let layers = self.layers.read().clone();
        layers.iter().try_for_each(|layer| layer.grow_file(blocks))?;
        self.save(&mut record, next)?;
        layers.iter().for_each(|layer| layer.grow_states(blocks));
        Ok(())
    }

    /// The record as the next one begins: with what the journals have by now.
    fn next(&self, record: &VolumeRecord) -> VolumeRecord {
        let mut next = record.clone();
        let layers = self.layers.read();
        for files in &mut next.layers {
            if let Some(layer) = layers.iter().find(|layer| layer.number() == files.layer) {
                files.batches = layer.batches();
            }
        }
        next
    }

    /// Makes `next` the record, on disk and here. An error leaves the old one in force; if the one on disk
    /// can't be known, the volume is poisoned.
    fn save(&self, record: &mut VolumeRecord, next: VolumeRecord) -> Result<()> {
        let path = self.folder.join(RECORD);
        if let Err(e) = replace(&*self.fs, &path, &next.encode()?) {
            let error = io_error("saving", &path, e);
            // Nothing was renamed if the old one is still there; its next number may be lower.
            let kept = read_record(&*self.fs, &self.folder)
                .is_ok_and(|on_disk| on_disk.info == record.info && on_disk.layers == record.layers);
            return Err(if kept { error } else { self.health.poison(error) });
        }
        *record = next;
        Ok(())
    }

    fn remove_layer(&self, files: LayerFiles) {
        self.remove_file(&self.folder.join(files.data_name()));
        self.remove_file(&self.folder.join(files.journal_name()));
    }

    /// Removes a file that no record names. If that fails, the next open does it.
    fn remove_file(&self, path: &Path) {
        match self.fs.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a file that is no longer needed stays");
            }
            _ => {}
        }
    }
}

/// Takes the lock of a volume's folder, or says that someone else has it.
fn take_lock(fs: &dyn Fs, folder: &Path, what: &str) -> Result<Box<dyn FsLock>> {
    let path = folder.join(LOCK);
    fs.lock(&path, false).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => Error::new(
            ErrorKind::Conflict,
            format!("{what} is in use by another process, which holds {}: stop that first", path.display()),
        ),
        _ => io_error("locking", &path, e),
    })
}

/// The record of the volume in a folder, without its lock: whole, but maybe soon replaced.
fn read_record(fs: &dyn Fs, folder: &Path) -> Result<VolumeRecord> {
    let path = folder.join(RECORD);
    let bytes = read_whole(fs, &path, MAX_RECORD_LEN).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("there is no volume in {}", folder.display())),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            Error::with_source(ErrorKind::Corrupt, format!("{} is no volume's record", path.display()), e)
        }
        _ => io_error("reading", &path, e),
    })?;
    VolumeRecord::decode(&bytes).map_err(|e| e.context(path.display().to_string()))
}

/// Removes files of layers and replacements that the record does not name. The lock is held. Gives the
/// lowest number above those of all files that were there.
fn remove_remnants(fs: &dyn Fs, folder: &Path, layers: &[LayerFiles]) -> Result<u64> {
    let mut free = 1;
    for name in fs.read_dir(folder).map_err(|e| io_error("listing", folder, e))? {
        let Some(text) = name.to_str() else { continue };
        let numbers = text.strip_prefix("layer-").map(|rest| rest.split('.').map_while(|n| n.parse().ok()));
        for number in numbers.into_iter().flatten() {
            free = free.max(u64::saturating_add(number, 1));
        }
        let named = layers.iter().any(|files| files.data_name() == text || files.journal_name() == text);
        if (text.starts_with("layer-") && !named) || text == "record.tmp" {
            let path = folder.join(&name);
            tracing::info!(path = %path.display(), "removing what an interrupted step left");
            fs.remove_file(&path).map_err(|e| io_error("removing", &path, e))?;
        }
    }
    Ok(free)
}

/// An error of a file operation, with the operation and the file.
fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::io(format!("{doing} {} failed", path.display()), error)
}

/// The error of opening a file that the volume's record names.
fn missing(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => {
            Error::corrupt(format!("{} is missing, but the volume's record names it", path.display()))
        }
        _ => io_error("opening", path, error),
    }
}
