//! Boot traces: the blocks of a disk in the order in which they were first read. A hint: an object beside the
//! image maps, told from them by its magic.

use crate::{
    BlockRange, Error, Result,
    format::{
        features::Features,
        wire::{Reader, Writer},
    },
    types::{MAX_DISK_SIZE, MapId, blocks_for},
};

const MAGIC: &[u8; 8] = b"GABITRCE";
const WHAT: &str = "boot trace";
/// Newest format version of boot traces this library knows.
pub const BOOT_TRACE_VERSION: u16 = 1;
/// Longest encoded trace, in bytes.
pub const MAX_LEN: usize = 8 + Features::LEN + MapId::LEN + 4 + BootTrace::MAX_RUNS * 2 * 8 + 4;

/// Runs of blocks in the order of first touch: none empty, none twice, none going on where the one before it
/// ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootTrace(Vec<BlockRange>);

impl BootTrace {
    /// Most runs of a trace.
    pub const MAX_RUNS: usize = 65_536;

    /// A trace of these runs; `Invalid` if they break its rules.
    pub fn new(runs: Vec<BlockRange>) -> Result<Self> {
        check(&runs).map_err(|why| Error::invalid(format!("{WHAT}: {why}")))?;
        Ok(Self(runs))
    }

    /// The runs.
    pub fn runs(&self) -> &[BlockRange] {
        &self.0
    }

    /// Whether nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Blocks in all runs.
    pub fn blocks(&self) -> u64 {
        self.0.iter().map(BlockRange::count).sum()
    }

    /// Whether an object is a boot trace, or at least calls itself one.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MAGIC)
    }

    /// The bytes of the object `id`.
    pub fn encode(&self, id: MapId) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(BOOT_TRACE_VERSION).encode(&mut to);
        to.bytes(id.as_bytes()).count(self.0.len());
        for run in &self.0 {
            to.leb128(run.start).leb128(run.count());
        }
        to.seal()
    }

    /// Reads the object `id`; `Corrupt` if it is another.
    pub fn decode(id: MapId, bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_LEN {
            return Err(Error::corrupt(format!("{WHAT}: {} bytes, more than any has", bytes.len())));
        }
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the boot trace", BOOT_TRACE_VERSION)?;
        if from.array()? != *id.as_bytes() {
            return Err(from.corrupt("it is stored under another's name"));
        }
        let mut runs = Vec::new();
        for _ in 0..from.count(2)? {
            let (start, count) = (from.leb128()?, from.leb128()?);
            let end = start.checked_add(count).ok_or_else(|| from.corrupt("a run ends nowhere"))?;
            runs.push(BlockRange::new(start, end));
        }
        check(&runs).map_err(|why| from.corrupt(why))?;
        from.finish()?;
        Ok(Self(runs))
    }
}

fn check(runs: &[BlockRange]) -> Result<(), &'static str> {
    if runs.len() > BootTrace::MAX_RUNS {
        return Err("it has more than 65,536 runs");
    }
    if runs.iter().any(BlockRange::is_empty) {
        return Err("a run is empty");
    }
    if runs.iter().any(|run| run.end > blocks_for(MAX_DISK_SIZE)) {
        return Err("a run is beyond the end of any disk");
    }
    if runs.windows(2).any(|pair| pair[0].end == pair[1].start) {
        return Err("two runs are one");
    }
    let mut sorted = runs.to_vec();
    sorted.sort_unstable_by_key(|run| run.start);
    if sorted.windows(2).any(|pair| pair[0].end > pair[1].start) {
        return Err("a block is in it twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
