//! [`Volumes`]: all volumes of a host, each in a folder of its own.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{
    Error, ErrorKind, ImageName, Result,
    types::{VolumeId, chunk_id},
};

use super::{
    LOCK, LocalOverlay, RECORD, SalvagedJournal, io_error, read_record,
    record::{VolumeInfo, VolumeRecord},
    take_lock,
};
use crate::fs::{Fs, exists, make_folders, remove_tree};

/// The volumes of a host. A volume's folder is named by a hash of its name, since names nest and file
/// systems fold case; the name stands in the record and is checked.
#[derive(Clone, Debug)]
pub struct Volumes {
    fs: Arc<dyn Fs>,
    root: PathBuf,
}

/// A volume as [`Volumes::list`] found it.
#[derive(Debug)]
pub struct FoundVolume {
    /// Its folder.
    pub folder: PathBuf,
    /// Its record, or why it can't be read: one damaged volume hides no other.
    pub record: Result<VolumeRecord>,
}

impl Volumes {
    /// The volumes in the folder `root`, which is there.
    pub fn new(fs: Arc<dyn Fs>, root: impl Into<PathBuf>) -> Self {
        Self { fs, root: root.into() }
    }

    /// Folder of the volume of a name, whether or not there is one.
    pub fn folder(&self, name: &ImageName) -> PathBuf {
        let hash = chunk_id(name.as_str().as_bytes());
        let mut folder = [0; VolumeId::LEN];
        folder.copy_from_slice(&hash.as_bytes()[..VolumeId::LEN]);
        self.root.join(VolumeId::from_bytes(folder).to_string())
    }

    /// All volumes, in use or not, sorted by name; those whose record can't be read come last. A root that does
    /// not exist holds none. Blocks.
    pub fn list(&self) -> Result<Vec<FoundVolume>> {
        let mut found = Vec::new();
        let names = match self.fs.read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|e| io_error("listing", &self.root, e))?,
        };
        for name in names {
            let folder = self.root.join(name);
            match read_record(&*self.fs, &folder) {
                // A remnant, or something that is not ours.
                Err(e) if e.kind() == ErrorKind::NotFound || is_no_folder(&*self.fs, &folder) => {}
                record => found.push(FoundVolume { folder, record }),
            }
        }
        found.sort_by(|a, b| match (&a.record, &b.record) {
            (Ok(a), Ok(b)) => a.info.name.cmp(&b.info.name),
            (a, b) => a.is_err().cmp(&b.is_err()),
        });
        Ok(found)
    }

    /// The record of a volume, in use or not; `NotFound` if there is none of that name. Blocks.
    pub fn look_up(&self, name: &ImageName) -> Result<VolumeRecord> {
        let folder = self.folder(name);
        let record = read_record(&*self.fs, &folder).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::not_found(format!("there is no volume '{name}'")),
            _ => e,
        })?;
        if record.info.name != *name {
            return Err(Error::corrupt(format!(
                "{} should hold volume '{name}', but holds '{}': was it copied or renamed?",
                folder.display(),
                record.info.name
            )));
        }
        Ok(record)
    }

    /// Makes a volume, see [`LocalOverlay::create`]. The root is made if it does not exist, with all above it.
    pub fn create(&self, info: VolumeInfo) -> Result<LocalOverlay> {
        make_folders(&*self.fs, &self.root).map_err(|e| io_error("making", &self.root, e))?;
        LocalOverlay::create(self.fs.clone(), &self.folder(&info.name), info)
    }

    /// Opens a volume, see [`LocalOverlay::open`].
    pub fn open(&self, name: &ImageName, note: Option<&str>) -> Result<LocalOverlay> {
        self.look_up(name)?;
        LocalOverlay::open(self.fs.clone(), &self.folder(name), note).map_err(|e| match e.kind() {
            ErrorKind::Corrupt => e.context(format!("volume '{name}' is damaged")),
            _ => e,
        })
    }

    /// Looks for damage in the files of a volume that [`list`](Self::list) found, see [`LocalOverlay::check`].
    pub fn check(&self, found: &FoundVolume) -> Result<()> {
        found.record.as_ref().map_err(Clone::clone)?;
        LocalOverlay::check(&*self.fs, &found.folder)
    }

    /// Salvages what is whole of a volume's damaged journal, see [`LocalOverlay::repair`].
    pub fn repair(&self, name: &ImageName, dry_run: bool) -> Result<Vec<SalvagedJournal>> {
        self.look_up(name)?;
        LocalOverlay::repair(&*self.fs, &self.folder(name), dry_run)
    }

    /// What the process that has a volume open left as its note, see [`LocalOverlay::read_lock_note`].
    pub fn read_lock_note(&self, name: &ImageName) -> Result<Option<String>> {
        LocalOverlay::read_lock_note(&*self.fs, &self.folder(name))
    }

    /// Removes a volume and all that was written to it. `Conflict` if it is in use. Blocks.
    ///
    /// **Atomicity**: gone with its record, durably; a crash, or an error, after that leaves files that
    /// count for nothing and go when a volume of that name is made again. The folder stays, with the lock
    /// in it: a lock that is removed locks nobody out.
    pub fn remove(&self, name: &ImageName) -> Result<()> {
        self.look_up(name)?;
        let folder = self.folder(name);
        let _lock = take_lock(&*self.fs, &folder, &format!("volume '{name}'"))?;
        let record = folder.join(RECORD);
        self.fs.remove_file(&record).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("there is no volume '{name}'")),
            _ => io_error("removing", &record, e),
        })?;
        // Before any file that a revived record would name.
        self.fs.sync_dir(&folder).map_err(|e| io_error("syncing", &folder, e))?;
        for file in self.fs.read_dir(&folder).map_err(|e| io_error("listing", &folder, e))? {
            if file != Path::new(LOCK) {
                let path = folder.join(file);
                remove_tree(&*self.fs, &path).map_err(|e| io_error("removing", &path, e))?;
            }
        }
        Ok(())
    }

    /// Whether there is a volume of that name.
    pub fn contains(&self, name: &ImageName) -> Result<bool> {
        let record = self.folder(name).join(RECORD);
        exists(&*self.fs, &record).map_err(|e| io_error("looking for", &record, e))
    }
}

fn is_no_folder(fs: &dyn Fs, path: &Path) -> bool {
    fs.stat(path).is_ok_and(|stat| !stat.is_dir)
}
