//! Locators: sorted tables of entries and the packs they lie in.
//!
//! ```text
//! header │ directory: packs, fan-out │ zeros up to a page │ pages of rows, sorted by id and kind
//! ```
//!
//! A reader keeps header and directory in memory (an eighth of a byte per entry, 16 bytes per pack) and
//! reads the one or two pages that can hold an entry. Reading files is the store's business: this
//! module says which pages, and searches in one.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    Error, Result,
    format::{
        catalog::LocatorRef,
        features::Features,
        rows::{self, EntryKey, EntryRow, FanOut, FanOutCounts, PAGE_LEN},
        wire::{Reader, Writer, has_crc},
    },
    store::Placement,
    types::{LocatorId, PackId},
};

const MAGIC: &[u8; 8] = b"GABILOCT";
const WHAT: &str = "locator";
/// Newest format version of locators this library knows.
pub const LOCATOR_VERSION: u16 = 1;
/// Rows in a full page.
pub const ROWS_PER_PAGE: usize = rows::rows_per_page(EntryRow::LEN);

/// The first bytes of a locator: how large everything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocatorHeader {
    /// The locator.
    pub id: LocatorId,
    /// Number of packs.
    pub packs: u32,
    /// Number of entries.
    pub entries: u32,
    directory_crc: u32,
}

impl LocatorHeader {
    /// Length in bytes.
    pub const LEN: usize = 8 + Features::LEN + LocatorId::LEN + 4 + 4 + 4 + 4;

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(LOCATOR_VERSION).encode(&mut to);
        to.bytes(self.id.as_bytes()).u32(self.packs).u32(self.entries).u32(self.directory_crc);
        to.seal()
    }

    /// Reads the first [`LocatorHeader::LEN`] bytes of a locator of `file_len` bytes in all.
    pub fn decode(bytes: &[u8], file_len: u64) -> Result<Self> {
        let mut from = Reader::sealed("locator header", bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the locator", LOCATOR_VERSION)?;
        let id = LocatorId::from_bytes(from.array()?);
        let (packs, entries, directory_crc) = (from.u32()?, from.u32()?, from.u32()?);
        let header = Self { id, packs, entries, directory_crc };
        if header.file_len() != file_len {
            return Err(from.corrupt(format_args!("{entries} entries don't fit a file of {file_len} bytes")));
        }
        from.finish()?;
        Ok(header)
    }

    /// Length of the directory, which follows the header, in bytes.
    pub fn directory_len(&self) -> usize {
        self.packs as usize * PackId::LEN + FanOut::encoded_len(u64::from(self.entries))
    }

    fn pages_at(&self) -> u64 {
        ((Self::LEN + self.directory_len()) as u64).next_multiple_of(PAGE_LEN as u64)
    }

    fn pages(&self) -> u64 {
        rows::pages_for(u64::from(self.entries), EntryRow::LEN)
    }

    /// Length of the whole locator in bytes.
    pub fn file_len(&self) -> u64 {
        self.pages_at() + self.pages() * PAGE_LEN as u64
    }
}

/// Header and directory of a locator: all that a reader keeps in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locator {
    header: LocatorHeader,
    packs: Vec<PackId>,
    fan_out: FanOut,
}

impl Locator {
    /// Reads the directory that follows `header`.
    pub fn decode(header: LocatorHeader, directory: &[u8]) -> Result<Self> {
        let mut from = Reader::new(WHAT, directory);
        if directory.len() != header.directory_len() || !has_crc(directory, header.directory_crc) {
            return Err(from.corrupt("checksum of its directory does not match"));
        }
        let packs = decode_packs(&mut from, header.packs)?;
        let fan_out = FanOut::decode(&mut from, header.entries)?;
        from.finish()?;
        Ok(Self { header, packs, fan_out })
    }

    /// The locator's id.
    pub fn id(&self) -> LocatorId {
        self.header.id
    }

    /// Number of entries.
    pub fn entries(&self) -> u32 {
        self.header.entries
    }

