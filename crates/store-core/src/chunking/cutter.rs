//! Where cuts fall.
//!
//! The default is content-defined and block-aligned: each 4 KiB block is hashed cheaply and a cut follows
//! a block whose hash says so, so that the same run of blocks is cut the same way wherever it lies. A cut
//! never falls between equal neighbours: a run of one repeated block would else be a chunk per block.

use std::str::FromStr;

use crate::{BLOCK_SIZE, Error, Result, types::MAX_CHUNK_BLOCKS};

/// Before this many blocks a block ends a chunk with a chance of one in [`EARLY`], from then on of one in
/// [`LATE`] ("normalized chunking": Xia et al., FastCDC, USENIX ATC 2016, section 3.4). Chunk sizes lie closer
/// together than with one chance for all, so that a changed block costs less. Measured on a 1 GiB ext4 of
/// `/usr`, against one in 8 throughout: the image takes 1 % more, 3 % of its files edited in place add 15 %
/// less, the same files in a new file system 7 % less.
const NORMAL_BLOCKS: usize = 6;
const EARLY: u32 = 16;
const LATE: u32 = 4;

/// How content is cut into chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunking {
    /// Content-defined cuts: 4 KiB at least, some 30 KiB on average, 128 KiB at most.
    #[default]
    Content,
    /// A cut at each multiple of this many blocks of the disk.
    Fixed(usize),
}

impl FromStr for Chunking {
    type Err = Error;

    /// `content`, or `fixed:SIZE` with a size of 4K to 128K that is a power of two.
    fn from_str(text: &str) -> Result<Self> {
        let fixed = |size: &str| size.strip_suffix(['K', 'k'])?.parse::<usize>().ok();
        match text.strip_prefix("fixed:").map(fixed) {
            None if text == "content" => Ok(Self::Content),
            Some(Some(kib)) if (4..=128).contains(&kib) && kib.is_power_of_two() => Ok(Self::Fixed(kib / 4)),
            _ => Err(Error::invalid(format!(
                "chunker '{text}' is neither 'content' nor 'fixed:4K', 'fixed:8K' … 'fixed:128K'"
            ))),
        }
    }
}

/// A chunk to be: blocks of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First block, counted from the start of the buffer.
    pub first: usize,
    /// Number of blocks, at most [`MAX_CHUNK_BLOCKS`].
    pub blocks: usize,
}

/// Cuts buffers of whole blocks.
#[derive(Clone, Copy, Debug)]
pub struct Cutter(Chunking);

impl Cutter {
    /// A cutter of this kind.
    pub fn new(chunking: Chunking) -> Self {
        Self(chunking)
    }

    /// Cuts `data`, whose first block is block `at` of the disk, into pieces, leaving out zero blocks.
    ///
    /// Unless `last`, a final piece that more data could make longer is left in `data`: the return value is
    /// the number of blocks that are done, and the rest is to come again in front of what follows it.
    pub fn cut(&self, data: &[u8], at: u64, last: bool, pieces: &mut Vec<Piece>) -> usize {
        debug_assert_eq!(data.len() % BLOCK_SIZE, 0);
        let mut open: Option<Piece> = None;
        let mut before = None;
        for (number, block) in data.chunks_exact(BLOCK_SIZE).enumerate() {
            if is_zero(block) {
                pieces.extend(open.take());
                before = None;
                continue;
            }
            let hash = crc32c::crc32c(block);
            if let Some(piece) = open
                && (piece.blocks >= self.max() || self.cuts_between(&piece, before, hash, at))
            {
                pieces.extend(open.take());
            }
            let piece = open.get_or_insert(Piece { first: number, blocks: 0 });
            piece.blocks += 1;
            before = Some(hash);
        }
        match open {
            Some(piece) if !last => piece.first,
            _ => {
                pieces.extend(open);
                data.len() / BLOCK_SIZE
            }
        }
    }

    fn max(&self) -> usize {
        match self.0 {
            Chunking::Content => MAX_CHUNK_BLOCKS,
            Chunking::Fixed(blocks) => blocks,
        }
    }

    /// Whether a cut falls between the last block of `piece`, whose hash is `before`, and the next one.
    fn cuts_between(&self, piece: &Piece, before: Option<u32>, next: u32, at: u64) -> bool {
        match self.0 {
            Chunking::Content => {
                // A CRC is linear in its input; the product spreads that over the bits that decide.
                let spread = before.unwrap_or(0).wrapping_mul(0x9E37_79B1) >> 16;
                let one_in = if piece.blocks < NORMAL_BLOCKS { EARLY } else { LATE };
                before != Some(next) && spread < (1 << 16) / one_in
            }
            Chunking::Fixed(blocks) => {
                (at + (piece.first + piece.blocks) as u64).is_multiple_of(blocks as u64)
            }
        }
    }
}

/// Whether a block is all zero. Most blocks differ early, so the first words decide.
pub(super) fn is_zero(block: &[u8]) -> bool {
    let words = |part: &[u8]| part.chunks_exact(8).all(|word| word == [0; 8]);
    words(&block[..64])
        && block[64..].chunks_exact(64).all(|line| line.iter().fold(0, |or, byte| or | byte) == 0)
}
