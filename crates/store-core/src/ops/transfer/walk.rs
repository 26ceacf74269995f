//! The walk over an index in disk order, ahead of the transfer: which nodes and chunks the target lacks.
//!
//! Nodes of a level are taken in groups, so that one round trip asks about many: what was changed here and there
//! on a large disk costs few of them. A group waits, in its stored form, until all below it went out.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::mpsc;

use super::entries;
use crate::{
    BLOCK_SIZE, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, NodeId, Result,
    format::{
        codec::Encoded,
        node::{FANOUT, LEAF_BLOCKS, Node},
    },
    sync::Mutex,
};

/// Nodes fetched at a time: of leaves at most 5 MiB, of others 1 MiB.
const GROUP_LEAVES: usize = 256;
const GROUP_INNER: usize = 128;
/// Ids in one question.
const ASK: usize = 8192;
/// Bytes of a batch of chunks, as stored, about.
const BATCH_BYTES: u64 = 4 << 20;
/// Most chunks of a batch.
const BATCH_CHUNKS: usize = 2048;
/// Bytes of nodes that end a batch, too.
const BATCH_NODES: usize = 1 << 20;

/// What the walk sends out. The chunks are to be put before the nodes, and steps in their order.
#[derive(Default)]
pub(super) struct Step {
    /// Chunks that the target lacks, by the block of the disk they were met at.
    pub(super) chunks: Vec<(u64, ChunkId)>,
    /// Blocks of disk in them, at least.
    pub(super) blocks: u64,
    /// Chunks of the nodes that the target has.
    pub(super) present: Vec<(u64, ChunkId)>,
    /// Nodes that the target lacks, children before parents.
    pub(super) nodes: Vec<(NodeId, Encoded)>,
    node_bytes: usize,
}

/// What the target has or is about to get.
#[derive(Debug)]
pub(super) struct There {
    store: Arc<dyn ChunkStore>,
    /// Entries that the walk has met and that were not put yet.
    coming: Mutex<HashSet<ChunkId>>,
}

impl There {
    pub(super) fn new(store: &Arc<dyn ChunkStore>) -> Self {
        Self { store: Arc::clone(store), coming: Mutex::default() }
    }

    /// Which of the entries have to be sent; each is only once, and counts as coming from now on.
    async fn lacks(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let mut lacks = Vec::with_capacity(ids.len());
        for ids in ids.chunks(ASK) {
            let present = self.store.contains(kind, ids).await?;
            if present.len() != ids.len() {
                return Err(Error::corrupt("a store left out answers: it is broken"));
            }
            let mut coming = self.coming.lock();
            lacks.extend(ids.iter().zip(present).map(|(id, present)| !present && coming.insert(*id)));
        }
        Ok(lacks)
    }

    /// The entries were put: from here on the store answers for them.
    pub(super) fn arrived(&self, ids: impl Iterator<Item = ChunkId>) {
        let mut coming = self.coming.lock();
        for id in ids {
            coming.remove(&id);
        }
    }
}

/// How far the walk has come, and what it learns from the fetches behind it.
#[derive(Debug)]
pub(super) struct Pace(Mutex<PaceState>);

#[derive(Debug)]
struct PaceState {
    /// Blocks of the chunks that have to be sent.
    found: u64,
    /// Part of the tree that is done, each missing node taken to be as large as its siblings; 1 at the end.
    walked: f64,
    /// Stored bytes for each byte of disk that the index needs of a chunk.
    ratio: f64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self(Mutex::new(PaceState { found: 0, walked: 0.0, ratio: 1.0 }))
    }

    /// Bytes of disk that will have been sent in the end, by what is known now.
    pub(super) fn estimate(&self) -> Option<u64> {
        let state = self.0.lock();
        let found = (state.found * BLOCK_SIZE as u64) as f64;
        // A hundredth of the tree says little, and a part of zero nothing.
        (state.walked > 0.01).then(|| (found / state.walked.min(1.0)) as u64)
    }

    /// A batch of so many blocks took so many bytes. What compresses well makes larger batches, up to a bound
    /// that keeps the memory bounded if the next one does not.
    pub(super) fn learn(&self, blocks: u64, bytes: u64) {
        if blocks > 0 {
            let ratio = bytes as f64 / (blocks * BLOCK_SIZE as u64) as f64;
            let mut state = self.0.lock();
            state.ratio = (0.5 * state.ratio + 0.5 * ratio).clamp(0.5, 32.0);
        }
    }

    fn found(&self, blocks: u64) {
        self.0.lock().found += blocks;
    }

    fn walked(&self, weight: f64) {
        self.0.lock().walked += weight;
    }

    fn is_batch(&self, blocks: u64) -> bool {
        (blocks * BLOCK_SIZE as u64) as f64 * self.0.lock().ratio >= BATCH_BYTES as f64
    }
}

/// A walk over one index.
pub(super) struct Walk {
    pub(super) from: Arc<dyn ChunkStore>,
    pub(super) there: Arc<There>,
    pub(super) pace: Arc<Pace>,
    pub(super) steps: mpsc::Sender<Step>,
}

/// A node that the target lacks.
#[derive(Clone, Copy)]
struct Place {
    id: NodeId,
    /// Its number among the nodes of its level, in disk order.
    number: u64,
    /// Its part of the tree.
    weight: f64,
}

/// What is left to do, last first.
enum Work {
    /// Nodes of one level, in disk order.
    Expand(u8, Vec<Place>),
    /// Nodes whose children went out.
    Send(Vec<(NodeId, Encoded)>),
}

