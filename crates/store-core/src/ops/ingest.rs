//! The pipeline from disk content to chunks and index: read and cut in one thread, hash, look up and
//! encode in several, store and index in disk order.

use std::{collections::HashSet, mem, num::NonZero, pin::pin, sync::Arc, thread::available_parallelism};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::{Job, Progress};
use crate::{
    BLOCK_SIZE, BlockRange, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    blocking::{Blocking, spawn_blocking},
    chunking::{Chunking, Cutter, DiskSource, Segment, Segments},
    format::{
        codec::{Compression, Encoded, Encoder},
        node::{level_for, span},
    },
    index::{Change, Index, IndexWriter, Target, Written},
    sync::{Mutex, spawn},
    types::{MAX_DISK_SIZE, blocks_for, chunk_id},
};

/// Segments travel in batches of at most this many, or of [`BATCH_BYTES`].
const BATCH_SEGMENTS: usize = 256;
const BATCH_BYTES: usize = 2 * 1024 * 1024;

/// How content becomes chunks.
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestOptions {
    /// Where cuts fall.
    pub chunking: Chunking,
    /// What new chunks are encoded with.
    pub compression: Compression,
}

/// What an ingest met and did, in bytes of disk unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngestStats {
    /// Content that is not zero.
    pub used: u64,
    /// Content that the store did not have.
    pub new: u64,
    /// Chunks in all.
    pub chunks: u64,
    /// Chunks that the store did not have.
    pub new_chunks: u64,
    /// Stored bytes of the new chunks and nodes.
    pub stored: u64,
}

/// What an ingest made: an index whose entries are put, but neither synced nor named.
#[derive(Clone, Debug)]
pub struct Ingested {
    /// The new index.
    pub index: Index,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Its nodes and chunks that differ from the base, for image maps.
    pub written: Written,
    /// Figures.
    pub stats: IngestStats,
}

/// Stores what `source` holds as changes to `base` and writes the new index. Blocks that the source
/// skips, or that lie behind its end, stay as they are in `base`.
///
/// Memory is bounded by some 2 MiB for each core and stage, whatever the disk's size, plus some 80 bytes for
/// each chunk met. **Cancel safety**: what was put stays in the store, unnamed.
pub async fn ingest<S: DiskSource + 'static>(
    base: Index,
    source: S,
    options: IngestOptions,
    job: &Job,
) -> Result<Ingested> {
    let store = Arc::clone(base.nodes().store());
    let total = source.size();
    let reading = read_ahead(Segments::new(source, Cutter::new(options.chunking)));
    let encoders = Arc::new(Encoders { compression: options.compression, idle: Mutex::default() });
    let width = available_parallelism().map_or(2, NonZero::get) + 1;
    let batches =
        stream::unfold(reading.batches, |mut batches| async { batches.recv().await.map(|b| (b, batches)) });
    let prepared = batches
        .map(|batch| {
            let (store, encoders) = (Arc::clone(&store), Arc::clone(&encoders));
            async move { spawn(prepare(store, encoders, batch)).await.unwrap_or_else(|e| Err(died(&e))) }
        })
        .buffered(width);
    let mut prepared = pin!(prepared);

    let mut writer = Writer::new(base, total.unwrap_or(0)).await?;
    let mut stats = IngestStats::default();
    while let Some(prepared) = prepared.next().await {
        job.check()?;
        let prepared = prepared?;
        stats.add(&prepared.stats);
        if !prepared.encoded.is_empty() {
            store.put_encoded(ChunkKind::Data, prepared.encoded).await?;
        }
        for change in prepared.changes {
            writer.push(change).await?;
        }
        job.report(Progress { done: prepared.end * BLOCK_SIZE as u64, total, stored: stats.stored });
    }
    let size = reading.size.await.unwrap_or_else(|e| Err(died(&e)))?;
    let (index, written) = writer.finish(size).await?;
    stats.stored += written.added.node_bytes;
    job.report(Progress { done: size, total: Some(size), stored: stats.stored });
    Ok(Ingested { index, size, written, stats })
}

fn died(error: &impl std::error::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("a worker of the import died: {error}"))
}

/// The reading thread's end of the pipeline.
struct Reading {
    batches: mpsc::Receiver<Vec<Segment>>,
    /// Size of the disk, once it has been read to its end.
    size: Blocking<Result<u64>>,
}

fn read_ahead<S: DiskSource + 'static>(mut segments: Segments<S>) -> Reading {
    let (sender, batches) = mpsc::channel(2);
    let size = spawn_blocking(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(segment) = segments.next_segment()? {
            if let Segment::Data { bytes: data, .. } = &segment {
                bytes += data.len();
            }
            batch.push(segment);
            if bytes >= BATCH_BYTES || batch.len() == BATCH_SEGMENTS {
                bytes = 0;
                if sender.blocking_send(mem::take(&mut batch)).is_err() {
                    return Err(Error::new(ErrorKind::Cancelled, "the import ended before its source"));
                }
            }
        }
        if !batch.is_empty() {
            // A receiver that is gone has an error of its own to tell.
            let _ = sender.blocking_send(batch);
        }
        Ok(segments.size())
    });
    Reading { batches, size }
}

