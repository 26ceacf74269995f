//! The bytes of a segment: `docs/format.md`, *Disk cache*.
//!
//! Entries are found by the table at the end of a full segment; in one that was not finished, by walking from
//! entry to entry. Neither vouches for an entry's bytes: [`Head::matches`] does, at every read.

use gabion_store_core::{
    ChunkId, ChunkKind, Error, Result,
    format::{
        codec::MAX_RAW_LEN,
        features::Features,
        wire::{Reader, Writer, has_crc},
    },
};

use crate::fs::{FsFile, FsFileExt as _};

/// Version of the cache's format. A cache of another version is discarded.
const VERSION: u16 = 1;
const MAGIC: &[u8; 8] = b"GABICACH";
const TABLE_MAGIC: &[u8; 8] = b"GABICTAB";
const WHAT: &str = "segment of the disk cache";

/// Bytes before a segment's first entry.
pub(super) const HEADER_LEN: usize = 8 + Features::LEN + 4 + 4;
/// Bytes of an entry before its content.
pub(super) const HEAD_LEN: usize = 48;
/// Bytes of a row of the table.
pub(super) const ROW_LEN: usize = ChunkId::LEN + 4 + 4 + 4;
/// Bytes behind the table.
pub(super) const TRAILER_LEN: usize = 8 + 4 + 4 + 4 + 4 + 4;
/// Longest segment: offsets fit 32 bits with room to spare.
pub(super) const MAX_SEGMENT_LEN: u64 = 1 << 31;

/// An entry and where its head stands in the segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) kind: ChunkKind,
    pub(super) id: ChunkId,
    pub(super) offset: u32,
    pub(super) len: u32,
}

impl Row {
    /// One past the entry's last byte.
    fn end(&self) -> u64 {
        u64::from(self.offset) + HEAD_LEN as u64 + u64::from(self.len)
    }
}

/// What stands before an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    kind: ChunkKind,
    id: ChunkId,
    len: u32,
    crc: u32,
}

impl Head {
    /// The head of an entry of at most [`MAX_RAW_LEN`] bytes.
    pub(super) fn new(kind: ChunkKind, id: ChunkId, content: &[u8]) -> Self {
        debug_assert!(content.len() <= MAX_RAW_LEN);
        Self { kind, id, len: content.len() as u32, crc: crc32c::crc32c(content) }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(self.id.as_bytes()).u8(self.kind as u8).zeros(3).u32(self.len).u32(self.crc);
        to.seal()
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        let id = ChunkId::from_bytes(from.array()?);
        let kind = kind_of(&mut from)?;
        let (len, crc) = (from.u32()?, from.u32()?);
        if len as usize > MAX_RAW_LEN {
            return Err(from.corrupt("an entry is longer than any can be"));
        }
        from.finish()?;
        Ok(Self { kind, id, len, crc })
    }

    /// Whether `bytes`, head and content, are this entry, every bit of it.
    pub(super) fn matches(kind: ChunkKind, id: &ChunkId, bytes: &[u8]) -> bool {
        bytes.split_at_checked(HEAD_LEN).is_some_and(|(head, content)| {
            // Compared whole, checksum of the content included.
            content.len() <= MAX_RAW_LEN && Self::new(kind, *id, content).encode() == head
        })
    }
}

/// What `bytes`, head and content, are, if they are one whole entry.
pub(super) fn entry_of(bytes: &[u8]) -> Option<(ChunkKind, ChunkId)> {
    let head = Head::decode(bytes.get(..HEAD_LEN)?).ok()?;
    Head::matches(head.kind, &head.id, bytes).then_some((head.kind, head.id))
}

fn kind_of(from: &mut Reader<'_>) -> Result<ChunkKind> {
    let [kind, zeros @ ..] = from.array::<4>()?;
    match ChunkKind::from_byte(kind) {
        Some(kind) if zeros == [0; 3] => Ok(kind),
        _ => Err(from.corrupt("unknown kind of entry")),
    }
}

/// The first bytes of segment `number`.
pub(super) fn header(number: u32) -> Vec<u8> {
    let mut to = Writer::new();
    to.bytes(MAGIC);
    Features::version(VERSION).encode(&mut to);
    to.u32(number);
    to.seal()
}

