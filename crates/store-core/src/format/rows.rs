//! Fixed-width rows in checksummed pages: what locators and image maps are made of.
//!
//! A page is [`PAGE_LEN`] bytes: a CRC32C of all that follows it, then as many whole rows as fit, then
//! zeros. Rows never cross pages, so that row `n` is found by division and one page read alone can be
//! checked alone. The last page of a section may hold fewer rows; the rest of it is zero.

use crate::{
    ChunkId, ChunkKind, Error, Result,
    format::{
        codec::Codec,
        pack,
        wire::{Reader, Writer, has_crc},
    },
    store::Placement,
    types::PackId,
};

/// Length of a page in bytes.
pub const PAGE_LEN: usize = 4096;
/// Bytes of a page that rows can use.
const PAGE_BODY: usize = PAGE_LEN - 4;
/// Offset of the kind in an encoded [`EntryRow`].
const KIND_AT: usize = ChunkId::LEN + 4 * 4;

/// An entry and its kind: what stores look entries up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// The id.
    pub id: ChunkId,
    /// The kind.
    pub kind: ChunkKind,
}

impl EntryKey {
    /// From its parts.
    pub const fn new(kind: ChunkKind, id: ChunkId) -> Self {
        Self { id, kind }
    }
}

/// An entry and where it lies; the pack is an index into a table of packs that stands beside the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// The entry.
    pub key: EntryKey,
    /// Index of its pack.
    pub pack: u32,
    /// Codec of the stored bytes.
    pub codec: Codec,
    /// Offset of the stored bytes in the pack.
    pub offset: u32,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Length of the decoded bytes.
    pub raw_len: u32,
}

impl EntryRow {
    /// Length when encoded: id 32, pack, offset, stored and raw length 4 each, kind, codec, two zeros.
    pub const LEN: usize = 52;
    /// Offset of the index of its pack when encoded.
    pub(crate) const PACK_AT: usize = ChunkId::LEN;

    /// The row of a placement whose pack has index `pack`. A placement no pack can have is `Invalid`.
    pub fn new(key: EntryKey, pack: u32, placement: &Placement) -> Result<Self> {
        pack::check_place(placement.offset, placement.stored_len, placement.raw_len, placement.codec)
            .map_err(|why| Error::invalid(format!("placement of entry {}: {why}", key.id)))?;
        Ok(Self {
            key,
            pack,
            codec: placement.codec,
            offset: u32::try_from(placement.offset).expect("checked against the longest pack"),
            stored_len: placement.stored_len,
            raw_len: placement.raw_len,
        })
    }

    /// The placement, given the table of packs.
    pub fn placement(&self, packs: &[PackId]) -> Result<Placement> {
        let pack = packs.get(self.pack as usize).ok_or_else(|| {
            Error::corrupt(format!(
                "entry {} names pack {} of a table of {}",
                self.key.id,
                self.pack,
                packs.len()
            ))
        })?;
        Ok(Placement {
            pack: *pack,
            offset: u64::from(self.offset),
            stored_len: self.stored_len,
            raw_len: self.raw_len,
            codec: self.codec,
        })
    }

    /// Appends the row.
    pub fn encode(&self, to: &mut Writer) {
        to.bytes(self.key.id.as_bytes())
            .u32(self.pack)
            .u32(self.offset)
            .u32(self.stored_len)
            .u32(self.raw_len)
            .u8(self.key.kind as u8)
            .u8(self.codec as u8)
            .u16(0);
    }

    /// Reads a row.
    pub fn decode(from: &mut Reader<'_>) -> Result<Self> {
        let id = ChunkId::from_bytes(from.array()?);
        let (pack, offset, stored_len, raw_len) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
        let (kind, codec) = (from.u8()?, from.u8()?);
        let kind = ChunkKind::from_byte(kind).ok_or_else(|| from.corrupt("unknown kind of entry"))?;
        let codec = Codec::from_byte(codec).ok_or_else(|| from.corrupt("unknown codec"))?;
        if from.u16()? != 0 {
            return Err(from.corrupt("reserved bytes of a row are not zero"));
        }
        pack::check_place(u64::from(offset), stored_len, raw_len, codec).map_err(|why| from.corrupt(why))?;
        Ok(Self { key: EntryKey { id, kind }, pack, codec, offset, stored_len, raw_len })
    }
}

/// Rows of `width` bytes that fit a page.
pub const fn rows_per_page(width: usize) -> usize {
    PAGE_BODY / width
}

/// Pages that `rows` rows of `width` bytes take.
pub const fn pages_for(rows: u64, width: usize) -> u64 {
    rows.div_ceil(rows_per_page(width) as u64)
}

/// Encodes rows of `width` bytes each, which stand one behind the other in `rows`, into pages.
pub(crate) fn encode_pages(rows: &[u8], width: usize, to: &mut Writer) {
    let per_page = rows_per_page(width) * width;
    for body in rows.chunks(per_page) {
        let start = to.len();
        let mut page = Writer::new();
        page.bytes(body);
        page.zeros(PAGE_BODY - body.len());
        let page = page.into_vec();
        to.u32(crc32c::crc32c(&page)).bytes(&page);
        debug_assert_eq!(to.len() - start, PAGE_LEN);
    }
}

