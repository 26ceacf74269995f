//! Decoded nodes in memory, bounded in bytes, shared by every disk that reads through one store.

use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    ChunkKind, ChunkStore, Error, NodeId, Result, format::node::Node, store::get_one, types::node_id,
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
            None => self.load(id).await?,
        };
        if node.level() == level {
            Ok(node)
        } else {
            Err(Error::corrupt(format!("index node {id} has level {}, not {level}", node.level())))
        }
    }

    async fn load(&self, id: &NodeId) -> Result<Arc<Node>> {
        let bytes = get_one(&*self.store, ChunkKind::Node, &id.as_chunk())
            .await
            .map_err(|e| e.context(format!("index node {id} can't be read")))?;
        if node_id(&bytes) != *id {
            return Err(Error::corrupt(format!("index node {id} does not match its hash")));
        }
        let node = Node::decode(&bytes).map_err(|e| e.context(format!("index node {id}")))?;
        Ok(self.insert(*id, node))
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
