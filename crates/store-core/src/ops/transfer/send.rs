//! Chunks and nodes on their way: several batches are fetched and verified at once, and put in order.

use std::{mem, sync::Arc};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::sync::mpsc;

use super::{
    Maps, Side, entries,
    naming::Naming,
    report,
    walk::{Pace, Step, There, Walk},
};
use crate::{
    BLOCK_SIZE, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, NodeId, Result,
    clock::Clock,
    format::{checkpoint::Checkpoint, codec::Encoded, image_record::HistoryEntry, node::level_for},
    ops::Job,
    sync::{AbortOnDropHandle, JoinError, spawn},
    types::blocks_for,
};

/// Batches that the walk is ahead of the fetches.
const AHEAD: usize = 4;
/// New nodes are kept back up to this many bytes, so that they lie together in the target.
const NODE_BATCH: usize = 8 << 20;

/// What was sent so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) chunks: u64,
    pub(super) nodes: u64,
    pub(super) skipped: u64,
    pub(super) bytes: u64,
    /// Bytes of disk in the chunks.
    done: u64,
}

/// Sends checkpoints from one store to another.
pub(super) struct Sender<'a> {
    pub(super) from: Side<'a>,
    pub(super) to: Side<'a>,
    pub(super) maps: &'a Maps,
    pub(super) width: usize,
    pub(super) named_every: u64,
    /// Whether the image map has to tell of chunks that the target has, too: no older map does.
    pub(super) whole_map: bool,
    pub(super) clock: &'a dyn Clock,
    pub(super) job: &'a Job,
}

/// What is new in the target, for the image map.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) nodes: Vec<NodeId>,
    pub(super) chunks: Vec<(u64, ChunkId)>,
}

/// A step whose chunks are here and verified.
struct Fetched {
    step: Step,
    chunks: Vec<(ChunkId, Encoded)>,
}

