//! Everything an index reaches, each subtree once.

use std::{collections::HashSet, sync::Arc};

use super::NodeCache;
use crate::{
    ChunkId, NodeId,
    format::node::{Extent, Node},
};

/// Something an index reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// A node, before what it reaches.
    Node(NodeId),
    /// A data chunk, and the number of blocks of it that its index needs at least.
    Chunk(ChunkId, usize),
}

/// Visits the node `root` of `level` and all below it, depth first, but no node that is in `seen`
/// already; adds what it visits. A node that can't be loaded is passed to `failed` with the error, and
/// the walk goes on beside it.
pub async fn walk_nodes(
    nodes: &Arc<NodeCache>,
    root: NodeId,
    level: u8,
    seen: &mut HashSet<NodeId>,
    mut visit: impl FnMut(Reached),
    mut failed: impl FnMut(NodeId, crate::Error),
) {
    let mut work = vec![(root, level)];
    while let Some((id, level)) = work.pop() {
        if !seen.insert(id) {
            continue;
        }
        let node = match nodes.node(&id, level).await {
            Ok(node) => node,
            Err(error) => {
                failed(id, error);
                continue;
            }
        };
        visit(Reached::Node(id));
        match &*node {
            Node::Inner { children, .. } => work.extend(children.iter().map(|(_, child)| (child, level - 1))),
            Node::Leaf(extents) => extents.iter().for_each(|extent| visit(reached(extent))),
        }
    }
}

fn reached(extent: &Extent) -> Reached {
    Reached::Chunk(extent.chunk, usize::from(extent.chunk_first) + usize::from(extent.blocks))
}
