//! Index nodes: extents in leaves, children in inner nodes. One canonical form; every other is refused.
//!
//! ```text
//! node   := version u16 = 1 │ level u8 │ zero u8 │ leaf or inner
//! leaf   := count u16 │ count × { first u16 │ blocks u16 │ chunk first u8 │ chunk id 32 }     (level 0)
//! inner  := bitmap 32 bytes, bit i of byte i/8 for child i │ the ids of the children present  (level 1 to 6)
//! ```
//!
//! A node is never empty: an empty subtree is an absent child, an empty tree has no root.

use super::wire::{Reader, Writer};
use crate::{ChunkId, Error, ErrorKind, NodeId, Result, types::MAX_CHUNK_BLOCKS};

/// Blocks that a leaf covers: 2 MiB of disk.
pub const LEAF_BLOCKS: u64 = 512;
/// Children of an inner node.
pub const FANOUT: u64 = 256;
/// Level of the root of the largest disk.
pub const MAX_LEVEL: u8 = 6;

const VERSION: u16 = 1;

/// Blocks of disk below a node of a level.
pub const fn span(level: u8) -> u64 {
    LEAF_BLOCKS << (8 * level as u32)
}

/// The least level that covers a number of blocks.
pub fn level_for(blocks: u64) -> u8 {
    (0..MAX_LEVEL).find(|&level| span(level) >= blocks).unwrap_or(MAX_LEVEL)
}

/// A run of blocks of a leaf that lies in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block, counted from the start of the leaf.
    pub first: u16,
    /// Number of blocks.
    pub blocks: u16,
    /// The chunk.
    pub chunk: ChunkId,
    /// Block of the chunk that is the first block of the extent.
    pub chunk_first: u8,
}

impl Extent {
    /// One past the last block.
    pub const fn end(&self) -> u16 {
        self.first + self.blocks
    }

    /// Whether `next` goes on where this ends, on the disk and in the chunk.
    pub fn continues_into(&self, next: &Self) -> bool {
        self.end() == next.first
            && self.chunk == next.chunk
            && u16::from(self.chunk_first) + self.blocks == u16::from(next.chunk_first)
    }
}

/// Children of an inner node, by position.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Children {
    present: [u64; 4],
    ids: Vec<NodeId>,
}

impl Children {
    /// The child at a position below [`FANOUT`].
    pub fn get(&self, position: u8) -> Option<NodeId> {
        self.has(position).then(|| self.ids[self.rank(position)])
    }

    /// Sets or removes a child.
    pub fn set(&mut self, position: u8, child: Option<NodeId>) {
        let rank = self.rank(position);
        let bit = 1_u64 << (position % 64);
        match (self.has(position), child) {
            (true, Some(id)) => self.ids[rank] = id,
            (true, None) => {
                self.ids.remove(rank);
                self.present[usize::from(position / 64)] &= !bit;
            }
            (false, Some(id)) => {
                self.ids.insert(rank, id);
                self.present[usize::from(position / 64)] |= bit;
            }
            (false, None) => {}
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The children present, with their positions.
    pub fn iter(&self) -> impl Iterator<Item = (u8, NodeId)> + '_ {
        (0..=u8::MAX).filter(|&position| self.has(position)).zip(self.ids.iter().copied())
    }

    /// The first position from `position` on that has a child.
    pub fn next_present(&self, position: u8) -> Option<u8> {
        (position..=u8::MAX).find(|&position| self.has(position))
    }

    fn has(&self, position: u8) -> bool {
        self.present[usize::from(position / 64)] >> (position % 64) & 1 == 1
    }

    fn rank(&self, position: u8) -> usize {
        let word = usize::from(position / 64);
        let below = self.present[word] & ((1_u64 << (position % 64)) - 1);
        let before: u32 = self.present[..word].iter().map(|word| word.count_ones()).sum();
        (before + below.count_ones()) as usize
    }
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Level 0: extents, sorted, apart, merged where they continue each other.
    Leaf(Vec<Extent>),
    /// Level 1 and up.
    Inner {
        /// The level.
        level: u8,
        /// The children, of the level below.
        children: Children,
    },
}

impl Node {
    /// The level.
    pub fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { level, .. } => *level,
        }
    }

    /// Bytes of memory it takes, about.
    pub fn weight(&self) -> usize {
        let content = match self {
            Self::Leaf(extents) => size_of_val(extents.as_slice()),
            Self::Inner { children, .. } => size_of_val(children.ids.as_slice()),
        };
        size_of::<Self>() + content
    }

    /// The bytes. The node is not empty.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.u16(VERSION).u8(self.level()).u8(0);
        match self {
            Self::Leaf(extents) => {
                to.u16(u16::try_from(extents.len()).expect("a leaf has at most 512 extents"));
                for extent in extents {
                    to.u16(extent.first)
                        .u16(extent.blocks)
                        .u8(extent.chunk_first)
                        .bytes(extent.chunk.as_bytes());
                }
            }
            Self::Inner { children, .. } => {
                for word in children.present {
                    to.u64(word);
                }
                for id in &children.ids {
                    to.bytes(id.as_bytes());
                }
            }
        }
        to.into_vec()
    }

    /// Reads a node; anything but what [`encode`](Self::encode) writes is `Corrupt`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new("index node", bytes);
        let version = from.u16()?;
        if version > VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("index node has format version {version}: use a newer gabion"),
            ));
        }
        let level = from.u8()?;
        if version != VERSION || level > MAX_LEVEL || from.u8()? != 0 {
            return Err(from.corrupt("bad version, level or reserved byte"));
        }
        let node = if level == 0 { decode_leaf(&mut from)? } else { decode_inner(&mut from, level)? };
        from.finish()?;
        Ok(node)
    }
}

