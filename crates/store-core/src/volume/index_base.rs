//! Content by index: a checkpoint's disk, read from a store that may be far away.

use std::{collections::HashSet, ops::Range, sync::Arc};

use bytes::Bytes;

use super::watch::{Readahead, Watch};
use crate::{
    BLOCK_SIZE, BlockRange, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::node::LEAF_BLOCKS,
    index::{Index, Mapping, Target},
    sync::Handle,
    types::MapId,
};

/// Blocks whose leaves are loaded together from afar: 64 MiB of disk, some 80 KB of 32 leaves.
const LEAVES_AROUND: u64 = 32 * LEAF_BLOCKS;

/// Content by index: a checkpoint's disk.
#[derive(Clone, Debug)]
pub struct IndexBase {
    index: Index,
    chunks: Arc<dyn ChunkStore>,
    /// Maps of its image, newest first: where the store may find the chunks.
    maps: Arc<[MapId]>,
    watch: Arc<Watch>,
}

/// A chunk that is not in memory.
pub(super) struct Missing {
    /// First block of the disk that it is found by.
    pub(super) block: u64,
    /// Blocks from there on that lie in it, at least.
    pub(super) blocks: u64,
    pub(super) chunk: ChunkId,
}

/// A part of a read that lies in one chunk.
struct Part {
    /// Start in the reader's buffer.
    at: usize,
    len: usize,
    chunk: ChunkId,
    /// First block of the disk that the part is found by.
    block: u64,
    /// Start in the chunk, in bytes.
    skip: usize,
}

impl IndexBase {
    /// The disk of an index, read from the store the index is in.
    pub fn new(index: Index) -> Self {
        let chunks = Arc::clone(index.nodes().store());
        Self { index, chunks, maps: Arc::default(), watch: Arc::new(Watch::new(None)) }
    }

    /// The same disk, with the maps of an image that has it, newest first: hints for a store that is far away.
    #[must_use]
    pub fn with_maps(self, maps: &[MapId]) -> Self {
        Self { maps: maps.into(), ..self }
    }

    /// The same disk, read from a store that is far away: sequential reads are recognised and fetched ahead of, in
    /// the background and within `readahead`; what is learnt on the way about the index is fetched in larger parts.
    /// Reads here and there fetch nothing more for it. Where a read takes microseconds it is of no use.
    ///
    /// **Errors** of what was fetched ahead surface when it is read, and only then.
    #[must_use]
    pub fn with_readahead(self, readahead: &Readahead) -> Self {
        Self { watch: Arc::new(Watch::new(Some(readahead.clone()))), ..self }
    }

    /// The same disk, seen by another's watch: when one takes the other's place.
    pub(super) fn watched_by(self, watch: &Arc<Watch>) -> Self {
        Self { watch: Arc::clone(watch), ..self }
    }

