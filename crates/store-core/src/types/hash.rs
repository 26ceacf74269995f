//! Hash domains: how the bytes of an entry become its id.
//!
//! Data chunks are named by plain BLAKE3. Nodes and checkpoints use BLAKE3's `derive_key` mode with a
//! context string each (BLAKE3 specification, section 2.3), so that no bytes a guest can write into its
//! disk are ever taken for a node. The context strings are part of the format.

use super::{CheckpointId, ChunkId, ChunkKind, NodeId};

const NODE_CONTEXT: &str = "gabion 2026-11-20 index node v1";
const CHECKPOINT_CONTEXT: &str = "gabion 2026-11-20 checkpoint v1";

/// How ids are made in a store: hash function and key. Ids of different domains never compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdDomain {
    /// Hash function; 1 is BLAKE3-256.
    pub hash: u8,
    /// Key id; 0 is "no key". Keyed domains are reserved for encryption.
    pub key_id: u64,
}

impl IdDomain {
    /// Unkeyed BLAKE3-256, the only domain of format version 1.
    pub const BLAKE3: Self = Self { hash: 1, key_id: 0 };
}

/// Id of a data chunk.
pub fn chunk_id(bytes: &[u8]) -> ChunkId {
    ChunkId::from_bytes(*blake3::hash(bytes).as_bytes())
}

/// Id of an encoded index node.
pub fn node_id(bytes: &[u8]) -> NodeId {
    NodeId::from_bytes(blake3::derive_key(NODE_CONTEXT, bytes))
}

/// Id of an encoded checkpoint.
pub fn checkpoint_id(bytes: &[u8]) -> CheckpointId {
    CheckpointId::from_bytes(blake3::derive_key(CHECKPOINT_CONTEXT, bytes))
}

/// Id of an entry of any kind.
pub fn id_of(kind: ChunkKind, bytes: &[u8]) -> ChunkId {
    match kind {
        ChunkKind::Data => chunk_id(bytes),
        ChunkKind::Node => node_id(bytes).as_chunk(),
        ChunkKind::Checkpoint => checkpoint_id(bytes).as_chunk(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_separate_and_stable() {
        let bytes = b"the same bytes";
        let ids = [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint].map(|kind| id_of(kind, bytes));
        assert_ne!(ids[0], ids[1]);
        assert_ne!(ids[1], ids[2]);
        assert_eq!(ids[0].to_string(), blake3::hash(bytes).to_hex().to_string());
    }
}