fn decode_leaf(from: &mut Reader<'_>) -> Result<Node> {
    let count = usize::from(from.u16()?);
    if count == 0 || count > LEAF_BLOCKS as usize {
        return Err(from.corrupt(format_args!("a leaf of {count} extents")));
    }
    let mut extents: Vec<Extent> = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, blocks, chunk_first) = (from.u16()?, from.u16()?, from.u8()?);
        let extent = Extent { first, blocks, chunk: ChunkId::from_bytes(from.array()?), chunk_first };
        let fits = blocks > 0
            && u64::from(first) + u64::from(blocks) <= LEAF_BLOCKS
            && usize::from(chunk_first) + usize::from(blocks) <= MAX_CHUNK_BLOCKS;
        let follows = extents.last().is_none_or(|last| last.end() <= first && !last.continues_into(&extent));
        if !fits || !follows {
            return Err(from.corrupt(format_args!("bad extent at block {first}")));
        }
        extents.push(extent);
    }
    Ok(Node::Leaf(extents))
}

fn decode_inner(from: &mut Reader<'_>, level: u8) -> Result<Node> {
    let present = [from.u64()?, from.u64()?, from.u64()?, from.u64()?];
    let count: u32 = present.iter().map(|word| word.count_ones()).sum();
    if count == 0 {
        return Err(from.corrupt("an inner node without children"));
    }
    let ids = (0..count).map(|_| Ok(NodeId::from_bytes(from.array()?))).collect::<Result<_>>()?;
    Ok(Node::Inner { level, children: Children { present, ids } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::node_id;

    fn extent(first: u16, blocks: u16, chunk: u8, chunk_first: u8) -> Extent {
        Extent { first, blocks, chunk: ChunkId::from_bytes([chunk; 32]), chunk_first }
    }

    #[test]
    fn golden_bytes() {
        let leaf = Node::Leaf(vec![extent(0, 2, 7, 1), extent(511, 1, 8, 0)]);
        assert_eq!(node_id(&leaf.encode()).to_string(), GOLDEN_LEAF);
        let mut children = Children::default();
        children.set(0, Some(NodeId::from_bytes([1; 32])));
        children.set(255, Some(NodeId::from_bytes([2; 32])));
        let inner = Node::Inner { level: 3, children };
        assert_eq!(inner.encode().len(), 4 + 32 + 64);
        assert_eq!(node_id(&inner.encode()).to_string(), GOLDEN_INNER);
    }

    const GOLDEN_LEAF: &str = "de1ebeb1f0a90016a167f639626980631834b3cff39d7119ac9337d446570d0f";
    const GOLDEN_INNER: &str = "03f7264764d727042e4861befe47b31aa92a2f45c63c588ca8e193a2db182f32";

    #[test]
    fn levels_cover_sizes() {
        assert_eq!(level_for(0), 0);
        assert_eq!(level_for(512), 0);
        assert_eq!(level_for(513), 1);
        assert_eq!(level_for((1 << 40) / 4096), 3);
        assert_eq!(level_for(crate::types::MAX_DISK_SIZE / 4096), 6);
    }

    #[test]
    fn every_other_form_is_refused() {
        for extents in [
            vec![],
            vec![extent(0, 0, 1, 0)],
            vec![extent(511, 2, 1, 0)],
            vec![extent(0, 2, 1, 31)],
            vec![extent(1, 1, 1, 0), extent(0, 1, 2, 0)],
            vec![extent(0, 2, 1, 0), extent(1, 1, 2, 0)],
            vec![extent(0, 1, 1, 0), extent(1, 1, 1, 1)],
        ] {
            let bytes = Node::Leaf(extents.clone()).encode();
            assert!(Node::decode(&bytes).is_err(), "{extents:?}");
        }
        assert!(Node::decode(&Node::Inner { level: 1, children: Children::default() }.encode()).is_err());
    }

    proptest! {
        #[test]
        fn children_behave_like_a_map(sets in prop::collection::vec((any::<u8>(), any::<Option<u8>>()), 0..300)) {
            let mut model = std::collections::BTreeMap::new();
            let mut children = Children::default();
            for (position, id) in sets {
                let id = id.map(|byte| NodeId::from_bytes([byte; 32]));
                children.set(position, id);
                match id { Some(id) => { model.insert(position, id); } None => { model.remove(&position); } }
            }
            prop_assert_eq!(children.iter().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
            for position in 0..=255 {
                prop_assert_eq!(children.get(position), model.get(&position).copied());
                prop_assert_eq!(children.next_present(position), model.range(position..).next().map(|(p, _)| *p));
            }
            if !model.is_empty() {
                let node = Node::Inner { level: 2, children };
                prop_assert_eq!(Node::decode(&node.encode()).unwrap(), node);
            }
        }

        #[test]
        fn foreign_bytes_decode_to_themselves_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
            let mut bytes = bytes;
            if head && bytes.len() >= 4 {
                let level = bytes[2] % 3;
                bytes[..4].copy_from_slice(&[1, 0, level, 0]);
            }
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(node.encode(), bytes);
            }
        }
    }
}