    /// The packs its entries lie in, sorted.
    pub fn packs(&self) -> &[PackId] {
        &self.packs
    }

    /// Number of pages.
    pub fn pages(&self) -> u32 {
        u32::try_from(self.header.pages()).expect("fewer pages than entries")
    }

    /// Pages that can hold an entry, in order; its row is in one of them or there is none.
    pub fn pages_of(&self, key: &EntryKey) -> Range<u32> {
        let (start, end) = self.fan_out.rows_of(&key.id);
        if start == end {
            return 0..0;
        }
        let per_page = ROWS_PER_PAGE as u32;
        start / per_page..(end - 1) / per_page + 1
    }

    /// Offset of a page in the file; a page is [`PAGE_LEN`] bytes.
    pub fn page_offset(&self, page: u32) -> u64 {
        self.header.pages_at() + u64::from(page) * PAGE_LEN as u64
    }

    /// Checks a page just read. [`search`](Self::search) and [`rows`](Self::rows) take what it returns.
    pub fn check_page<'a>(&self, page: u32, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let left = self.header.entries.saturating_sub(page.saturating_mul(ROWS_PER_PAGE as u32));
        rows::page_rows(WHAT, bytes, (left as usize).min(ROWS_PER_PAGE), EntryRow::LEN)
    }

    /// Looks for an entry among the rows of one checked page.
    pub fn search(&self, rows: &[u8], key: &EntryKey) -> Result<Option<Placement>> {
        let found = rows::find_row(rows, key);
        found.map(|row| self.row(row)?.placement(&self.packs)).transpose()
    }

    /// All entries of one checked page.
    pub fn rows<'a>(&'a self, rows: &'a [u8]) -> impl Iterator<Item = Result<(EntryKey, Placement)>> + 'a {
        rows.chunks_exact(EntryRow::LEN).map(|bytes| {
            let row = self.row(bytes)?;
            Ok((row.key, row.placement(&self.packs)?))
        })
    }

    fn row(&self, bytes: &[u8]) -> Result<EntryRow> {
        EntryRow::decode(&mut Reader::new(WHAT, bytes))
    }
}

/// First of two passes over a locator's entries: counts what the header and the directory hold, so that
/// tables larger than memory can be written in the second pass, by [`RowWriter`].
#[derive(Debug)]
pub struct Outline {
    counts: FanOutCounts,
    packs: BTreeSet<PackId>,
    last: Option<EntryKey>,
}

impl Outline {
    /// An outline over at most `most` entries.
    pub fn new(most: u64) -> Self {
        Self { counts: FanOutCounts::new(most), packs: BTreeSet::new(), last: None }
    }

    /// Adds the next entry; one out of order is `Invalid`.
    pub fn add(&mut self, key: &EntryKey, pack: &PackId) -> Result<()> {
        if self.last.is_some_and(|last| last >= *key) {
            return Err(Error::invalid("entries for a locator are out of order or twice there"));
        }
        self.last = Some(*key);
        self.packs.insert(*pack);
        self.counts.add(&key.id)
    }

    /// Begins the second pass, for locator `id`.
    pub fn finish(self, id: LocatorId) -> RowWriter {
        let packs: Vec<PackId> = self.packs.into_iter().collect();
        let (entries, fan_out) = self.counts.finish();
        let mut directory = Writer::new();
        encode_packs(&packs, &mut directory);
        fan_out.encode(&mut directory);
        let directory = directory.into_vec();
        let header = LocatorHeader {
            id,
            packs: u32::try_from(packs.len()).expect("no more packs than entries"),
            entries,
            directory_crc: crc32c::crc32c(&directory),
        };
        let mut to = Writer::new();
        to.bytes(&header.encode()).bytes(&directory);
        to.zeros(to.len().next_multiple_of(PAGE_LEN) - to.len());
        RowWriter { header, packs, encoded: to, page: Writer::new() }
    }
}

