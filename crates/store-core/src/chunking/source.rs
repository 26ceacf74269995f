//! Turning a disk, read from its start, into segments of cut data and zeros.

use std::mem;

use bytes::Bytes;

use super::{Cutter, Piece};
use crate::{
    BLOCK_SIZE, BlockRange, Error, Result,
    types::{MAX_CHUNK_LEN, MAX_DISK_SIZE},
};

/// Bytes cut at a time: what is read, and what was left of the last time.
const BUFFER_LEN: usize = 2 * 1024 * 1024 + MAX_CHUNK_LEN;
/// Up to this many bytes a segment gets a copy, and the buffer is kept: scattered blocks are small.
const COPY_MAX: usize = 256 * 1024;

/// What a [`DiskSource`] has next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// This many bytes were put in the buffer, at least 1.
    Data(usize),
    /// This many bytes are zero, at least 1.
    Zero(u64),
    /// This many bytes, at least 1, are not to be touched. Whole blocks, unless the disk ends with it.
    Skip(u64),
    /// The disk has ended.
    End,
}

/// A disk that is read once, from its start. Methods may block.
pub trait DiskSource: Send {
    /// Size in bytes, if it is known before the end.
    fn size(&self) -> Option<u64>;

    /// What comes next; data goes to the front of `buf`, which is not empty. Zeros and skips begin where the
    /// last call ended; `Skip` only at a block's start.
    fn next(&mut self, buf: &mut [u8]) -> Result<Next>;
}

impl<S: DiskSource + ?Sized> DiskSource for Box<S> {
    fn size(&self) -> Option<u64> {
        (**self).size()
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        (**self).next(buf)
    }
}

/// A run of a disk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Whole blocks of data, cut into pieces; blocks in no piece are zero.
    Data {
        /// Block of the disk at the start of `bytes`.
        first: u64,
        /// The blocks; the disk's last one is filled up with zeros.
        bytes: Bytes,
        /// The chunks to be.
        pieces: Vec<Piece>,
    },
    /// Blocks that are zero.
    Zero(BlockRange),
}

impl Segment {
    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => (bytes.len() / BLOCK_SIZE) as u64,
            Self::Zero(range) => range.count(),
        }
    }
}

/// Reads a source to its end, segment by segment.
pub struct Segments<S> {
    source: S,
    cutter: Cutter,
    /// [`BUFFER_LEN`] bytes, of which the first `filled` are read and not yet cut; the first is that of
    /// block `first`. Empty before the first read.
    buffer: Vec<u8>,
    filled: usize,
    first: u64,
    /// A zero run met while data was waiting to be cut.
    pending: Option<Next>,
    /// Bytes of the disk so far.
    size: u64,
    ended: bool,
}

impl<S> std::fmt::Debug for Segments<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments")
            .field("cutter", &self.cutter)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

impl<S: DiskSource> Segments<S> {
    /// The segments of a source.
    pub fn new(source: S, cutter: Cutter) -> Self {
        Self { source, cutter, buffer: Vec::new(), filled: 0, first: 0, pending: None, size: 0, ended: false }
    }

    /// Bytes of the disk read so far; at the end, its size.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next segment; `None` at the end of the disk.
    pub fn next_segment(&mut self) -> Result<Option<Segment>> {
        loop {
            if let Some(next) = self.pending.take() {
                if let Some(segment) = self.pass_over(next)? {
                    return Ok(Some(segment));
                }
                continue;
            }
            if self.ended {
                return Ok(None);
            }
            let (next, contiguous) = self.fill()?;
            if !contiguous {
                self.pending = Some(next);
            }
            if let Some(segment) = self.cut(!contiguous) {
                return Ok(Some(segment));
            }
        }
    }

    /// Reads until the buffer is full (true) or the run of data has ended with something else (false).
    fn fill(&mut self) -> Result<(Next, bool)> {
        // What was left last time comes first, so that cuts don't depend on where reads ended.
        if self.buffer.is_empty() {
            self.buffer = vec![0; BUFFER_LEN];
        }
        while self.filled < self.buffer.len() {
            let next = self.source.next(&mut self.buffer[self.filled..])?;
            match next {
                Next::Data(read) => {
                    self.filled += read;
                    self.grow(read as u64)?;
                }
                Next::Zero(zeros) if !self.filled.is_multiple_of(BLOCK_SIZE) => {
                    // Zeros that begin inside a block fill it up as data.
                    let head = (BLOCK_SIZE - self.filled % BLOCK_SIZE)
                        .min(usize::try_from(zeros).unwrap_or(BLOCK_SIZE));
                    self.buffer[self.filled..self.filled + head].fill(0);
                    self.filled += head;
                    self.grow(head as u64)?;
                    if zeros > head as u64 {
                        return Ok((Next::Zero(zeros - head as u64), false));
                    }
                }
                other => return Ok((other, false)),
            }
        }
        Ok((Next::End, true))
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        match self.size.checked_add(bytes) {
            Some(size) if size <= MAX_DISK_SIZE => self.size = size,
            _ => return Err(Error::invalid(format!("the disk is larger than {MAX_DISK_SIZE} bytes"))),
        }
        Ok(())
    }

    /// Cuts what is in the buffer; all of it if the run has ended.
    fn cut(&mut self, run_ended: bool) -> Option<Segment> {
        let whole = if run_ended { self.filled.next_multiple_of(BLOCK_SIZE) } else { self.filled };
        debug_assert!(whole.is_multiple_of(BLOCK_SIZE) && whole <= self.buffer.len());
        self.buffer[self.filled..whole].fill(0);
        let mut pieces = Vec::new();
        let done = self.cutter.cut(&self.buffer[..whole], self.first, run_ended, &mut pieces) * BLOCK_SIZE;
        let range = BlockRange::new(self.first, self.first + (done / BLOCK_SIZE) as u64);
        self.first = range.end;
        self.filled = whole - done;
        let segment = if range.is_empty() {
            return None;
        } else if pieces.is_empty() {
            Segment::Zero(range)
        } else if done <= COPY_MAX {
            Segment::Data { first: range.start, bytes: Bytes::copy_from_slice(&self.buffer[..done]), pieces }
        } else {
            let mut rest = vec![0; BUFFER_LEN];
            rest[..self.filled].copy_from_slice(&self.buffer[done..whole]);
            let mut bytes = mem::replace(&mut self.buffer, rest);
            bytes.truncate(done);
            return Some(Segment::Data { first: range.start, bytes: bytes.into(), pieces });
        };
        self.buffer.copy_within(done..whole, 0);
        Some(segment)
    }

    /// Goes past a run that is no data; nothing is waiting to be cut.
    fn pass_over(&mut self, next: Next) -> Result<Option<Segment>> {
        let (bytes, zero) = match next {
            Next::End | Next::Data(_) => {
                self.ended = true;
                return Ok(None);
            }
            Next::Skip(bytes) => (bytes, false),
            Next::Zero(bytes) => (bytes, true),
        };
        self.grow(bytes)?;
        let rest = (bytes % BLOCK_SIZE as u64) as usize;
        let range = BlockRange::new(self.first, self.first + bytes / BLOCK_SIZE as u64);
        self.first = range.end;
        if zero && rest > 0 {
            // A hole that ends inside a block: that block's start is data that happens to be zero.
            if self.buffer.is_empty() {
                self.buffer = vec![0; BUFFER_LEN];
            }
            self.buffer[..rest].fill(0);
            self.filled = rest;
        }
        Ok((zero && !range.is_empty()).then_some(Segment::Zero(range)))
    }
}