impl Sender<'_> {
    /// Brings a checkpoint and all it reaches into the target; neither synced nor named.
    pub(super) async fn send(&self, entry: &HistoryEntry, sent: &mut Sent) -> Result<Rows> {
        let sending = self.send_all(entry, sent);
        let cancelled = || Error::new(ErrorKind::Cancelled, "cancelled");
        self.job.cancel.run_until_cancelled(sending).await.unwrap_or_else(|| Err(cancelled()))
    }

    async fn send_all(&self, entry: &HistoryEntry, sent: &mut Sent) -> Result<Rows> {
        let (from, to) = (&self.from.store.chunks, &self.to.store.chunks);
        let id = entry.checkpoint.as_chunk();
        if to.contains(ChunkKind::Checkpoint, &[id]).await?.contains(&true) {
            return Ok(Rows::default());
        }
        let read = |bytes: &[u8]| Checkpoint::decode(bytes);
        let found = entries::fetch(from, ChunkKind::Checkpoint, vec![id], read).await;
        let Some((encoded, checkpoint)) = self.of_source(found)?.pop() else { return Ok(Rows::default()) };
        let rows = match checkpoint.root {
            Some(root) => self.send_index(root, level_for(blocks_for(checkpoint.size)), sent).await?,
            None => Rows::default(),
        };
        sent.bytes += encoded.bytes.len() as u64;
        to.put_encoded(ChunkKind::Checkpoint, vec![(id, encoded)]).await?;
        Ok(rows)
    }

    fn of_source<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.context(format!("from {}", self.from.place)))
    }

    async fn send_index(&self, root: NodeId, level: u8, sent: &mut Sent) -> Result<Rows> {
        let from = &self.from.store.chunks;
        let there = Arc::new(There::new(&self.to.store.chunks));
        let pace = Arc::new(Pace::new());
        let (sender, steps) = mpsc::channel(AHEAD);
        let walk = Walk {
            from: Arc::clone(from),
            there: Arc::clone(&there),
            pace: Arc::clone(&pace),
            steps: sender,
        };
        let walking = AbortOnDropHandle::new(spawn(walk.run(root, level)));
        let mut fetched = fetch_ahead(Arc::clone(from), Arc::clone(self.maps), steps, self.width);

        let (mut rows, mut held, mut held_bytes) = (Rows::default(), Vec::new(), 0);
        let before = sent.done;
        let mut naming = Naming::new(self.to.store, self.named_every, sent.bytes);
        while let Some(next) = fetched.next().await {
            let Fetched { step, chunks } = self.of_source(next.map_err(died)?)?;
            self.put_chunks(&there, &pace, &step, chunks, sent).await?;
            naming.follow(sent.bytes).await?;
            rows.chunks.extend(&step.chunks);
            if self.whole_map {
                rows.chunks.extend(&step.present);
            }
            for (id, entry) in step.nodes {
                rows.nodes.push(id);
                held_bytes += entry.bytes.len();
                held.push((id.as_chunk(), entry));
            }
            if held_bytes >= NODE_BATCH {
                held_bytes = 0;
                self.put_nodes(&there, mem::take(&mut held), sent).await?;
            }
            let total = pace.estimate().map(|total| before + total);
            report(self.job, sent.done, total, sent.bytes);
        }
        self.of_source(walking.await.map_err(died)?)?;
        self.put_nodes(&there, held, sent).await?;
        naming.finish().await?;
        report(self.job, sent.done, Some(sent.done), sent.bytes);
        Ok(rows)
    }

    async fn put_chunks(
        &self,
        there: &There,
        pace: &Pace,
        step: &Step,
        chunks: Vec<(ChunkId, Encoded)>,
        sent: &mut Sent,
    ) -> Result<()> {
        sent.skipped += step.present.len() as u64;
        if chunks.is_empty() {
            return Ok(());
        }
        let bytes = chunks.iter().map(|(_, entry)| entry.bytes.len() as u64).sum();
        pace.learn(step.blocks, bytes);
        sent.chunks += chunks.len() as u64;
        self.to.store.chunks.put_encoded(ChunkKind::Data, chunks).await?;
        there.arrived(step.chunks.iter().map(|(_, id)| *id));
        sent.bytes += bytes;
        sent.done += step.blocks * BLOCK_SIZE as u64;
        Ok(())
    }

    async fn put_nodes(&self, there: &There, nodes: Vec<(ChunkId, Encoded)>, sent: &mut Sent) -> Result<()> {
        if nodes.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = nodes.iter().map(|(id, _)| *id).collect();
        sent.nodes += nodes.len() as u64;
        sent.bytes += nodes.iter().map(|(_, entry)| entry.bytes.len() as u64).sum::<u64>();
        self.to.store.chunks.put_encoded(ChunkKind::Node, nodes).await?;
        there.arrived(ids.into_iter());
        Ok(())
    }
}

/// Fetches what steps need, some at once and in order. Boxed, since the compiler does not see through it that a
/// transfer may go from thread to thread.
fn fetch_ahead(
    from: Arc<dyn ChunkStore>,
    maps: Maps,
    steps: mpsc::Receiver<Step>,
    width: usize,
) -> BoxStream<'static, Result<Result<Fetched>, JoinError>> {
    let steps = stream::unfold(steps, |mut steps| async { steps.recv().await.map(|step| (step, steps)) });
    let fetched = steps.map(move |step| {
        let fetch = fetch(Arc::clone(&from), Arc::clone(&maps), step);
        AbortOnDropHandle::new(spawn(fetch))
    });
    fetched.buffered(width).boxed()
}

/// Fetches and verifies the chunks of a step.
async fn fetch(from: Arc<dyn ChunkStore>, maps: Maps, step: Step) -> Result<Fetched> {
    if step.chunks.is_empty() {
        return Ok(Fetched { step, chunks: Vec::new() });
    }
    from.expect(&maps, &step.chunks);
    let ids: Vec<_> = step.chunks.iter().map(|(_, id)| *id).collect();
    let found = entries::fetch(&from, ChunkKind::Data, ids.clone(), |_| Ok(())).await?;
    let chunks = ids.into_iter().zip(found).map(|(id, (entry, ()))| (id, entry)).collect();
    Ok(Fetched { step, chunks })
}

pub(super) fn died(error: JoinError) -> Error {
    Error::with_source(ErrorKind::Unavailable, "a worker of the transfer died", error)
}