/// A batch, ready to be stored and indexed.
struct Prepared {
    changes: Vec<Change>,
    encoded: Vec<(ChunkId, Encoded)>,
    stats: IngestStats,
    /// One past the last block.
    end: u64,
}

/// Hashes a batch, asks which chunks are missing, and encodes those.
async fn prepare(
    store: Arc<dyn ChunkStore>,
    encoders: Arc<Encoders>,
    batch: Vec<Segment>,
) -> Result<Prepared> {
    let (changes, chunks, end) = blocking(move || changes_of(&batch)).await?;
    let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
    let present = if ids.is_empty() { Vec::new() } else { store.contains(ChunkKind::Data, &ids).await? };
    blocking(move || {
        let mut stats = IngestStats { chunks: chunks.len() as u64, ..IngestStats::default() };
        let mut seen = HashSet::new();
        let mut encoder = encoders.take()?;
        let mut encoded = Vec::new();
        for ((id, bytes), present) in chunks.into_iter().zip(present) {
            stats.used += bytes.len() as u64;
            if !present && seen.insert(id) {
                let entry = encoder.encode(&bytes);
                stats.new += bytes.len() as u64;
                stats.new_chunks += 1;
                stats.stored += entry.bytes.len() as u64;
                encoded.push((id, entry));
            }
        }
        encoders.give_back(encoder);
        Ok(Prepared { changes, encoded, stats, end })
    })
    .await?
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|e| died(&e))
}

type Hashed = (Vec<Change>, Vec<(ChunkId, Bytes)>, u64);

fn changes_of(batch: &[Segment]) -> Hashed {
    let (mut changes, mut chunks, mut end) = (Vec::new(), Vec::new(), 0);
    for segment in batch {
        match segment {
            Segment::Zero(range) => {
                changes.push(Change { range: *range, target: None });
                end = range.end;
            }
            Segment::Data { first, bytes, pieces } => {
                let mut at = *first;
                for piece in pieces {
                    let range = BlockRange::new(
                        first + piece.first as u64,
                        first + (piece.first + piece.blocks) as u64,
                    );
                    if at < range.start {
                        changes.push(Change { range: BlockRange::new(at, range.start), target: None });
                    }
                    at = range.end;
                    let content =
                        bytes.slice(piece.first * BLOCK_SIZE..(piece.first + piece.blocks) * BLOCK_SIZE);
                    let id = chunk_id(&content);
                    changes.push(Change { range, target: Some(Target { chunk: id, first: 0 }) });
                    chunks.push((id, content));
                }
                end = first + segment.blocks();
                if at < end {
                    changes.push(Change { range: BlockRange::new(at, end), target: None });
                }
            }
        }
    }
    (changes, chunks, end)
}

/// Encoders that no batch is using: their working memory costs more to set up than a batch to encode.
struct Encoders {
    compression: Compression,
    idle: Mutex<Vec<Encoder>>,
}

impl Encoders {
    fn take(&self) -> Result<Encoder> {
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| Encoder::new(self.compression), Ok)
    }

    fn give_back(&self, encoder: Encoder) {
        self.idle.lock().push(encoder);
    }
}

impl IngestStats {
    fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.new += other.new;
        self.chunks += other.chunks;
        self.new_chunks += other.new_chunks;
        self.stored += other.stored;
    }
}

/// An [`IndexWriter`] for a disk whose size may be known only at its end.
struct Writer {
    writer: IndexWriter,
    nodes: Arc<crate::index::NodeCache>,
    capacity: u64,
    /// What earlier, smaller trees wrote.
    written: Written,
}

impl Writer {
    async fn new(base: Index, size: u64) -> Result<Self> {
        let nodes = Arc::clone(base.nodes());
        let capacity = blocks_for(size).max(base.blocks());
        let writer = IndexWriter::new(base, capacity * BLOCK_SIZE as u64).await?;
        Ok(Self { writer, nodes, capacity, written: Written::default() })
    }

    async fn push(&mut self, change: Change) -> Result<()> {
        if change.range.end > self.capacity {
            // As much as a tree of the level that is needed now can hold.
            self.grow(span(level_for(change.range.end)).min(blocks_for(MAX_DISK_SIZE))).await?;
        }
        self.writer.push(change).await
    }

    async fn grow(&mut self, blocks: u64) -> Result<()> {
        let empty = IndexWriter::new(Index::new(Arc::clone(&self.nodes), None, 0), 0).await?;
        let written = mem::replace(&mut self.writer, empty).finish().await?;
        let old = Index::new(Arc::clone(&self.nodes), written.root, self.capacity * BLOCK_SIZE as u64);
        self.writer = IndexWriter::new(old, blocks * BLOCK_SIZE as u64).await?;
        self.capacity = blocks;
        self.written = mem::take(&mut self.written).then(written);
        Ok(())
    }

    /// The index of a disk of `size` bytes, or of the base's size if that is larger.
    async fn finish(mut self, size: u64) -> Result<(Index, Written)> {
        if level_for(blocks_for(size)) > level_for(self.capacity) {
            self.grow(blocks_for(size)).await?;
        }
        let written = self.written.then(self.writer.finish().await?);
        Ok((Index::new(self.nodes, written.root, size), written))
    }
}
