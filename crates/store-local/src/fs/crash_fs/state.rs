//! What is on the disk, what is in memory, and what is on its way from one to the other.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use gabion_store_core::testing::Rng;

use super::{
    changes::{Change, Disk, Node, Pending, ROOT, SECTOR},
    point::CrashPoint,
};
use crate::fs::{Fs, FsFile, FsFileExt as _, OpenMode, sparse::Sparse};

type Observer = Box<dyn FnMut(CrashPoint) + Send>;

/// A name in a folder.
pub(super) type Place = (Node, OsString);

pub(super) struct State {
    root: PathBuf,
    /// What a power failure can't take away.
    disk: Disk,
    /// What is seen.
    memory: Disk,
    pending: Vec<Pending>,
    next_node: Node,
    next_number: u64,
    rng: Rng,
    observer: Option<Observer>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("root", &self.root)
            .field("files", &self.memory.files.len())
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl State {
    /// What is below `root`, all of it durable.
    pub(super) fn read(fs: &dyn Fs, root: &Path, seed: u64) -> io::Result<Self> {
        let mut state = Self {
            root: root.components().collect(),
            disk: Disk::new(),
            memory: Disk::new(),
            pending: Vec::new(),
            next_node: ROOT + 1,
            next_number: 0,
            rng: Rng::new(seed),
            observer: None,
        };
        state.read_folder(fs, root)?;
        for pending in std::mem::take(&mut state.pending) {
            state.disk.apply(&pending.change);
        }
        Ok(state)
    }

    fn read_folder(&mut self, fs: &dyn Fs, folder: &Path) -> io::Result<()> {
        for name in fs.read_dir(folder)? {
            let path = folder.join(name);
            let place = self.place(&path)?;
            if fs.stat(&path)?.is_dir {
                self.make_folder(place);
                self.read_folder(fs, &path)?;
            } else {
                let node = self.make_file(place);
                let file = fs.open(&path, OpenMode::Read)?;
                let mut content = vec![0; 1 << 20];
                let mut at = 0;
                loop {
                    let n = file.read_at(&mut content, at)?;
                    if n == 0 {
                        break;
                    }
                    self.write(node, at, &content[..n]);
                    at += n as u64;
                }
            }
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    pub(super) fn point(&self, after: impl Into<String>) -> CrashPoint {
        CrashPoint::new(self.root.clone(), self.disk.clone(), self.pending.clone(), after.into())
    }

    /// Tells the observer that an operation is done.
    pub(super) fn notify(&mut self, operation: impl FnOnce() -> String) {
        if let Some(mut observer) = self.observer.take() {
            observer(self.point(operation()));
            self.observer = Some(observer);
        }
    }

    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// The node of a folder.
    pub(super) fn folder(&self, path: &Path) -> io::Result<Node> {
        let below = path.strip_prefix(&self.root).map_err(|_| {
            let message = format!("{} is outside of {}", path.display(), self.root.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })?;
        let mut node = ROOT;
        for name in below.components() {
            let names = self.memory.folders.get(&node).ok_or(io::ErrorKind::NotADirectory)?;
            node = *names.get(name.as_os_str()).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    /// The place of a path whose folder is there.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        Ok((self.folder(folder)?, name.to_owned()))
    }

    /// What is at a place.
    pub(super) fn at(&self, (folder, name): &Place) -> Option<Node> {
        self.memory.folders.get(folder)?.get(name).copied()
    }

    fn add(&mut self, change: Change) {
        self.memory.apply(&change);
        self.pending.push(Pending { number: self.next_number, change, given_up: false });
        self.next_number += 1;
    }

    fn new_node(&mut self) -> Node {
        self.next_node += 1;
        self.next_node - 1
    }

    pub(super) fn make_file(&mut self, place: Place) -> Node {
        let node = self.new_node();
        // Whatever name will lead to it, an empty file is the least it is.
        self.disk.files.insert(node, Arc::default());
        self.memory.files.insert(node, Arc::default());
        self.set_name(place, Some(node));
        node
    }

    pub(super) fn make_folder(&mut self, place: Place) {
        let node = self.new_node();
        self.disk.folders.insert(node, Arc::default());
        self.memory.folders.insert(node, Arc::default());
        self.set_name(place, Some(node));
    }

    pub(super) fn set_name(&mut self, (folder, name): Place, to: Option<Node>) {
        self.add(Change::Name { folder, name, to });
    }

    pub(super) fn rename(&mut self, from: Place, to: Place) {
        if let Some(node) = self.at(&from).filter(|_| from != to) {
            self.add(Change::Rename { from, to, node });
        }
    }

    fn memory_of(&self, file: Node) -> &Sparse {
        self.memory.files.get(&file).expect("every open file has its content")
    }

    /// Records a write: of each sector that changes, and of the length.
    pub(super) fn write(&mut self, file: Node, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len() as u64;
        let first = offset / SECTOR as u64;
        let mut before = vec![0; ((end.div_ceil(SECTOR as u64) - first) * SECTOR as u64) as usize];
        self.memory_of(file).peek(&mut before, first * SECTOR as u64);
        let mut after = before.clone();
        let within = (offset - first * SECTOR as u64) as usize;
        after[within..within + bytes.len()].copy_from_slice(bytes);
        let after = Bytes::from(after);
        for (n, before) in before.chunks(SECTOR).enumerate() {
            let bytes = after.slice(n * SECTOR..(n + 1) * SECTOR);
            if *before != *bytes {
                self.add(Change::Sector { file, index: first + n as u64, bytes });
            }
        }
        if end > self.memory_of(file).len() {
            self.add(Change::Len { file, len: end });
        }
    }

    /// Records what a write left that failed.
    pub(super) fn reread(&mut self, file: Node, inner: &dyn FsFile, offset: u64, len: usize) {
        let mut bytes = vec![0; len];
        let mut there = 0;
        while let Ok(n @ 1..) = inner.read_at(&mut bytes[there..], offset + there as u64) {
            there += n;
        }
        self.write(file, offset, &bytes[..there]);
    }

    pub(super) fn set_len(&mut self, file: Node, len: u64) {
        let old = self.memory_of(file).len();
        if len < old {
            // What is cut off in the last sector is zeroed in memory, and so on its way to the disk.
            let end = len.next_multiple_of(SECTOR as u64).min(old);
            self.write(file, len, &vec![0; (end - len) as usize]);
        }
        if len != old {
            self.add(Change::Len { file, len });
        }
    }

    pub(super) fn punch(&mut self, file: Node, offset: u64, len: u64) {
        let content = self.memory_of(file);
        let end = offset.saturating_add(len).min(content.len());
        for (from, to) in content.present(offset, end) {
            self.write(file, from, &vec![0; (to - from) as usize]);
        }
    }

    /// What was changed of a node before `until` is durable.
    pub(super) fn synced(&mut self, node: Node, until: u64) {
        let mut settled = HashSet::new();
        for pending in &self.pending {
            if pending.change.synced_with() == node && pending.number < until && !pending.given_up {
                self.disk.apply(&pending.change);
                settled.extend(pending.change.subjects());
            }
        }
        // What was given up and has been written anew is no longer in doubt.
        self.pending.retain(|pending| {
            let change = &pending.change;
            let about = change.synced_with() == node && pending.number < until;
            let void = || change.subjects().iter().any(|subject| settled.contains(subject));
            !(about && (!pending.given_up || void()))
        });
    }

    /// Bytes that were written to a file before `until` may be durable or not, for ever.
    pub(super) fn sync_failed(&mut self, node: Node, until: u64) {
        for pending in &mut self.pending {
            let bytes = matches!(pending.change, Change::Sector { .. });
            pending.given_up |= bytes && pending.change.synced_with() == node && pending.number < until;
        }
    }

    /// A file's clean pages are read from the disk again: now it shows what became of those that were given up.
    pub(super) fn show_given_up(&mut self, file: Node, inner: &dyn FsFile) -> io::Result<()> {
        let mut latest: BTreeMap<u64, bool> = BTreeMap::new();
        for pending in &self.pending {
            if let Change::Sector { file: of, index, .. } = pending.change
                && of == file
            {
                latest.insert(index, pending.given_up);
            }
        }
        // A sector that was written since is not clean.
        let clean: HashSet<u64> =
            latest.iter().filter(|(_, clean)| **clean).map(|(index, _)| *index).collect();
        let pending = std::mem::take(&mut self.pending);
        for pending in pending {
            match &pending.change {
                Change::Sector { file: of, index, .. } if *of == file && clean.contains(index) => {
                    if self.rng.below(2) == 0 {
                        self.disk.apply(&pending.change);
                    }
                }
                _ => self.pending.push(pending),
            }
        }
        for index in clean {
            let offset = index * SECTOR as u64;
            let content = Arc::make_mut(self.memory.files.get_mut(&file).expect("it is open"));
            let left = content.len().saturating_sub(offset).min(SECTOR as u64) as usize;
            let mut bytes = vec![0; left];
            self.disk.files[&file].peek(&mut bytes, offset);
            content.write(&bytes, offset, || true);
            inner.write_all_at(&bytes, offset)?;
        }
        Ok(())
    }
}
