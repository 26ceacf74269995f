//! Blocks and ranges, in arithmetic that can't overflow.

use crate::{Error, Result};

/// The unit in which disks are mapped, in bytes.
pub const BLOCK_SIZE: usize = 4096;
/// Most blocks in a chunk.
pub const MAX_CHUNK_BLOCKS: usize = 32;
/// Most bytes in a chunk.
pub const MAX_CHUNK_LEN: usize = MAX_CHUNK_BLOCKS * BLOCK_SIZE;
/// Largest disk, in bytes: offsets stay within `i64`, as file offsets and NBD clients need.
pub const MAX_DISK_SIZE: u64 = (i64::MAX as u64) & !(BLOCK_SIZE as u64 - 1);

/// Number of blocks that hold `bytes` bytes; the last may be partly used.
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE as u64)
}

/// Whether `offset..offset + length` lies within `size`, without ever adding the two.
pub fn check_range(offset: u64, length: u64, size: u64) -> Result<()> {
    if offset > size || length > size - offset {
        return Err(Error::invalid(format!(
            "range of {length} bytes at {offset} is outside the disk of {size} bytes"
        )));
    }
    Ok(())
}

/// A run of blocks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRange {
    /// First block.
    pub start: u64,
    /// One past the last block.
    pub end: u64,
}

impl BlockRange {
    /// From first to one past the last block. An inverted pair is empty.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end: if end < start { start } else { end } }
    }

    /// Number of blocks.
    pub const fn count(&self) -> u64 {
        self.end - self.start
    }

    /// Whether there is no block in it.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// All blocks that a byte range touches. The caller has checked the range against a disk's size.
    pub const fn covering(offset: u64, length: u64) -> Self {
        Self::new(offset / BLOCK_SIZE as u64, blocks_for(offset.saturating_add(length)))
    }

    /// The blocks that lie wholly in a byte range. A partial last block of the disk counts as whole when
    /// the range reaches the disk's `size`, since nothing else can be in it.
    pub const fn within(offset: u64, length: u64, size: u64) -> Self {
        let end = offset.saturating_add(length);
        let last = if end == size { blocks_for(end) } else { end / BLOCK_SIZE as u64 };
        Self::new(blocks_for(offset), last)
    }

    /// What both ranges hold.
    pub const fn intersect(&self, other: &Self) -> Self {
        let start = if self.start > other.start { self.start } else { other.start };
        let end = if self.end < other.end { self.end } else { other.end };
        Self::new(start, end)
    }

    /// First byte.
    pub const fn byte_start(&self) -> u64 {
        self.start * BLOCK_SIZE as u64
    }

    /// Length in bytes.
    pub const fn byte_len(&self) -> u64 {
        self.count() * BLOCK_SIZE as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_overflow() {
        assert!(check_range(0, u64::MAX, 10).is_err());
        assert!(check_range(u64::MAX, 1, 10).is_err());
        assert!(check_range(10, 0, 10).is_ok());
        assert!(check_range(4, 6, 10).is_ok());
    }

    #[test]
    fn covering_and_within_differ_at_partial_edges() {
        assert_eq!(BlockRange::covering(1, 4096), BlockRange::new(0, 2));
        assert_eq!(BlockRange::within(1, 4096, 1 << 20), BlockRange::new(1, 1));
        assert_eq!(BlockRange::within(0, 4096, 1 << 20), BlockRange::new(0, 1));
        // The disk ends in the middle of block 1: a range up to the end covers it whole.
        assert_eq!(BlockRange::within(4096, 512, 4608), BlockRange::new(1, 2));
    }
}