/// The rows of a page that holds `count` of `width` bytes, once its checksum was checked. `what` names the
/// object in errors.
pub fn page_rows<'a>(what: &str, page: &'a [u8], count: usize, width: usize) -> Result<&'a [u8]> {
    let Some((crc, body)) = page.split_first_chunk::<4>().filter(|_| page.len() == PAGE_LEN) else {
        return Err(Error::corrupt(format!("{what}: a page of {} bytes instead of {PAGE_LEN}", page.len())));
    };
    if !has_crc(body, u32::from_le_bytes(*crc)) {
        return Err(Error::corrupt(format!("{what}: checksum of a page does not match")));
    }
    body.get(..count * width).ok_or_else(|| Error::corrupt(format!("{what}: {count} rows in one page")))
}

/// The row of an entry among sorted, encoded [`EntryRow`]s.
pub(crate) fn find_row<'a>(rows: &'a [u8], key: &EntryKey) -> Option<&'a [u8]> {
    let wanted = (&key.id.as_bytes()[..], key.kind as u8);
    let (mut start, mut end) = (0, rows.len() / EntryRow::LEN);
    while start < end {
        let middle = start.midpoint(end);
        let row = &rows[middle * EntryRow::LEN..][..EntryRow::LEN];
        match (&row[..ChunkId::LEN], row[KIND_AT]).cmp(&wanted) {
            std::cmp::Ordering::Less => start = middle + 1,
            std::cmp::Ordering::Greater => end = middle,
            std::cmp::Ordering::Equal => return Some(row),
        }
    }
    None
}

/// A fan-out over sorted ids: for every value of the first `bits` bits of an id, the number of rows whose
/// id begins with that value or a smaller one. One small table in memory narrows a search down to about
/// [`ROWS_PER_BUCKET`] rows, one page, whatever the number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FanOut {
    bits: u32,
    ends: Vec<u32>,
}

/// How many rows a bucket of a [`FanOut`] holds on average, at most (until the table has 2²⁰ buckets).
pub const ROWS_PER_BUCKET: u64 = 32;

impl FanOut {
    /// Bits of the table over `rows` rows: the least from 8 to 20 that leaves 32 rows per bucket.
    pub const fn bits_for(rows: u64) -> u32 {
        let mut bits = 8;
        while bits < 20 && rows > (ROWS_PER_BUCKET << bits) {
            bits += 1;
        }
        bits
    }

    /// Length in bytes of the encoded table over `rows` rows.
    pub const fn encoded_len(rows: u64) -> usize {
        4 << Self::bits_for(rows)
    }

    /// The table over sorted ids.
    pub fn build<'a>(ids: impl ExactSizeIterator<Item = &'a ChunkId>) -> Result<Self> {
        let mut counts = FanOutCounts::new(ids.len() as u64);
        for id in ids {
            counts.add(id)?;
        }
        Ok(counts.finish().1)
    }

    /// Appends the table.
    pub fn encode(&self, to: &mut Writer) {
        for end in &self.ends {
            to.u32(*end);
        }
    }

    /// Reads the table over `rows` rows.
    pub fn decode(from: &mut Reader<'_>, rows: u32) -> Result<Self> {
        let bits = Self::bits_for(u64::from(rows));
        let bytes = from.take(4 << bits)?;
        let ends: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if !ends.is_sorted() || ends.last() != Some(&rows) {
            return Err(from.corrupt("its fan-out table is not ascending up to the number of rows"));
        }
        Ok(Self { bits, ends })
    }

    /// Rows among which `id` must be, as start and end.
    pub fn rows_of(&self, id: &ChunkId) -> (u32, u32) {
        let bucket = bucket(id, self.bits);
        let start = if bucket == 0 { 0 } else { self.ends[bucket - 1] };
        (start, self.ends[bucket])
    }
}

/// Counts ids for a [`FanOut`] when their number is known only as a bound.
#[derive(Debug)]
pub(crate) struct FanOutCounts {
    bits: u32,
    counts: Vec<u32>,
    rows: u32,
}

impl FanOutCounts {
    pub(crate) fn new(most: u64) -> Self {
        let bits = FanOut::bits_for(most);
        Self { bits, counts: vec![0; 1 << bits], rows: 0 }
    }

    pub(crate) fn add(&mut self, id: &ChunkId) -> Result<()> {
        self.rows = self.rows.checked_add(1).ok_or_else(|| Error::invalid("too many rows for one table"))?;
        self.counts[bucket(id, self.bits)] += 1;
        Ok(())
    }

    /// The number of rows, and the table with as many buckets as that number asks for.
    pub(crate) fn finish(self) -> (u32, FanOut) {
        let bits = FanOut::bits_for(u64::from(self.rows)).min(self.bits);
        let mut sum = 0;
        let ends = self.counts.chunks(1 << (self.bits - bits)).map(|counts| {
            sum += counts.iter().sum::<u32>();
            sum
        });
        (self.rows, FanOut { bits, ends: ends.collect() })
    }
}

fn bucket(id: &ChunkId, bits: u32) -> usize {
    let [a, b, c, d, ..] = *id.as_bytes();
    (u32::from_be_bytes([a, b, c, d]) >> (32 - bits)) as usize
}
