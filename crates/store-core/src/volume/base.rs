//! What lies below a volume's layers: the index of a checkpoint, a source that is still being ingested, or
//! nothing.

use std::{fmt, sync::Arc};

use super::IndexBase;
use crate::{BLOCK_SIZE, BlockRange, Error, ErrorKind, Result, blocking::spawn_blocking};

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
                let found = base.index().find(inside).await?;
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
            Self::Index(base) => base.index().blocks() * BLOCK_SIZE as u64,
            Self::Source(source) => source.size(),
        }
    }

    /// The part of a read that the base covers, and the part behind its end.
    fn split<'a>(&self, offset: u64, buf: &'a mut [u8]) -> (&'a mut [u8], &'a mut [u8]) {
        let covered = self.size().saturating_sub(offset).min(buf.len() as u64);
        buf.split_at_mut(covered as usize)
    }
}