/// Second of two passes over a locator's entries, which must be those of the first.
#[derive(Debug)]
pub struct RowWriter {
    header: LocatorHeader,
    packs: Vec<PackId>,
    encoded: Writer,
    page: Writer,
}

impl RowWriter {
    /// What catalogs keep of the locator.
    pub fn reference(&self) -> LocatorRef {
        LocatorRef { id: self.header.id, entries: u64::from(self.header.entries) }
    }

    /// Appends the next entry; a placement that no pack can have is `Invalid`.
    pub fn push(&mut self, key: EntryKey, placement: &Placement) -> Result<()> {
        let pack = self.packs.binary_search(&placement.pack).map_err(|_| {
            Error::invalid(format!("pack {} was not in the outline of the locator", placement.pack))
        })?;
        let pack = u32::try_from(pack).expect("no more packs than entries");
        EntryRow::new(key, pack, placement)?.encode(&mut self.page);
        if self.page.len() == ROWS_PER_PAGE * EntryRow::LEN {
            self.end_page();
        }
        Ok(())
    }

    fn end_page(&mut self) {
        let rows = std::mem::take(&mut self.page).into_vec();
        rows::encode_pages(&rows, EntryRow::LEN, &mut self.encoded);
    }

    /// Takes the bytes encoded so far, to be written behind those taken before.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.encoded).into_vec()
    }

    /// Bytes that [`take`](Self::take) would return.
    pub fn ready(&self) -> usize {
        self.encoded.len()
    }

    /// The last bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.end_page();
        self.take()
    }
}

/// Encodes locator `id` over entries that are sorted by key; unsorted ones or duplicates are `Invalid`.
pub fn encode(id: LocatorId, entries: &[(EntryKey, Placement)]) -> Result<Vec<u8>> {
    let mut outline = Outline::new(entries.len() as u64);
    for (key, placement) in entries {
        outline.add(key, &placement.pack)?;
    }
    let mut rows = outline.finish(id);
    for (key, placement) in entries {
        rows.push(*key, placement)?;
    }
    Ok(rows.finish())
}

/// Reads a whole locator and everything in it, accepting only what [`encode`] writes.
pub fn decode_all(bytes: &[u8]) -> Result<(Locator, Vec<(EntryKey, Placement)>)> {
    let whole = Reader::new(WHAT, bytes);
    let mut from = Reader::new(WHAT, bytes);
    let header = LocatorHeader::decode(from.take(LocatorHeader::LEN)?, bytes.len() as u64)?;
    let locator = Locator::decode(header, from.take(header.directory_len())?)?;
    let mut entries = Vec::with_capacity(header.entries as usize);
    let padding = header.pages_at() as usize - (bytes.len() - from.remaining());
    if from.take(padding)?.iter().any(|byte| *byte != 0) {
        return Err(whole.corrupt("padding is not zero"));
    }
    for page in 0..locator.pages() {
        let rows = locator.check_page(page, from.take(PAGE_LEN)?)?;
        for entry in locator.rows(rows) {
            entries.push(entry?);
        }
    }
    from.finish()?;
    if encode(header.id, &entries).map_err(|e| whole.corrupt(e.report()))? != bytes {
        return Err(whole.corrupt("its entries would be written differently"));
    }
    Ok((locator, entries))
}

pub(super) fn encode_packs(packs: &[PackId], to: &mut Writer) {
    for pack in packs {
        to.bytes(pack.as_bytes());
    }
}

pub(super) fn decode_packs(from: &mut Reader<'_>, count: u32) -> Result<Vec<PackId>> {
    let bytes = from.take(count as usize * PackId::LEN)?;
    let mut packs = Vec::with_capacity(count as usize);
    for id in bytes.as_chunks::<{ PackId::LEN }>().0 {
        packs.push(PackId::from_bytes(*id));
    }
    if packs.is_sorted_by(|a, b| a < b) { Ok(packs) } else { Err(from.corrupt("its packs are out of order")) }
}

#[cfg(test)]
mod tests;
