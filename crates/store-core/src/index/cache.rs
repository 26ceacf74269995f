//! Decoded nodes in memory, bounded in bytes, shared by every disk that reads through one store.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;

use crate::{
    ChunkKind, ChunkStore, Error, NodeId, Result, format::node::Node, store::get_one, sync::Mutex,
    types::node_id,
};

const SHARDS: usize = 16;

/// Loads, verifies and keeps nodes.
#[derive(Debug)]
pub struct NodeCache {
    store: Arc<dyn ChunkStore>,
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    shard_budget: usize,
}

#[derive(Debug)]
struct Shard {
    nodes: LruCache<NodeId, Arc<Node>>,
    weight: usize,
}

impl NodeCache {
    /// Nodes of `store`, keeping about `budget` bytes of them.
    pub fn new(store: Arc<dyn ChunkStore>, budget: usize) -> Self {
        let shard = || Mutex::new(Shard { nodes: LruCache::unbounded(), weight: 0 });
        Self { store, shards: Arc::new(std::array::from_fn(|_| shard())), shard_budget: budget / SHARDS }
    }

    /// Nodes of another store through the same memory: a node is the same wherever it comes from. Whoever reads
    /// through it finds what either has loaded.
    #[must_use]
    pub fn over(&self, store: Arc<dyn ChunkStore>) -> Self {
        Self { store, shards: Arc::clone(&self.shards), shard_budget: self.shard_budget }
    }

    /// The store the nodes come from.
    pub fn store(&self) -> &Arc<dyn ChunkStore> {
        &self.store
    }

    /// A node that is in memory.
    pub fn peek(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.shard(id).lock().nodes.get(id).cloned()
    }

    /// A node of a known level, loaded and verified if need be.
    ///
    /// **Errors**: `Corrupt` if it is not the node of that id or has another level, else the store's.
    pub async fn node(&self, id: &NodeId, level: u8) -> Result<Arc<Node>> {
        let node = match self.peek(id) {
            Some(node) => node,
            None => self.take_in(id, get_one(&*self.store, ChunkKind::Node, &id.as_chunk()).await)?,
        };
        check_level(id, node, level)
    }

    /// Verifies and keeps what the store answered.
    fn take_in(&self, id: &NodeId, answer: Result<Bytes>) -> Result<Arc<Node>> {
        let bytes = answer.map_err(|e| e.context(format!("index node {id} can't be read")))?;
        if node_id(&bytes) != *id {
            return Err(Error::corrupt(format!("index node {id} does not match its hash")));
        }
        let node = Node::decode(&bytes).map_err(|e| e.context(format!("index node {id}")))?;
        Ok(self.insert(*id, node))
    }

    /// Nodes of one level, in the order asked; those that are not in memory by one request.
    ///
    /// **Errors**: each as by [`node`](Self::node).
    pub async fn nodes(&self, ids: &[NodeId], level: u8) -> Vec<Result<Arc<Node>>> {
        let mut nodes: Vec<_> = ids.iter().map(|id| self.peek(id).map(Ok)).collect();
        let missing: Vec<_> =
            ids.iter().zip(&nodes).filter(|(_, node)| node.is_none()).map(|(id, _)| *id).collect();
        if !missing.is_empty() {
            let keys: Vec<_> = missing.iter().map(NodeId::as_chunk).collect();
            let mut loaded = self.store.get(ChunkKind::Node, &keys).await.into_iter();
            let empty = nodes.iter_mut().filter(|node| node.is_none());
            for (slot, id) in empty.zip(&missing) {
                let bytes = loaded
                    .next()
                    .unwrap_or_else(|| Err(Error::corrupt("the store answered less than it was asked for")));
                *slot = Some(self.take_in(id, bytes));
            }
        }
        let of_level = |(node, id): (Option<Result<Arc<Node>>>, &NodeId)| {
            let node = node.expect("what was not in memory was asked for")?;
            check_level(id, node, level)
        };
        nodes.into_iter().zip(ids).map(of_level).collect()
    }

    /// Keeps a node that is known to be right.
    pub fn insert(&self, id: NodeId, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        let mut shard = self.shard(&id).lock();
        shard.weight += node.weight();
        if let Some((_, old)) = shard.nodes.push(id, Arc::clone(&node)) {
            shard.weight -= old.weight();
        }
        while shard.weight > self.shard_budget {
            let Some((_, oldest)) = shard.nodes.pop_lru() else { break };
            shard.weight -= oldest.weight();
        }
        node
    }

    fn shard(&self, id: &NodeId) -> &Mutex<Shard> {
        &self.shards[usize::from(id.as_bytes()[0]) % SHARDS]
    }
}

fn check_level(id: &NodeId, node: Arc<Node>, level: u8) -> Result<Arc<Node>> {
    if node.level() == level {
        Ok(node)
    } else {
        Err(Error::corrupt(format!("index node {id} has level {}, not {level}", node.level())))
    }
}
