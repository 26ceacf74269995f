//! Making a new index out of an old one and changes in disk order.

use std::{collections::HashSet, mem};

use bytes::Bytes;

use super::{Index, Target, leaf};
use crate::{
    BlockRange, ChunkId, ChunkKind, Error, NodeId, Result,
    format::node::{Children, FANOUT, LEAF_BLOCKS, Node, level_for},
    types::{blocks_for, node_id},
};

/// New nodes are kept back up to this many bytes, so that they lie together in the store.
const NODE_BATCH: usize = 16 * 1024 * 1024;

/// What a run of blocks holds from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The run, not empty.
    pub range: BlockRange,
    /// Where it lies; `None` is zeros. A run in a chunk stays within it.
    pub target: Option<Target>,
}

/// What [`IndexWriter::finish`] made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Root of the new index.
    pub root: Option<NodeId>,
    /// The nodes that differ from the old index, children before parents.
    pub nodes: Vec<NodeId>,
    /// Chunks of their leaves that the old leaf in the same place did not have, by first block in disk order.
    pub chunks: Vec<(u64, ChunkId)>,
    /// What of it the store did not have before.
    pub added: Added,
}

/// The part of a new index that was new to the store as well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// As [`Written::nodes`].
    pub nodes: Vec<NodeId>,
    /// As [`Written::chunks`], of these nodes.
    pub chunks: Vec<(u64, ChunkId)>,
    /// Bytes of these nodes.
    pub node_bytes: u64,
}

impl Written {
    /// Joins what two writers made one after the other; the root is the later one's.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        self.nodes.extend(later.nodes);
        self.chunks.extend(later.chunks);
        self.added.nodes.extend(later.added.nodes);
        self.added.chunks.extend(later.added.chunks);
        self.added.node_bytes += later.added.node_bytes;
        Self { root: later.root, ..self }
    }
}

/// Writes an index, from the first changed block to the last. Memory is bounded by one path of the tree
/// and [`NODE_BATCH`]; nodes go to the store of the old index, children before parents.
#[derive(Debug)]
pub struct IndexWriter {
    old: Index,
    /// Level of the new root.
    level: u8,
    blocks: u64,
    /// Changes of the leaf that is being collected.
    leaf: u64,
    changes: Vec<Change>,
    /// The open inner node of each level from 1 up to the root's.
    path: Vec<Option<OpenNode>>,
    root: Option<NodeId>,
    batch: Vec<(ChunkId, Bytes)>,
    batch_bytes: usize,
    /// Chunks new to the leaves of the batch, and for each leaf where its own end.
    batch_chunks: Vec<(u64, ChunkId)>,
    batch_leaves: Vec<(ChunkId, usize)>,
    written: Written,
    /// Everything before this block is done.
    position: u64,
}

#[derive(Debug)]
struct OpenNode {
    number: u64,
    old: Option<NodeId>,
    children: Children,
}

impl IndexWriter {
    /// A writer of an index for a disk of `size` bytes that begins as `old`. A size below the old one is
    /// `Invalid`.
    pub async fn new(old: Index, size: u64) -> Result<Self> {
        let blocks = blocks_for(size);
        if blocks < old.blocks() {
            return Err(Error::invalid(format!(
                "a disk of {} blocks can't shrink to {blocks}",
                old.blocks()
            )));
        }
        let level = level_for(blocks);
        let mut writer = Self {
            level,
            blocks,
            leaf: 0,
            changes: Vec::new(),
            path: (0..level).map(|_| None).collect(),
            root: old.root(),
            batch: Vec::new(),
            batch_bytes: 0,
            batch_chunks: Vec::new(),
            batch_leaves: Vec::new(),
            written: Written::default(),
            position: 0,
            old,
        };
        writer.raise().await?;
        writer.old = Index::new(writer.old.nodes().clone(), writer.root, size);
        Ok(writer)
    }

    /// Puts parents above the old root until it has the new level, so that the disk can be larger.
    async fn raise(&mut self) -> Result<()> {
        let Some(mut root) = self.old.root() else { return Ok(()) };
        for level in self.old.level() + 1..=self.level {
            let mut children = Children::default();
            children.set(0, Some(root));
            root = self.emit(Node::Inner { level, children }).await?;
        }
        // The raised path is read back below, so it has to be in the store.
        self.put_batch().await?;
        self.root = Some(root);
        Ok(())
    }

    /// Applies a change. Changes come in disk order and apart; one before the last one, or beyond the
    /// disk, is `Invalid`.
    pub async fn push(&mut self, change: Change) -> Result<()> {
        let Change { mut range, target } = change;
        if range.is_empty() || range.start < self.position || range.end > self.blocks {
            return Err(Error::invalid(format!(
                "index change {range:?} at {} of {}",
                self.position, self.blocks
            )));
        }
        self.position = range.end;
        let first = range.start;
        while !range.is_empty() {
            let number = range.start / LEAF_BLOCKS;
            if number != self.leaf {
                self.close_leaf().await?;
                self.leaf = number;
            }
            if target.is_none() && self.skip_hole(&mut range).await? {
                continue;
            }
            let part = range.intersect(&BlockRange::new(range.start, (number + 1) * LEAF_BLOCKS));
            let target =
                target.map(|target| Target { first: target.first + (part.start - first) as u8, ..target });
            self.changes.push(Change { range: part, target });
            range.start = part.end;
        }
        Ok(())
    }