impl Walk {
    /// Walks the tree below `root` of `level` and sends out what the target lacks. `Cancelled` if nobody takes
    /// the steps any more: the transfer has ended, and knows why.
    pub(super) async fn run(self, root: NodeId, level: u8) -> Result<()> {
        let lacks = self.there.lacks(ChunkKind::Node, &[root.as_chunk()]).await?;
        let mut out = Step::default();
        let mut work = Vec::new();
        if lacks.contains(&true) {
            work.push(Work::Expand(level, vec![Place { id: root, number: 0, weight: 1.0 }]));
        } else {
            self.pace.walked(1.0);
        }
        while let Some(next) = work.pop() {
            match next {
                Work::Send(nodes) => {
                    for (id, entry) in nodes {
                        self.add_node(&mut out, id, entry).await?;
                    }
                }
                Work::Expand(level, mut places) => {
                    let group = if level == 0 { GROUP_LEAVES } else { GROUP_INNER };
                    if places.len() > group {
                        work.push(Work::Expand(level, places.split_off(group)));
                    }
                    let nodes = self.load(level, &places).await?;
                    if level == 0 {
                        self.leaves(&places, nodes, &mut out).await?;
                    } else {
                        self.inner(level, &places, nodes, &mut work).await?;
                    }
                }
            }
        }
        self.emit(&mut out).await
    }

    async fn load(&self, level: u8, places: &[Place]) -> Result<Vec<(Encoded, Node)>> {
        let read = move |bytes: &[u8]| {
            let node = Node::decode(bytes)?;
            if node.level() == level {
                Ok(node)
            } else {
                Err(Error::corrupt(format!("it has level {}, not {level}", node.level())))
            }
        };
        let ids = places.iter().map(|place| place.id.as_chunk()).collect();
        entries::fetch(&self.from, ChunkKind::Node, ids, read).await
    }

    /// Looks below a group of inner nodes; the group itself waits for what is missing there.
    async fn inner(
        &self,
        level: u8,
        places: &[Place],
        nodes: Vec<(Encoded, Node)>,
        work: &mut Vec<Work>,
    ) -> Result<()> {
        let (mut below, mut ids, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (place, (entry, node))) in places.iter().zip(nodes).enumerate() {
            if let Node::Inner { children, .. } = node {
                for (position, id) in children.iter() {
                    below.push((
                        at,
                        Place { id, number: place.number * FANOUT + u64::from(position), weight: 0.0 },
                    ));
                    ids.push(id.as_chunk());
                }
            }
            waiting.push((place.id, entry));
        }
        let mut lacks = self.there.lacks(ChunkKind::Node, &ids).await?.into_iter();
        below.retain(|_| lacks.next() == Some(true));
        let mut missing = vec![0_u32; places.len()];
        below.iter().for_each(|(at, _)| missing[*at] += 1);
        for (place, missing) in places.iter().zip(&missing) {
            if *missing == 0 {
                self.pace.walked(place.weight);
            }
        }
        let weighed = |(at, place): (usize, Place)| Place {
            weight: places[at].weight / f64::from(missing[at]),
            ..place
        };
        let below: Vec<_> = below.into_iter().map(weighed).collect();
        work.push(Work::Send(waiting));
        if !below.is_empty() {
            work.push(Work::Expand(level - 1, below));
        }
        Ok(())
    }

    /// Sends out a group of leaves, each behind the chunks it needs.
    async fn leaves(&self, places: &[Place], nodes: Vec<(Encoded, Node)>, out: &mut Step) -> Result<()> {
        let extents = nodes.iter().flat_map(|(_, node)| match node {
            Node::Leaf(extents) => extents.as_slice(),
            Node::Inner { .. } => &[],
        });
        let ids: Vec<_> = extents.map(|extent| extent.chunk).collect();
        let mut lacks = self.there.lacks(ChunkKind::Data, &ids).await?.into_iter();
        for (place, (entry, node)) in places.iter().zip(nodes) {
            let Node::Leaf(extents) = node else { continue };
            for extent in extents {
                let met = (place.number * LEAF_BLOCKS + u64::from(extent.first), extent.chunk);
                if lacks.next() == Some(true) {
                    let blocks = u64::from(extent.chunk_first) + u64::from(extent.blocks);
                    self.pace.found(blocks);
                    out.blocks += blocks;
                    out.chunks.push(met);
                    if out.chunks.len() >= BATCH_CHUNKS || self.pace.is_batch(out.blocks) {
                        self.emit(out).await?;
                    }
                } else if out.present.last().is_none_or(|(_, last)| *last != extent.chunk) {
                    out.present.push(met);
                }
            }
            self.pace.walked(place.weight);
            self.add_node(out, place.id, entry).await?;
        }
        Ok(())
    }

    async fn add_node(&self, out: &mut Step, id: NodeId, entry: Encoded) -> Result<()> {
        out.node_bytes += entry.bytes.len();
        out.nodes.push((id, entry));
        if out.node_bytes >= BATCH_NODES { self.emit(out).await } else { Ok(()) }
    }

    async fn emit(&self, out: &mut Step) -> Result<()> {
        let step = std::mem::take(out);
        if step.chunks.is_empty() && step.nodes.is_empty() && step.present.is_empty() {
            return Ok(());
        }
        let ended = |_| Error::new(ErrorKind::Cancelled, "the transfer has ended");
        self.steps.send(step).await.map_err(ended)
    }
}
