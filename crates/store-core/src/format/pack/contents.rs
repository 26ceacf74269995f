//! The table of contents and the trailer that seal a pack.

use crate::{
    ChunkId, ChunkKind, Error, Result,
    format::{
        codec::Codec,
        rows::EntryKey,
        wire::{Reader, Writer, has_crc},
    },
    types::PackId,
};

use super::{ENTRY_HEADER_LEN, HEADER_LEN, MAX_PACK_LEN, PackEntry, check_place};

const MAGIC: &[u8; 8] = b"GABITAIL";
/// Length of a row of the table: id 32, offset 8, stored and raw length 4 each, kind, codec, two zeros.
const ROW_LEN: usize = 52;

/// The last bytes of a sealed pack: they say where its table of contents is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The pack.
    pub pack: PackId,
    /// Offset of the table, which is the end of the entries.
    pub contents_at: u64,
    /// Number of entries.
    pub count: u32,
    crc: u32,
}

impl Trailer {
    /// Length in bytes.
    pub const LEN: usize = 8 + PackId::LEN + 8 + 4 + 4 + 4;

    /// Reads the last [`Trailer::LEN`] bytes of a pack of `pack_len` bytes in all.
    pub fn decode(bytes: &[u8], pack_len: u64) -> Result<Self> {
        let mut from = Reader::sealed("pack trailer", bytes)?;
        from.magic(MAGIC)?;
        let pack = PackId::from_bytes(from.array()?);
        let (contents_at, count, crc) = (from.u64()?, from.u32()?, from.u32()?);
        let trailer = Self { pack, contents_at, count, crc };
        let least = HEADER_LEN as u64 + u64::from(count) * ENTRY_HEADER_LEN as u64;
        if contents_at < least || contents_at > MAX_PACK_LEN {
            return Err(from.corrupt(format_args!("{count} entries can't end at {contents_at}")));
        }
        if contents_at + trailer.contents_len() as u64 + Self::LEN as u64 != pack_len {
            return Err(from.corrupt(format_args!("it does not fit a pack of {pack_len} bytes")));
        }
        from.finish()?;
        Ok(trailer)
    }

    /// Length of the table in bytes, at most the pack's.
    pub fn contents_len(&self) -> usize {
        self.count as usize * ROW_LEN
    }

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC).bytes(self.pack.as_bytes()).u64(self.contents_at).u32(self.count).u32(self.crc);
        to.seal()
    }
}

/// The table of contents of a pack: its entries, sorted by id and kind, no two alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    entries: Vec<PackEntry>,
}

impl Contents {
    /// The table of entries that were appended to a pack in this order. Not one behind the other, or one
    /// twice, is `Invalid`.
    pub fn new(mut entries: Vec<PackEntry>) -> Result<Self> {
        entries.sort_unstable_by_key(|entry| entry.key);
        let contents = Self { entries };
        contents.check(contents.entries_end()).map_err(Error::invalid)?;
        Ok(contents)
    }

    /// The entries, sorted.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// Where an entry lies.
    pub fn find(&self, key: &EntryKey) -> Option<&PackEntry> {
        let at = self.entries.binary_search_by_key(key, |entry| entry.key).ok()?;
        Some(&self.entries[at])
    }

    fn entries_end(&self) -> u64 {
        self.entries.iter().map(PackEntry::end).max().unwrap_or(HEADER_LEN as u64)
    }

    /// Entries must be sorted, and must cover everything from the header to `end` exactly once.
    fn check(&self, end: u64) -> Result<(), &'static str> {
        if !self.entries.is_sorted_by(|a, b| a.key < b.key) {
            return Err("entries of a pack are out of order or twice there");
        }
        let mut places: Vec<(u64, u64)> = Vec::with_capacity(self.entries.len());
        for entry in &self.entries {
            check_place(entry.offset, entry.stored_len, entry.raw_len, entry.codec)?;
            places.push((entry.offset - ENTRY_HEADER_LEN as u64, entry.end()));
        }
        places.sort_unstable();
        let mut at = HEADER_LEN as u64;
        for (start, stop) in places {
            if start != at {
                return Err("entries of a pack overlap or leave gaps");
            }
            at = stop;
        }
        if at == end { Ok(()) } else { Err("entries of a pack don't end where its contents begin") }
    }

    /// The bytes that seal pack `id` when they stand right behind its last entry: table and trailer.
    pub fn seal(&self, id: PackId) -> Vec<u8> {
        let mut to = Writer::new();
        for entry in &self.entries {
            to.bytes(entry.key.id.as_bytes())
                .u64(entry.offset)
                .u32(entry.stored_len)
                .u32(entry.raw_len)
                .u8(entry.key.kind as u8)
                .u8(entry.codec as u8)
                .u16(0);
        }
        let mut bytes = to.into_vec();
        let count = u32::try_from(self.entries.len()).expect("the longest pack holds fewer entries");
        let trailer =
            Trailer { pack: id, contents_at: self.entries_end(), count, crc: crc32c::crc32c(&bytes) };
        bytes.extend_from_slice(&trailer.encode());
        bytes
    }

    /// Reads the table that `trailer` describes.
    pub fn decode(bytes: &[u8], trailer: &Trailer) -> Result<Self> {
        let mut from = Reader::new("table of contents of a pack", bytes);
        if bytes.len() != trailer.contents_len() || !has_crc(bytes, trailer.crc) {
            return Err(from.corrupt("checksum does not match"));
        }
        let mut entries = Vec::with_capacity(trailer.count as usize);
        for _ in 0..trailer.count {
            let id = ChunkId::from_bytes(from.array()?);
            let (offset, stored_len, raw_len) = (from.u64()?, from.u32()?, from.u32()?);
            let (kind, codec, reserved) = (from.u8()?, from.u8()?, from.u16()?);
            let kind = ChunkKind::from_byte(kind).ok_or_else(|| from.corrupt("unknown kind"))?;
            let codec = Codec::from_byte(codec).ok_or_else(|| from.corrupt("unknown codec"))?;
            if reserved != 0 {
                return Err(from.corrupt("reserved bytes are not zero"));
            }
            entries.push(PackEntry { key: EntryKey { id, kind }, codec, offset, stored_len, raw_len });
        }
        let contents = Self { entries };
        contents.check(trailer.contents_at).map_err(|why| from.corrupt(why))?;
        Ok(contents)
    }
}
