//! Packs: immutable objects of many entries, self-describing from both ends.
//!
//! ```text
//! header │ entry header, stored bytes │ … │ table of contents, sorted │ trailer
//! ```
//!
//! A sealed pack opens by two reads: the trailer, then the table of contents. One that was cut off
//! before it was sealed is read by [`scan`]ning its entries. Nothing outside may refer to an entry
//! before the pack is sealed and durable.

use crate::{
    ChunkId, ChunkKind, Error, ErrorKind, Result,
    format::{
        codec::{Codec, Encoded, MAX_RAW_LEN},
        features::Features,
        rows::EntryKey,
        wire::{Reader, Writer, trusted},
    },
    types::PackId,
};

mod contents;

pub use contents::{Contents, Trailer};

const MAGIC: &[u8; 8] = b"GABIPACK";
/// Newest format version of packs this library knows.
pub const PACK_VERSION: u16 = 1;
/// Longest pack in bytes; every offset in one fits 32 bits with room to spare.
pub const MAX_PACK_LEN: u64 = 1 << 30;
/// Length of a pack's header in bytes.
pub const HEADER_LEN: usize = 8 + Features::LEN + PackId::LEN + 4;
/// Length of an entry's header in bytes.
pub const ENTRY_HEADER_LEN: usize = 48;
/// Flag of an entry: its stored bytes are followed by a nonce of 24 bytes and a tag of 16. Reserved for
/// encryption; readers of version 1 refuse it.
pub const FLAG_AEAD: u16 = 1;

/// Encodes the header of pack `id`.
pub fn encode_header(id: &PackId) -> Vec<u8> {
    let mut to = Writer::new();
    to.bytes(MAGIC);
    Features::version(PACK_VERSION).encode(&mut to);
    to.bytes(id.as_bytes());
    to.seal()
}

/// Reads a pack's header, the first [`HEADER_LEN`] bytes.
pub fn decode_header(bytes: &[u8]) -> Result<PackId> {
    let mut from = Reader::sealed("pack header", bytes)?;
    from.magic(MAGIC)?;
    Features::decode(&mut from, "the pack", PACK_VERSION)?;
    let id = PackId::from_bytes(from.array()?);
    from.finish()?;
    Ok(id)
}

/// What an entry's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// The entry.
    pub key: EntryKey,
    /// Codec of the stored bytes.
    pub codec: Codec,
    /// Length of the decoded bytes, at most [`MAX_RAW_LEN`].
    pub raw_len: u32,
    /// Length of the stored bytes, at most `raw_len`.
    pub stored_len: u32,
    flags: u16,
    crc: u32,
}

