//! Bytes of a journal: the header, batches of runs, and how much space they may take.

use std::ops::ControlFlow;

use gabion_store_core::{
    BlockRange, Error, Result,
    format::{
        features::Features,
        wire::{Reader, Writer},
    },
    overlay::{BlockState, BlockStates},
};

/// Batches begin on multiples of this many bytes: what a disk writes whole.
pub(super) const SECTOR: u64 = 512;
/// Bytes of the header, padded.
pub(super) const HEADER_LEN: u64 = SECTOR;
/// Bytes of a batch before its payload.
pub(super) const BATCH_HEAD_LEN: usize = 40;
/// Longest payload in bytes: what recovery has to hold. A larger flush takes several batches.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;
/// Newest version of the journal that this library knows.
const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"GABNJRN\0";
const WHAT: &str = "the journal's header";
/// A batch whose payload is runs of blocks and their states. Other kinds are for later versions.
const KIND_RUNS: u8 = 1;
/// Most bytes of a run: two LEB128 numbers of at most 53 bits, as disks have less than 2^51 blocks.
const MAX_RUN: usize = 16;

/// Identity of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Random. Bytes of another journal, or of a guest, are never taken for a batch.
    pub(super) nonce: [u8; 16],
    /// The layer it belongs to.
    pub(super) layer: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(VERSION).encode(&mut to);
        to.bytes(&self.nonce).u64(self.layer);
        let mut bytes = to.seal();
        bytes.resize(HEADER_LEN as usize, 0);
        bytes
    }

    /// Reads the header's sector.
    pub(super) fn decode(sector: &[u8]) -> Result<Self> {
        const LEN: usize = 8 + Features::LEN + 16 + 8 + 4;
        let mut from = Reader::new(WHAT, sector);
        from.magic(MAGIC)?;
        Features::decode(&mut from, WHAT, VERSION)?.check_write(WHAT)?;
        let mut from = Reader::sealed(WHAT, sector.get(..LEN).unwrap_or(sector))?;
        from.take(MAGIC.len() + Features::LEN)?;
        let header = Self { nonce: from.array()?, layer: from.u64()? };
        if sector[LEN..].iter().any(|&byte| byte != 0) {
            return Err(from.corrupt("its padding is not zero"));
        }
        from.finish()?;
        Ok(header)
    }
}

/// What stands before a batch's payload, under a checksum of its own: finding one proves that a batch of
/// its sequence was begun, whatever became of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHead {
    pub(super) sequence: u64,
    pub(super) kind: u8,
    pub(super) payload_len: u32,
    pub(super) payload_crc: u32,
}

impl BatchHead {
    fn encode(&self, nonce: &[u8; 16]) -> Vec<u8> {
        let mut head = Writer::new();
        head.bytes(nonce).u64(self.sequence).u8(self.kind).bytes(&[0; 3]);
        head.u32(self.payload_len).u32(self.payload_crc);
        head.seal()
    }

    /// The head at the front of `bytes`, if there is one of this journal.
    pub(super) fn find(nonce: &[u8; 16], bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEAD_LEN)?;
        // Most sectors fail here, at the cost of one comparison.
        if !bytes.starts_with(nonce) {
            return None;
        }
        let mut from = Reader::sealed("a batch of the journal", bytes).ok()?;
        from.take(nonce.len()).ok()?;
        let (sequence, kind, reserved) = (from.u64().ok()?, from.u8().ok()?, from.array::<3>().ok()?);
        let (payload_len, payload_crc) = (from.u32().ok()?, from.u32().ok()?);
        (reserved == [0; 3]).then_some(Self { sequence, kind, payload_len, payload_crc })
    }

    /// Bytes from the batch's begin to the end of its payload.
    pub(super) fn end(&self) -> u64 {
        BATCH_HEAD_LEN as u64 + u64::from(self.payload_len)
    }

    /// Bytes from one batch's begin to the next one's.
    pub(super) fn stride(&self) -> u64 {
        self.end().next_multiple_of(SECTOR)
    }

    /// Whether this library can read the batch, if its payload is whole.
    pub(super) fn check(&self) -> Result<()> {
        if self.kind != KIND_RUNS {
            return Err(Error::new(
                gabion_store_core::ErrorKind::Unsupported,
                format!("the journal has batches of kind {}: use a newer gabion", self.kind),
            ));
        }
        if self.payload_len as usize > MAX_PAYLOAD {
            return Err(Error::corrupt(format!(
                "batch {} claims {} bytes, more than any has",
                self.sequence, self.payload_len
            )));
        }
        Ok(())
    }
}

/// Batches that say all of `states`, numbered from `sequence` on. None if there is nothing.
pub(super) fn encode_batches(header: &Header, mut sequence: u64, states: &BlockStates) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut payload = Vec::new();
    let mut last = 0;
    let mut close = |payload: &mut Vec<u8>| {
        batches.push(encode_batch(&header.nonce, sequence, payload));
        payload.clear();
        sequence += 1;
    };
    states.visit(BlockRange::new(0, states.blocks()), |run, state| {
        if payload.len() > MAX_PAYLOAD - MAX_RUN {
            close(&mut payload);
            last = 0;
        }
        let data = u64::from(state == BlockState::Data);
        put_varint(run.start - last, &mut payload);
        put_varint((run.count() - 1) << 1 | data, &mut payload);
        last = run.end;
        ControlFlow::Continue(())
    });
    if !payload.is_empty() {
        close(&mut payload);
    }
    batches
}

fn encode_batch(nonce: &[u8; 16], sequence: u64, payload: &[u8]) -> Vec<u8> {
    let head = BatchHead {
        sequence,
        kind: KIND_RUNS,
        payload_len: payload.len() as u32,
        payload_crc: crc32c::crc32c(payload),
    };
    let mut batch = head.encode(nonce);
    batch.extend_from_slice(payload);
    batch.resize(head.stride() as usize, 0);
    batch
}

/// Enters the runs of a payload whose checksum was right into `states`.
pub(super) fn apply_payload(payload: &[u8], states: &mut BlockStates) -> Result<()> {
    let mut rest = payload;
    let (mut last, mut last_state) = (0u64, BlockState::Base);
    while !rest.is_empty() {
        let (gap, marked) = (take_varint(&mut rest)?, take_varint(&mut rest)?);
        let count = (marked >> 1) + 1;
        let range = last
            .checked_add(gap)
            .and_then(|start| Some(BlockRange::new(start, start.checked_add(count)?)))
            .filter(|range| range.end <= states.blocks())
            .ok_or_else(|| Error::corrupt("it names blocks behind the end of the disk"))?;
        let state = if marked & 1 == 1 { BlockState::Data } else { BlockState::Zero };
        if gap == 0 && state == last_state {
            return Err(Error::corrupt("it cuts one run in two"));
        }
        states.set(range, state);
        (last, last_state) = (range.end, state);
    }
    Ok(())
}

/// LEB128: seven bits a byte, lowest first, the high bit says that more follow.
fn put_varint(mut value: u64, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn take_varint(from: &mut &[u8]) -> Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = from.split_first() else { break };
        *from = rest;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits || (byte == 0 && shift > 0) {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::corrupt("it has a malformed number"))
}

/// Most bytes that batches of so many runs take.
pub(in crate::overlay) fn room_for(runs: u64) -> u64 {
    if runs == 0 {
        return 0;
    }
    let payload = runs * MAX_RUN as u64;
    // All but the last batch are filled to within one run of the most a payload may have.
    let batches = payload / (MAX_PAYLOAD - MAX_RUN) as u64 + 1;
    payload + batches * (BATCH_HEAD_LEN as u64 + SECTOR)
}
