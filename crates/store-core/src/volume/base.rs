//! What lies below a volume's layers: the index of a checkpoint, a source that is still being ingested, or
//! nothing.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::task::spawn_blocking;

use crate::{
    BLOCK_SIZE, BlockRange, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    index::{Index, Mapping, Target},
    types::MapId,
};

/// The lowest layer of a disk. What it does not cover reads as zeros.
#[derive(Debug)]
pub enum Base {
    /// Nothing: zeros.
    Empty,
    /// A checkpoint in a store.
    Index(IndexBase),
    /// A disk that is being ingested.
    Source(Arc<dyn BaseSource>),
}

/// A disk that can be read at once while it is ingested in the background.
///
/// **Errors**: if the source may have changed since it was taken on, every read is an error, never a mix
/// of old and new bytes. **Blocking**: all methods may wait for the disk but `try_read`.
pub trait BaseSource: Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> u64;
    /// Reads if that needs no disk; within the size.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>>;
    /// Reads, within the size.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// Whether the first byte of a range is in a hole, and where that ends, at most `end`.
    fn first_run(&self, start: u64, end: u64) -> Result<(bool, u64)>;
    /// `Conflict` if the source may have changed since it was taken on.
    fn check(&self) -> Result<()>;
}

impl Base {
    /// Reads if that needs no waiting. `None` leaves `buf` as it may be.
    pub(super) fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let (head, tail) = self.split(offset, buf);
        tail.fill(0);
        match self {
            _ if head.is_empty() => Some(Ok(())),
            Self::Empty => Some(Ok(())),
            Self::Index(base) => base.try_read(offset, head),
            Self::Source(source) => source.try_read(offset, head),
        }
    }

    /// Reads.
    pub(super) async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (head, tail) = self.split(offset, buf);
        tail.fill(0);
        match self {
            _ if head.is_empty() => Ok(()),
            Self::Empty => Ok(()),
            Self::Index(base) => base.read(offset, head).await,
            Self::Source(source) => {
                let (source, mut bytes) = (Arc::clone(source), vec![0; head.len()]);
                let bytes = spawn_blocking(move || source.read(offset, &mut bytes).map(|()| bytes))
                    .await
                    .map_err(|e| Error::with_source(ErrorKind::Unavailable, "a read died", e))??;
                head.copy_from_slice(&bytes);
                Ok(())
            }
        }
    }

    /// Whether the first block of a range is known to be zero, and one past the last block of which that
    /// is true.
    pub(super) async fn first_run(&self, range: BlockRange) -> Result<(bool, u64)> {
        let inside = range.intersect(&BlockRange::new(0, crate::types::blocks_for(self.size())));
        if inside.is_empty() {
            return Ok((true, range.end));
        }
        match self {
            Self::Empty => Ok((true, range.end)),
            Self::Index(base) => {
                let found = base.index.find(inside).await?;
                Ok((found.target.is_none(), found.range.end))
            }
            Self::Source(source) => {
                let (source, block) = (Arc::clone(source), BLOCK_SIZE as u64);
                let size = source.size();
                let (hole, end) = spawn_blocking(move || {
                    source.first_run(inside.start * block, (inside.end * block).min(size))
                })
                .await
                .map_err(|e| Error::with_source(ErrorKind::Unavailable, "a look-up died", e))??;
                // A hole that ends inside a block leaves that block data; data that does, too.
                let end = if hole && end < size { end / block } else { end.div_ceil(block) };
                if hole && end > inside.start {
                    Ok((true, end))
                } else {
                    Ok((false, end.max(inside.start + 1)))
                }
            }
        }
    }

    fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Index(base) => base.index.blocks() * BLOCK_SIZE as u64,
            Self::Source(source) => source.size(),
        }
    }

    /// The part of a read that the base covers, and the part behind its end.
    fn split<'a>(&self, offset: u64, buf: &'a mut [u8]) -> (&'a mut [u8], &'a mut [u8]) {
        let covered = self.size().saturating_sub(offset).min(buf.len() as u64);
        buf.split_at_mut(covered as usize)
    }
}

/// Content by index: a checkpoint's disk.
#[derive(Clone, Debug)]
pub struct IndexBase {
    index: Index,
    chunks: Arc<dyn ChunkStore>,
    /// Maps of its image, newest first: where the store may find the chunks.
    maps: Arc<[MapId]>,
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
        Self { index, chunks, maps: Arc::default() }
    }

    /// The same disk, with the maps of an image that has it, newest first: hints for a store that is far away.
    #[must_use]
    pub fn with_maps(self, maps: &[MapId]) -> Self {
        Self { maps: maps.into(), ..self }
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Reads if all of it is in memory.
    pub fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
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
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let found = self.index.find(BlockRange::covering(at, (buf.len() - done) as u64)).await?;
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
                }
            }
            done += len;
        }
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