    /// Passes over zeros where the old disk is zero already, so that zeroing a large sparse disk touches
    /// only what it holds. False if the first block holds something.
    async fn skip_hole(&mut self, range: &mut BlockRange) -> Result<bool> {
        let old = self.old.find(*range).await?;
        if old.target.is_none() {
            range.start = old.range.end;
        }
        Ok(old.target.is_none())
    }

    /// Writes what is left and returns the new root. The nodes are put, not synced.
    pub async fn finish(mut self) -> Result<Written> {
        self.close_leaf().await?;
        for level in 1..=self.level {
            self.close_inner(level).await?;
        }
        self.put_batch().await?;
        Ok(Written { root: self.root, ..self.written })
    }

    async fn close_leaf(&mut self) -> Result<()> {
        let changes = mem::take(&mut self.changes);
        if changes.is_empty() {
            return Ok(());
        }
        let old = self.old.node_at(0, self.leaf).await?;
        let extents = match old.as_deref() {
            Some(Node::Leaf(extents)) => extents.as_slice(),
            _ => &[],
        };
        let new = leaf::apply(extents, self.leaf, &changes);
        if new == extents {
            return Ok(());
        }
        if new.is_empty() {
            return self.set_child(0, self.leaf, None).await;
        }
        let known = |chunk: &ChunkId| extents.iter().any(|extent| extent.chunk == *chunk);
        for extent in new.iter().filter(|extent| !known(&extent.chunk)) {
            self.batch_chunks.push((self.leaf * LEAF_BLOCKS + u64::from(extent.first), extent.chunk));
        }
        let id = self.emit(Node::Leaf(new)).await?;
        self.set_child(0, self.leaf, Some(id)).await
    }

    /// Sets a node of a level in its parent, which is opened if need be.
    async fn set_child(&mut self, level: u8, number: u64, id: Option<NodeId>) -> Result<()> {
        let (mut level, mut number, mut id) = (level, number, id);
        loop {
            if level == self.level {
                self.root = id;
                return Ok(());
            }
            let parent = number / FANOUT;
            let slot = usize::from(level);
            // A parent still open elsewhere is closed first; that sets a child one level up.
            let closed = self.path[slot].take_if(|open| open.number != parent);
            let open = match self.path[slot].take() {
                Some(open) => open,
                None => self.open_inner(level + 1, parent).await?,
            };
            let open = self.path[slot].insert(open);
            open.children.set((number % FANOUT) as u8, id);
            match closed {
                None => return Ok(()),
                Some(node) => {
                    let above = node.number;
                    id = self.encode_inner(level + 1, node).await?;
                    (level, number) = (level + 1, above);
                }
            }
        }
    }

    async fn open_inner(&self, level: u8, number: u64) -> Result<OpenNode> {
        let old = self.old.node_at(level, number).await?;
        Ok(match old.as_deref() {
            Some(Node::Inner { children, .. }) => {
                let old = node_id(&Node::Inner { level, children: children.clone() }.encode());
                OpenNode { number, old: Some(old), children: children.clone() }
            }
            _ => OpenNode { number, old: None, children: Children::default() },
        })
    }

    async fn close_inner(&mut self, level: u8) -> Result<()> {
        let Some(open) = self.path[usize::from(level - 1)].take() else { return Ok(()) };
        let number = open.number;
        let id = self.encode_inner(level, open).await?;
        self.set_child(level, number, id).await
    }

    async fn encode_inner(&mut self, level: u8, open: OpenNode) -> Result<Option<NodeId>> {
        if open.children.is_empty() {
            return Ok(None);
        }
        let node = Node::Inner { level, children: open.children };
        if let Some(old) = open.old
            && node_id(&node.encode()) == old
        {
            return Ok(Some(old));
        }
        Ok(Some(self.emit(node).await?))
    }

    async fn emit(&mut self, node: Node) -> Result<NodeId> {
        let bytes = Bytes::from(node.encode());
        let id = node_id(&bytes);
        if node.level() == 0 {
            self.batch_leaves.push((id.as_chunk(), self.batch_chunks.len()));
        }
        self.old.nodes().insert(id, node);
        self.written.nodes.push(id);
        self.batch_bytes += bytes.len();
        self.batch.push((id.as_chunk(), bytes));
        if self.batch_bytes >= NODE_BATCH {
            self.put_batch().await?;
        }
        Ok(id)
    }

    async fn put_batch(&mut self) -> Result<()> {
        self.batch_bytes = 0;
        let batch = mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        let store = self.old.nodes().store();
        let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        let present = store.contains(ChunkKind::Node, &ids).await?;
        let mut added = HashSet::new();
        for ((id, bytes), present) in batch.iter().zip(present) {
            if !present && added.insert(*id) {
                self.written.added.node_bytes += bytes.len() as u64;
            }
        }
        store.put(ChunkKind::Node, batch).await?;

        self.written
            .added
            .nodes
            .extend(ids.iter().filter(|id| added.contains(id)).map(|id| NodeId::from(*id)));
        let chunks = mem::take(&mut self.batch_chunks);
        let mut start = 0;
        for (leaf, end) in mem::take(&mut self.batch_leaves) {
            if added.contains(&leaf) {
                self.written.added.chunks.extend_from_slice(&chunks[start..end]);
            }
            start = end;
        }
        self.written.chunks.extend(chunks);
        Ok(())
    }
}