    /// What sees its reads.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads if all of it is in memory.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        if self.watch.marks(offset, buf.len()) {
            self.note(offset, buf.len(), offset + buf.len() as u64);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let found = self.index.try_find(BlockRange::covering(at, (buf.len() - done) as u64))?;
            let len = part_len(&found, at, buf.len() - done);
            let to = &mut buf[done..done + len];
            match found.target {
                None => to.fill(0),
                Some(target) => {
                    let chunk = self.chunks.try_get(ChunkKind::Data, &target.chunk)?;
                    if let Err(error) = copy(&chunk, skip(&found, &target, at), to, &target.chunk) {
                        return Some(Err(error));
                    }
                }
            }
            done += len;
        }
        Some(Ok(()))
    }

    /// Reads, fetching what is not in memory in one request.
    pub async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut parts: Vec<Part> = Vec::new();
        let (mut done, mut reach) = (0, offset + buf.len() as u64);
        self.load_around(offset, buf.len()).await;
        while done < buf.len() {
            let at = offset + done as u64;
            // To the end of what is found, though it be more than asked for.
            let from = BlockRange::new(at / BLOCK_SIZE as u64, self.index.blocks());
            let found = self.index.find(from).await?;
            let len = part_len(&found, at, buf.len() - done);
            match found.target {
                None => buf[done..done + len].fill(0),
                Some(target) => {
                    parts.push(Part {
                        at: done,
                        len,
                        chunk: target.chunk,
                        block: found.range.start,
                        skip: skip(&found, &target, at),
                    });
                    reach = reach.max(found.range.end * BLOCK_SIZE as u64);
                }
            }
            done += len;
        }
        self.note(offset, buf.len(), reach);
        let (mut missing, mut places) = (Vec::new(), Vec::new());
        parts.retain(|part| match self.chunks.try_get(ChunkKind::Data, &part.chunk) {
            Some(chunk) if part.skip + part.len <= chunk.len() => {
                buf[part.at..part.at + part.len].copy_from_slice(&chunk[part.skip..part.skip + part.len]);
                false
            }
            _ => {
                if !missing.contains(&part.chunk) {
                    missing.push(part.chunk);
                    places.push((part.block, part.chunk));
                }
                true
            }
        });
        if missing.is_empty() {
            return Ok(());
        }
        self.chunks.expect(&self.maps, &places);
        let found = self.chunks.get(ChunkKind::Data, &missing).await;
        for part in parts {
            let position = missing.iter().position(|id| *id == part.chunk).and_then(|at| found.get(at));
            match position {
                Some(Ok(chunk)) => {
                    copy(chunk, part.skip, &mut buf[part.at..part.at + part.len], &part.chunk)?;
                }
                Some(Err(error)) => {
                    return Err(
                        missing_is_corrupt(error).context(format!("chunk {} can't be read", part.chunk))
                    );
                }
                None => return Err(Error::corrupt(format!("the store left out chunk {}", part.chunk))),
            }
        }
        Ok(())
    }

    /// Brings what `ranges` hold into the caches in front of the store: the index with one request per level, the
    /// chunks that are not in memory with one in all. Ranges may reach behind the end of the disk.
    pub async fn fetch(&self, ranges: &[BlockRange]) -> Result<()> {
        let chunks: Vec<_> =
            self.find_missing(ranges).await?.iter().map(|found| (found.block, found.chunk)).collect();
        self.fetch_chunks(&chunks).await
    }

    /// The chunks that hold part of `ranges` and are not in memory, in the order of the ranges, each once.
    pub(super) async fn find_missing(&self, ranges: &[BlockRange]) -> Result<Vec<Missing>> {
        let disk = BlockRange::new(0, self.index.blocks());
        let ranges: Vec<_> = ranges.iter().map(|range| range.intersect(&disk)).collect();
        self.index.load(&ranges).await?;
        let (mut seen, mut missing) = (HashSet::new(), Vec::new());
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let found = self.index.find(BlockRange::new(at, range.end)).await?;
                at = found.range.end;
                let Some(Target { chunk, .. }) = found.target else { continue };
                if seen.insert(chunk) && self.chunks.try_get(ChunkKind::Data, &chunk).is_none() {
                    missing.push(Missing { block: found.range.start, blocks: found.range.count(), chunk });
                }
            }
        }
        Ok(missing)
    }

    /// Brings chunks, each with a block that is found in it, into the caches with one request.
    pub(super) async fn fetch_chunks(&self, chunks: &[(u64, ChunkId)]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.chunks.expect(&self.maps, chunks);
        let ids: Vec<_> = chunks.iter().map(|(_, chunk)| *chunk).collect();
        self.chunks.get(ChunkKind::Data, &ids).await.into_iter().try_for_each(|got| got.map(drop))
    }

    /// Tells the watch of a read of `len` bytes, in the course of which all up to `reach` gets into memory.
    fn note(&self, offset: u64, len: usize, reach: u64) {
        let asked = BlockRange::covering(offset, len as u64);
        let size = self.index.blocks() * BLOCK_SIZE as u64;
        self.watch.note(asked, &(offset..reach), size, |piece| self.fetch_ahead(&piece));
    }

    /// Begins to fetch a piece beside the reader, if there is room for it.
    fn fetch_ahead(&self, piece: &Range<u64>) -> bool {
        let bytes = piece.end - piece.start;
        let Some(readahead) = self.watch.readahead() else { return false };
        let (Some(room), Ok(runtime)) = (readahead.try_take(bytes), Handle::try_current()) else {
            return false;
        };
        let (base, readahead, piece) = (self.clone(), readahead.clone(), piece.clone());
        runtime.spawn(async move {
            if let Err(error) = base.fetch_piece(&piece, &readahead).await {
                tracing::debug!("reading ahead at {}: {}", piece.start, error.report());
            }
            drop(room);
        });
        true
    }

    async fn fetch_piece(&self, piece: &Range<u64>, readahead: &Readahead) -> Result<()> {
        let bytes = piece.end - piece.start;
        self.load_around(piece.start, bytes as usize).await;
        let missing = self.find_missing(&[BlockRange::covering(piece.start, bytes)]).await?;
        let chunks: Vec<_> = missing.iter().map(|found| (found.block, found.chunk)).collect();
        let _lane = readahead.lane().await;
        self.fetch_chunks(&chunks).await
    }

    /// From afar a leaf costs as much as many: loads those around a read, too, if one of its own is missing.
    async fn load_around(&self, offset: u64, len: usize) {
        let read = BlockRange::covering(offset, len as u64);
        if self.watch.readahead().is_none() || self.index.try_find(read).is_some() {
            return;
        }
        let start = read.start / LEAVES_AROUND * LEAVES_AROUND;
        let around = BlockRange::new(start, read.end.next_multiple_of(LEAVES_AROUND));
        if let Err(error) = self.index.load(&[around]).await {
            // The read itself says what it can't have.
            tracing::debug!("the index around {offset}: {}", error.report());
        }
    }
}

/// An index that names a chunk the store does not have is damage, not a question whose answer is "no".
fn missing_is_corrupt(error: &Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::with_source(ErrorKind::Corrupt, "the store has lost it", error.clone()),
        _ => error.clone(),
    }
}

fn part_len(found: &Mapping, at: u64, left: usize) -> usize {
    let run = found.range.end * BLOCK_SIZE as u64 - at;
    usize::try_from(run).map_or(left, |run| run.min(left))
}

fn skip(found: &Mapping, target: &Target, at: u64) -> usize {
    usize::from(target.first) * BLOCK_SIZE + (at - found.range.byte_start()) as usize
}

fn copy(chunk: &Bytes, skip: usize, to: &mut [u8], id: &ChunkId) -> Result<()> {
    match chunk.get(skip..skip + to.len()) {
        Some(bytes) => {
            to.copy_from_slice(bytes);
            Ok(())
        }
        None => Err(Error::corrupt(format!(
            "chunk {id} has {} bytes, its index needs {}",
            chunk.len(),
            skip + to.len()
        ))),
    }
}
