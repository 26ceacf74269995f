//! Knows what every sector of a disk may hold after a crash: what was flushed, or something written since.
//!
//! Each write of a block is a *generation* of it, stamped into each of its sectors with the block's number. From
//! the stamps a sector tells which write it is from; a sector that is from no write of its place, from one that
//! a flush had already replaced, or from one that was never sent, is a broken promise.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const SECTORS: usize = BLOCK / SECTOR;

/// What one generation puts into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Stamped sectors.
    Data,
    /// Zeros, by TRIM or WRITE_ZEROES.
    Zeros,
}

#[derive(Clone, Debug)]
struct Block {
    /// By generation; generation 0 is the empty disk.
    history: Vec<Content>,
    acknowledged: usize,
    /// By sector: the oldest generation that a crash may leave there.
    durable: [usize; SECTORS],
}

/// The model of one disk. The owner keeps one request in flight per block.
#[derive(Debug)]
pub(crate) struct Oracle {
    blocks: Vec<Block>,
}

/// What was acknowledged at one moment, for a flush that begins after it.
#[derive(Debug)]
pub(crate) struct Moment(Vec<usize>);

impl Oracle {
    /// An empty disk of so many blocks.
    pub(crate) fn new(blocks: usize) -> Self {
        let block = Block { history: vec![Content::Zeros], acknowledged: 0, durable: [0; SECTORS] };
        Self { blocks: vec![block; blocks] }
    }

    /// A write of `block` is about to be sent; gives its generation.
    pub(crate) fn issue(&mut self, block: usize, content: Content) -> usize {
        let history = &mut self.blocks[block].history;
        history.push(content);
        history.len() - 1
    }

    /// The write was replied to.
    pub(crate) fn acknowledge(&mut self, block: usize, generation: usize) {
        self.blocks[block].acknowledged = generation;
    }

    /// The write is durable by itself (FUA).
    pub(crate) fn durable(&mut self, block: usize, generation: usize) {
        self.acknowledge(block, generation);
        self.blocks[block].durable = [generation; SECTORS];
    }

    /// To be taken before a FLUSH is sent.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.blocks.iter().map(|block| block.acknowledged).collect())
    }

    /// The FLUSH that was sent after `moment` was replied to.
    pub(crate) fn flushed(&mut self, moment: &Moment) {
        for (block, acknowledged) in self.blocks.iter_mut().zip(&moment.0) {
            for sector in &mut block.durable {
                *sector = (*sector).max(*acknowledged);
            }
        }
    }

    /// Judges the disk that is there after a crash, and takes it for the new truth: what it holds was read, so
    /// later crashes may not take it back once it is flushed.
    pub(crate) fn judge(&mut self, disk: &[u8]) -> Result<(), String> {
        assert_eq!(disk.len(), self.blocks.len() * BLOCK);
        let mut wrong = Vec::new();
        for (number, (block, bytes)) in self.blocks.iter_mut().zip(disk.chunks(BLOCK)).enumerate() {
            let newest = block.history.len() - 1;
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                let allowed = block.durable[index]..=newest;
                match generation_of(number, sector, &block.history, &allowed) {
                    Ok(generation) => block.durable[index] = generation,
                    Err(found) => {
                        wrong.push(format!("block {number} sector {index}: {found}, allowed {allowed:?}"));
                    }
                }
            }
            // A sector may have stayed old while its neighbours are new; from here on all count as replied to.
            block.acknowledged = block.durable.into_iter().min().unwrap_or_default();
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} sectors broke the promise, first:\n{}",
            wrong.len(),
            wrong[..wrong.len().min(8)].join("\n")
        ))
    }
}

/// The generation that a sector holds, if it is one of `allowed`.
fn generation_of(
    block: usize,
    sector: &[u8],
    history: &[Content],
    allowed: &RangeInclusive<usize>,
) -> Result<usize, String> {
    if sector.iter().all(|byte| *byte == 0) {
        // Zeros don't tell which of several zeroings they are from; the oldest is the weakest claim.
        let zeroing = allowed.clone().find(|generation| history[*generation] == Content::Zeros);
        return zeroing.ok_or_else(|| "zeros".to_owned());
    }
    let Some((stamped, generation)) = stamp_of(sector) else {
        return Err(format!("foreign bytes {:02x?}", &sector[..24]));
    };
    if stamped as usize != block {
        return Err(format!("bytes of block {stamped}"));
    }
    let generation = generation as usize;
    if !allowed.contains(&generation) || history[generation] != Content::Data {
        return Err(format!("generation {generation}"));
    }
    Ok(generation)
}

/// The bytes of a block: each sector repeats its block's number and `generation`, and its own index.
pub(crate) fn stamp(block: usize, generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    for sector in 0..SECTORS as u64 {
        let words = [block as u64 ^ MARK, generation, sector];
        for at in 0..SECTOR / 8 {
            bytes.extend(words[at % 3].to_le_bytes());
        }
    }
    bytes
}

/// Lets no stamp be all zeros.
const MARK: u64 = 0x6761_6269_6f6e_0000_u64.rotate_left(16);

/// Block and generation of a sector that is one whole stamp.
pub(crate) fn stamp_of(sector: &[u8]) -> Option<(u64, u64)> {
    let words: Vec<u64> = sector
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    let whole = words.iter().enumerate().all(|(at, word)| *word == words[at % 3]);
    whole.then(|| (words[0] ^ MARK, words[1]))
}

/// Blocks written one after the other, so that any point in time is a prefix of the writes.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    /// Every write: which block it went to. Write n is stamped with n + 1.
    writes: Vec<usize>,
}

impl Prefix {
    /// The next write goes to `block`; gives its stamp.
    pub(crate) fn issue(&mut self, block: usize) -> u64 {
        self.writes.push(block);
        self.writes.len() as u64
    }

    /// Writes sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.writes.len() as u64
    }

    /// Judges a disk that was taken at one point in time, when at least `least` writes had been replied to. The
    /// last write that it holds is given back.
    pub(crate) fn judge(&self, disk: &[u8], least: u64) -> Result<u64, String> {
        let stamps: Vec<u64> =
            disk.chunks(SECTOR).filter_map(stamp_of).map(|(_, generation)| generation).collect();
        let last = stamps.into_iter().max().unwrap_or(0);
        if last < least || last > self.sent() {
            return Err(format!("holds write {last}, but {least} to {} were possible", self.sent()));
        }
        let mut expected = BTreeMap::new();
        for (at, block) in self.writes[..last as usize].iter().enumerate() {
            expected.insert(*block, at as u64 + 1);
        }
        for (number, bytes) in disk.chunks(BLOCK).enumerate() {
            let right = match expected.get(&number) {
                Some(generation) => bytes == stamp(number, *generation),
                None => bytes.iter().all(|byte| *byte == 0),
            };
            if !right {
                let found = stamp_of(&bytes[..SECTOR]);
                let wanted = expected.get(&number);
                return Err(format!("at write {last}, block {number} holds {found:?}, not write {wanted:?}"));
            }
        }
        Ok(last)
    }
}