impl EntryHeader {
    /// The header of an encoded entry. One that no pack may hold is `Invalid`: stored longer than
    /// decoded, or longer than [`MAX_RAW_LEN`].
    pub fn new(key: EntryKey, entry: &Encoded) -> Result<Self> {
        let stored_len = u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX);
        check_lengths(stored_len, entry.raw_len, entry.codec)
            .map_err(|why| Error::invalid(format!("entry {} can't be stored: {why}", key.id)))?;
        let mut header =
            Self { key, codec: entry.codec, raw_len: entry.raw_len, stored_len, flags: 0, crc: 0 };
        header.crc = header.checksum(&entry.bytes);
        Ok(header)
    }

    fn fields(&self) -> [u8; ENTRY_HEADER_LEN - 4] {
        let mut fields = [0; ENTRY_HEADER_LEN - 4];
        fields[..32].copy_from_slice(self.key.id.as_bytes());
        fields[32] = self.key.kind as u8;
        fields[33] = self.codec as u8;
        // None of which this version sets.
        fields[34..36].copy_from_slice(&self.flags.to_le_bytes());
        fields[36..40].copy_from_slice(&self.raw_len.to_le_bytes());
        fields[40..].copy_from_slice(&self.stored_len.to_le_bytes());
        fields
    }

    fn checksum(&self, stored: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.fields()), stored)
    }

    /// The encoded header.
    pub fn encode(&self) -> [u8; ENTRY_HEADER_LEN] {
        let mut bytes = [0; ENTRY_HEADER_LEN];
        bytes[..ENTRY_HEADER_LEN - 4].copy_from_slice(&self.fields());
        bytes[ENTRY_HEADER_LEN - 4..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    /// Reads a header. Only [`check`](Self::check) tells whether it and the stored bytes are intact, and whether this
    /// version understands them.
    pub fn decode(bytes: &[u8; ENTRY_HEADER_LEN]) -> Result<Self> {
        let mut from = Reader::new("pack entry", bytes);
        let id = ChunkId::from_bytes(from.array()?);
        let (kind, codec, flags) = (from.u8()?, from.u8()?, from.u16()?);
        let (raw_len, stored_len, crc) = (from.u32()?, from.u32()?, from.u32()?);
        let kind = ChunkKind::from_byte(kind).ok_or_else(|| from.corrupt("unknown kind"))?;
        let codec = Codec::from_byte(codec).ok_or_else(|| from.corrupt("unknown codec"))?;
        check_lengths(stored_len, raw_len, codec).map_err(|why| from.corrupt(why))?;
        Ok(Self { key: EntryKey { id, kind }, codec, raw_len, stored_len, flags, crc })
    }

    /// Whether header and stored bytes can be used: `Corrupt` if the checksum over both does not hold, `Unsupported`
    /// if it does and the entry is of a newer kind.
    pub fn check(&self, stored: &[u8]) -> Result<()> {
        let sound = || trusted() || self.checksum(stored) == self.crc;
        if stored.len() != self.stored_len as usize || !sound() {
            return Err(Error::corrupt("its checksum does not match"));
        }
        if self.flags != 0 {
            let why = format!(
                "pack entry {} has flags {:#x} that this gabion lacks: use a newer gabion",
                self.key.id, self.flags
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        Ok(())
    }
}

/// Bounds of every entry, with the reason if they don't hold.
pub(crate) fn check_lengths(stored_len: u32, raw_len: u32, codec: Codec) -> Result<(), &'static str> {
    if raw_len as usize > MAX_RAW_LEN {
        Err("its length is above the limit")
    } else if stored_len > raw_len {
        Err("it is stored in more bytes than it has")
    } else if codec == Codec::None && stored_len != raw_len {
        Err("it is stored as it is, yet in another length")
    } else {
        Ok(())
    }
}

/// As [`check_lengths`], with the offset of the stored bytes.
pub(crate) fn check_place(
    offset: u64,
    stored_len: u32,
    raw_len: u32,
    codec: Codec,
) -> Result<(), &'static str> {
    check_lengths(stored_len, raw_len, codec)?;
    if offset < (HEADER_LEN + ENTRY_HEADER_LEN) as u64 || offset > MAX_PACK_LEN - u64::from(stored_len) {
        return Err("its offset can't be in a pack");
    }
    Ok(())
}

/// An entry of a pack, as its table of contents has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The entry.
    pub key: EntryKey,
    /// Codec of the stored bytes.
    pub codec: Codec,
    /// Offset of the stored bytes in the pack, behind the entry's header.
    pub offset: u64,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Length of the decoded bytes.
    pub raw_len: u32,
}

impl PackEntry {
    /// The entry of a header that stands at `at`.
    pub fn at(header: &EntryHeader, at: u64) -> Self {
        Self {
            key: header.key,
            codec: header.codec,
            offset: at + ENTRY_HEADER_LEN as u64,
            stored_len: header.stored_len,
            raw_len: header.raw_len,
        }
    }

    /// One past its last byte in the pack.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.stored_len)
    }
}

/// One step of a [`scan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// The entry, its offset counted from the start of the pack.
    pub entry: PackEntry,
    /// Its stored bytes.
    pub stored: &'a [u8],
}

/// Reads entries one behind the other from `bytes`, which stand at offset `at` of a pack, as long as they
/// are whole and intact. What follows the last of them is the table of contents of a sealed pack, or the
/// torn tail of another: an intact prefix is all that a scan promises.
pub fn scan(bytes: &[u8], at: u64) -> impl Iterator<Item = Scanned<'_>> {
    let mut rest = bytes;
    let mut at = at;
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<ENTRY_HEADER_LEN>()?;
        let header = EntryHeader::decode(head).ok()?;
        let (stored, behind) = behind.split_at_checked(header.stored_len as usize)?;
        header.check(stored).ok()?;
        let entry = PackEntry::at(&header, at);
        check_place(entry.offset, entry.stored_len, entry.raw_len, entry.codec).ok()?;
        rest = behind;
        at = entry.end();
        Some(Scanned { entry, stored })
    })
}

#[cfg(test)]
mod tests;