/// The last bytes of segment `number`, whose entries end at `offset`.
pub(super) fn table(number: u32, rows: &[Row], offset: u32) -> Vec<u8> {
    let mut table = Writer::new();
    for row in rows {
        table.bytes(row.id.as_bytes()).u8(row.kind as u8).zeros(3).u32(row.offset).u32(row.len);
    }
    let mut table = table.into_vec();
    let mut trailer = Writer::new();
    trailer.bytes(TABLE_MAGIC).u32(number).u32(offset).count(rows.len()).u32(crc32c::crc32c(&table));
    table.extend(trailer.seal());
    table
}

/// What a segment that was written earlier holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) rows: Vec<Row>,
    /// One past the last entry.
    pub(super) end: u64,
    /// Whether it ends with its table; otherwise it may be gone on with.
    pub(super) full: bool,
}

/// Reads what segment `number` holds. `Corrupt` or `Unsupported` if it is not that, or of another version.
pub(super) fn contents(file: &dyn FsFile, number: u32) -> Result<Contents> {
    let io = |e| Error::io(WHAT, e);
    let len = file.len().map_err(io)?;
    if len < HEADER_LEN as u64 || len > MAX_SEGMENT_LEN {
        return Err(Error::corrupt(format!("{WHAT}: a length of {len}")));
    }
    let mut bytes = [0; HEADER_LEN];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    check_header(&bytes, number)?;
    match read_table(file, number, len) {
        Ok((rows, end)) => Ok(Contents { rows, end, full: true }),
        Err(e) if e.kind() == gabion_store_core::ErrorKind::Corrupt => walk(file, len).map_err(io),
        Err(e) => Err(e),
    }
}

fn check_header(bytes: &[u8], number: u32) -> Result<()> {
    let mut from = Reader::sealed(WHAT, bytes)?;
    from.magic(MAGIC)?;
    let features = Features::decode(&mut from, WHAT, VERSION)?;
    features.check_write(WHAT)?;
    if from.u32()? != number {
        return Err(from.corrupt("it has another segment's name"));
    }
    from.finish()
}

fn read_table(file: &dyn FsFile, number: u32, len: u64) -> Result<(Vec<Row>, u64)> {
    let io = |e| Error::io(WHAT, e);
    let missing = || Error::corrupt(format!("{WHAT}: no table"));
    let at = len.checked_sub(TRAILER_LEN as u64).ok_or_else(missing)?;
    let mut trailer = [0; TRAILER_LEN];
    file.read_exact_at(&mut trailer, at).map_err(io)?;
    let mut from = Reader::sealed(WHAT, &trailer)?;
    from.magic(TABLE_MAGIC)?;
    let (its_number, offset, count, crc) = (from.u32()?, u64::from(from.u32()?), from.u32()?, from.u32()?);
    let table_len = u64::from(count) * ROW_LEN as u64;
    // With the lengths adding up, the table is no longer than the file.
    if its_number != number || offset < HEADER_LEN as u64 || offset.checked_add(table_len) != Some(at) {
        return Err(from.corrupt("its table is another's"));
    }
    let mut table = vec![0; table_len as usize];
    file.read_exact_at(&mut table, offset).map_err(io)?;
    if !has_crc(&table, crc) {
        return Err(from.corrupt("checksum of its table does not match"));
    }
    let mut from = Reader::new(WHAT, &table);
    let mut rows = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = ChunkId::from_bytes(from.array()?);
        let kind = kind_of(&mut from)?;
        let row = Row { kind, id, offset: from.u32()?, len: from.u32()? };
        if (row.offset as usize) < HEADER_LEN || row.len as usize > MAX_RAW_LEN || row.end() > offset {
            return Err(from.corrupt("an entry lies outside"));
        }
        rows.push(row);
    }
    Ok((rows, offset))
}

/// Entries one behind the other, up to what is none.
fn walk(file: &dyn FsFile, len: u64) -> std::io::Result<Contents> {
    let (mut rows, mut end) = (Vec::new(), HEADER_LEN as u64);
    while end + HEAD_LEN as u64 <= len {
        let mut bytes = [0; HEAD_LEN];
        file.read_exact_at(&mut bytes, end)?;
        let Ok(head) = Head::decode(&bytes) else { break };
        let row = Row { kind: head.kind, id: head.id, offset: end as u32, len: head.len };
        if row.end() > len {
            break;
        }
        end = row.end();
        rows.push(row);
    }
    Ok(Contents { rows, end, full: false })
}

#[cfg(test)]
mod tests;
