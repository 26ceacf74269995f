//! Which of the entries that were found in packs may count as present.
//!
//! Whoever finds a node in a store takes it that all below it is there, too. A pack whose locator is lost may be one
//! that was never finished with, behind another that is gone: so its nodes count only if that holds. Nodes that an
//! image reaches count in any case: without them more would be lost than is.

use std::collections::{HashMap, HashSet};

use gabion_store_core::{
    ChunkKind,
    format::{checkpoint::Checkpoint, node::Node, rows::EntryKey},
};

/// What each node and checkpoint refers to.
#[derive(Debug, Default)]
pub(super) struct References(HashMap<EntryKey, Vec<EntryKey>>);

impl References {
    /// Notes what an entry refers to, if it is of a kind that does.
    pub(super) fn add(&mut self, key: EntryKey, bytes: &[u8]) {
        let below: Vec<EntryKey> = match key.kind {
            ChunkKind::Data => return,
            ChunkKind::Checkpoint => match Checkpoint::decode(bytes) {
                Ok(checkpoint) => checkpoint.root.iter().map(|root| node(root.as_chunk())).collect(),
                Err(_) => return,
            },
            ChunkKind::Node => match Node::decode(bytes) {
                Ok(Node::Inner { children, .. }) => {
                    children.iter().map(|(_, child)| node(child.as_chunk())).collect()
                }
                Ok(Node::Leaf(extents)) => {
                    let chunks = extents.iter().map(|extent| EntryKey::new(ChunkKind::Data, extent.chunk));
                    chunks.collect()
                }
                Err(_) => return,
            },
        };
        self.0.insert(key, below);
    }

    /// Nodes and checkpoints below which something is missing, and which no root needs.
    pub(super) fn loose(&self, present: &HashSet<EntryKey>, roots: &[EntryKey]) -> HashSet<EntryKey> {
        let mut whole: HashMap<EntryKey, bool> = HashMap::new();
        for key in self.0.keys() {
            self.is_whole(*key, present, &mut whole);
        }
        let mut needed: HashSet<EntryKey> = HashSet::new();
        let mut work = roots.to_vec();
        while let Some(key) = work.pop() {
            if needed.insert(key) {
                work.extend(self.0.get(&key).into_iter().flatten());
            }
        }
        self.0.keys().filter(|key| !whole[key] && !needed.contains(key)).copied().collect()
    }

    /// As deep as an index is, which its levels bound.
    fn is_whole(
        &self,
        key: EntryKey,
        present: &HashSet<EntryKey>,
        known: &mut HashMap<EntryKey, bool>,
    ) -> bool {
        if let Some(known) = known.get(&key) {
            return *known;
        }
        let below = self.0.get(&key).map_or(&[][..], Vec::as_slice);
        let is_known = key.kind == ChunkKind::Data || self.0.contains_key(&key);
        let whole =
            present.contains(&key) && is_known && below.iter().all(|key| self.is_whole(*key, present, known));
        known.insert(key, whole);
        whole
    }
}

fn node(id: gabion_store_core::ChunkId) -> EntryKey {
    EntryKey::new(ChunkKind::Node, id)
}

#[cfg(test)]
mod tests {
    use gabion_store_core::{ChunkId, NodeId, format::node::Extent, types::id_of};

    use super::*;

    #[test]
    fn what_lacks_something_counts_only_if_a_root_needs_it() {
        let mut references = References::default();
        let mut leaf = |n: u8| {
            let chunk = ChunkId::from_bytes([n; 32]);
            let bytes = Node::Leaf(vec![Extent { first: 0, blocks: 1, chunk, chunk_first: 0 }]).encode();
            let key = node(id_of(ChunkKind::Node, &bytes));
            references.add(key, &bytes);
            (key, EntryKey::new(ChunkKind::Data, chunk))
        };
        let ((whole, chunk), (loose, _), (needed, _)) = (leaf(1), leaf(2), leaf(3));
        let checkpoint = |leaf: EntryKey| {
            let root = NodeId::from_bytes(*leaf.id.as_bytes());
            let made = Checkpoint::new(4096, Some(root), gabion_store_core::clock::Timestamp(1)).unwrap();
            let (id, bytes) = made.encode().unwrap();
            (EntryKey::new(ChunkKind::Checkpoint, id.as_chunk()), bytes)
        };
        let (above, bytes) = checkpoint(loose);
        references.add(above, &bytes);
        let (root, bytes) = checkpoint(needed);
        references.add(root, &bytes);
        let present = HashSet::from([whole, chunk, loose, needed, above, root]);
        assert_eq!(references.loose(&present, &[root]), HashSet::from([loose, above]));
    }
}
