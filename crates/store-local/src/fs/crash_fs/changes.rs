//! What a disk has, and what was changed since without being made durable.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use crate::fs::sparse::Sparse;

/// Bytes that a disk writes whole.
pub(super) const SECTOR: usize = 512;

/// A file or folder, whatever its names are. Never used again.
pub(super) type Node = u64;

/// The node of the root.
pub(super) const ROOT: Node = 0;

/// Files and folders of which every change has arrived.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) files: BTreeMap<Node, Arc<Sparse>>,
    pub(super) folders: BTreeMap<Node, Arc<BTreeMap<OsString, Node>>>,
}

/// One thing that arrives on the disk as a whole, or not at all.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A sector has these bytes.
    Sector { file: Node, index: u64, bytes: Bytes },
    /// A file has this length.
    Len { file: Node, len: u64 },
    /// A name leads to a node, or nowhere.
    Name { folder: Node, name: OsString, to: Option<Node> },
    /// A name is replaced by another, in one step.
    Rename { from: (Node, OsString), to: (Node, OsString), node: Node },
}

/// A change that is not durable.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) change: Change,
    /// Of bytes whose sync failed: they may have arrived or not, and no later sync is about them.
    pub(super) given_up: bool,
}

/// What a change is about: a later one about the same makes it void.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Sector(Node, u64),
    Len(Node),
    Name(Node, OsString),
}

impl Change {
    /// The node whose sync makes it durable.
    pub(super) fn synced_with(&self) -> Node {
        match self {
            Self::Sector { file, .. } | Self::Len { file, .. } => *file,
            Self::Name { folder, .. } => *folder,
            Self::Rename { to, .. } => to.0,
        }
    }

    pub(super) fn subjects(&self) -> Vec<Subject> {
        match self {
            Self::Sector { file, index, .. } => vec![Subject::Sector(*file, *index)],
            Self::Len { file, .. } => vec![Subject::Len(*file)],
            Self::Name { folder, name, .. } => vec![Subject::Name(*folder, name.clone())],
            Self::Rename { from, to, .. } => {
                vec![Subject::Name(from.0, from.1.clone()), Subject::Name(to.0, to.1.clone())]
            }
        }
    }
}

impl Disk {
    /// Nothing but a root.
    pub(super) fn new() -> Self {
        Self { files: BTreeMap::new(), folders: BTreeMap::from([(ROOT, Arc::default())]) }
    }

    /// Lets a change arrive.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Sector { file, index, bytes } => {
                let file = Arc::make_mut(self.files.entry(*file).or_default());
                let len = file.len();
                file.write(bytes, index * SECTOR as u64, || true);
                // The length is a change of its own; until it arrives the sector is behind the end, and there.
                file.keep_len(len);
            }
            Change::Len { file, len } => {
                let file = Arc::make_mut(self.files.entry(*file).or_default());
                if *len < file.len() {
                    file.set_len(*len);
                } else {
                    file.keep_len(*len);
                }
            }
            Change::Name { folder, name, to } => {
                let names = Arc::make_mut(self.folders.entry(*folder).or_default());
                match to {
                    Some(node) => names.insert(name.clone(), *node),
                    None => names.remove(name),
                };
            }
            Change::Rename { from, to, node } => {
                let names = Arc::make_mut(self.folders.entry(from.0).or_default());
                if names.get(&from.1) == Some(node) {
                    names.remove(&from.1);
                }
                let names = Arc::make_mut(self.folders.entry(to.0).or_default());
                names.insert(to.1.clone(), *node);
            }
        }
    }

    /// Lets some of these changes arrive, in their order.
    pub(super) fn apply_chosen(&mut self, pending: &[Pending], chosen: &[bool]) {
        // A file's lengths arrive in order, as changes of one inode do.
        let mut lens = HashSet::new();
        let mut arrives = chosen.to_vec();
        for (at, pending) in pending.iter().enumerate().rev() {
            if let Change::Len { file, .. } = pending.change {
                arrives[at] |= lens.contains(&file);
                if arrives[at] {
                    lens.insert(file);
                }
            }
        }
        for (pending, arrives) in pending.iter().zip(arrives) {
            if arrives {
                self.apply(&pending.change);
            }
        }
    }

    /// All that names lead to: folders from the top down, and files.
    pub(super) fn walk(&self, root: &Path) -> (Vec<PathBuf>, Vec<(PathBuf, Arc<Sparse>)>) {
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        let mut open = vec![(root.to_path_buf(), ROOT)];
        while let Some((path, node)) = open.pop() {
            for (name, node) in self.folders.get(&node).iter().flat_map(|names| names.iter()) {
                let path = path.join(name);
                match self.files.get(node) {
                    Some(content) => {
                        let mut content = content.clone();
                        if content.reaches_beyond_end() {
                            // Nobody finds them there: growing shows zeros.
                            Arc::make_mut(&mut content).clear_beyond_end();
                        }
                        files.push((path, content));
                    }
                    None => open.push((path, *node)),
                }
            }
            folders.push(path);
        }
        (folders, files)
    }
}
