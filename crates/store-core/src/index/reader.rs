//! Looking up blocks.

use std::sync::Arc;

use super::NodeCache;
use crate::{
    BlockRange, ChunkId, Error, NodeId, Result,
    format::node::{LEAF_BLOCKS, Node, level_for, span},
    types::blocks_for,
};

/// Most nodes of a level that [`Index::load`] loads: leaves of 8 GiB of disk, some 10 MB at 4 chunks for 64 KiB.
const LOAD_MAX: usize = 4096;

/// The index of one disk. Cheap to clone; opening reads nothing.
#[derive(Clone, Debug)]
pub struct Index {
    nodes: Arc<NodeCache>,
    root: Option<NodeId>,
    level: u8,
    blocks: u64,
}

/// What a run of blocks holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The run.
    pub range: BlockRange,
    /// Where it lies; `None` is zeros.
    pub target: Option<Target>,
}

/// Blocks in a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The chunk.
    pub chunk: ChunkId,
    /// Block of the chunk that is the first of the run.
    pub first: u8,
}

/// A node that has to be loaded before a lookup can go on.
struct Missing {
    id: NodeId,
    level: u8,
}

impl Index {
    /// The index with this root of a disk of `size` bytes.
    pub fn new(nodes: Arc<NodeCache>, root: Option<NodeId>, size: u64) -> Self {
        let blocks = blocks_for(size);
        Self { nodes, root, level: level_for(blocks), blocks }
    }

    /// The root; `None` if the disk is all zero.
    pub fn root(&self) -> Option<NodeId> {
        self.root
    }

    /// Level of the root.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Number of blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Where nodes come from.
    pub fn nodes(&self) -> &Arc<NodeCache> {
        &self.nodes
    }

    /// What the first blocks of `range` (not empty, within the disk) hold, as far as one extent or one
    /// hole of a leaf goes; `None` if a node would have to be loaded.
    pub fn try_find(&self, range: BlockRange) -> Option<Mapping> {
        self.descend(range, |id, _| self.nodes.peek(id)).ok().and_then(Result::ok)
    }

    /// As [`try_find`](Self::try_find), loading what is needed.
    pub async fn find(&self, range: BlockRange) -> Result<Mapping> {
        // Held here, so that a cache too small for a path can't make this load it again and again.
        let mut path: Vec<(NodeId, Arc<Node>)> = Vec::new();
        loop {
            let held =
                |id: &NodeId, _| path.iter().find(|(held, _)| held == id).map(|(_, node)| Arc::clone(node));
            match self.descend(range, |id, level| held(id, level).or_else(|| self.nodes.peek(id))) {
                Ok(mapping) => return mapping,
                Err(Missing { id, level }) => path.push((id, self.nodes.node(&id, level).await?)),
            }
        }
    }

    /// Loads the nodes that say what `ranges` hold, level by level with one request each, as far as they are not in
    /// memory; at most 4096 of a level. What finds no room in memory is loaded again by
    /// [`find`](Self::find).
    pub async fn load(&self, ranges: &[BlockRange]) -> Result<()> {
        let Some(root) = self.root else { return Ok(()) };
        let mut ranges: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).copied().collect();
        ranges.sort_unstable_by_key(|range| range.start);
        // Ends that only grow let the first range that may reach a node be found by search.
        let mut furthest = 0;
        for range in &mut ranges {
            furthest = furthest.max(range.end);
            range.end = furthest;
        }
        let wanted = |start: u64, width: u64| {
            let first = ranges.partition_point(|range| range.end <= start);
            ranges.get(first).is_some_and(|range| range.start < start.saturating_add(width))
        };
        let mut nodes = vec![(root, 0)];
        let mut level = self.level;
        loop {
            let ids: Vec<_> = nodes.iter().map(|(id, _)| *id).collect();
            let loaded = self.nodes.nodes(&ids, level).await;
            let Some(below) = level.checked_sub(1) else {
                return loaded.into_iter().try_for_each(|node| node.map(drop));
            };
            let (width, mut children) = (span(below), Vec::new());
            for (node, (_, start)) in loaded.into_iter().zip(nodes) {
                let Node::Inner { children: present, .. } = &*node? else { continue };
                for (position, child) in present.iter() {
                    let start: u64 = start + u64::from(position) * width;
                    if children.len() < LOAD_MAX && wanted(start, width) {
                        children.push((child, start));
                    }
                }
            }
            (nodes, level) = (children, below);
        }
    }

    /// A node by its level and number in disk order, for writers; `None` where the disk is all zero.
    pub(super) async fn node_at(&self, level: u8, number: u64) -> Result<Option<Arc<Node>>> {
        let Some(mut id) = self.root else { return Ok(None) };
        if level > self.level || number.checked_shr(8 * u32::from(self.level - level)) != Some(0) {
            return Ok(None);
        }
        let mut at = self.level;
        loop {
            let node = self.nodes.node(&id, at).await?;
            if at == level {
                return Ok(Some(node));
            }
            at -= 1;
            let Node::Inner { children, .. } = &*node else { return Ok(None) };
            // Number of the wanted node's ancestor at the level below this one.
            match children.get((number >> (8 * u32::from(at - level))) as u8) {
                Some(child) => id = child,
                None => return Ok(None),
            }
        }
    }

    fn descend(
        &self,
        range: BlockRange,
        node: impl Fn(&NodeId, u8) -> Option<Arc<Node>>,
    ) -> Result<Result<Mapping>, Missing> {
        debug_assert!(!range.is_empty() && range.end <= self.blocks, "{range:?} of {}", self.blocks);
        let hole =
            |end: u64| Mapping { range: range.intersect(&BlockRange::new(range.start, end)), target: None };
        let Some(mut id) = self.root else { return Ok(Ok(hole(range.end))) };
        let mut level = self.level;
        loop {
            let Some(found) = node(&id, level) else { return Err(Missing { id, level }) };
            if found.level() != level {
                let wrong = format!("index node {id} has level {}, not {level}", found.level());
                return Ok(Err(Error::corrupt(wrong)));
            }
            match &*found {
                Node::Leaf(extents) => return Ok(Ok(find_in_leaf(extents, range))),
                Node::Inner { children, .. } => {
                    level -= 1;
                    let width = span(level);
                    let position = (range.start / width) as u8;
                    match children.get(position) {
                        Some(child) => id = child,
                        None => {
                            let parent = range.start - range.start % span(level + 1);
                            let next = children.next_present(position).map_or(256, u64::from);
                            return Ok(Ok(hole(parent.saturating_add(next.saturating_mul(width)))));
                        }
                    }
                }
            }
        }
    }
}

fn find_in_leaf(extents: &[crate::format::node::Extent], range: BlockRange) -> Mapping {
    let leaf = range.start - range.start % LEAF_BLOCKS;
    let at = (range.start - leaf) as u16;
    let next = extents.partition_point(|extent| extent.end() <= at);
    let (end, target) = match extents.get(next) {
        Some(extent) if extent.first <= at => {
            let first = extent.chunk_first + (at - extent.first) as u8;
            (extent.end(), Some(Target { chunk: extent.chunk, first }))
        }
        Some(extent) => (extent.first, None),
        None => (LEAF_BLOCKS as u16, None),
    };
    Mapping { range: range.intersect(&BlockRange::new(range.start, leaf + u64::from(end))), target }
}
