//! Image maps: where the nodes and chunks of an image's changes lie, in the order they are read.
//!
//! ```text
//! header │ directory: packs, fan-out of nodes, first block of each page of chunks │ zeros up to a page
//!        │ pages of nodes, sorted by id │ pages of chunks, sorted by first block
//! ```
//!
//! A reader takes header and directory in one read, then only the pages it needs. A map is a hint:
//! everything it leads to is verified by its hash, and what it misses is asked of the locators.

mod writer;

use std::ops::Range;

pub use writer::MapWriter;

use crate::{
    ChunkId, ChunkKind, Error, Result,
    format::{
        features::Features,
        locator::decode_packs,
        rows::{self, EntryKey, EntryRow, FanOut, PAGE_LEN},
        wire::{Reader, Writer, has_crc},
    },
    store::Placement,
    types::{MapId, PackId},
};

const MAGIC: &[u8; 8] = b"GABIMAPS";
const WHAT: &str = "image map";
/// Newest format version of image maps this library knows.
pub const MAP_VERSION: u16 = 1;
const CHUNK_ROW_LEN: usize = 8 + EntryRow::LEN;
const NODES_PER_PAGE: u32 = rows::rows_per_page(EntryRow::LEN) as u32;
const CHUNKS_PER_PAGE: u32 = rows::rows_per_page(CHUNK_ROW_LEN) as u32;

/// A chunk in disk order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedChunk {
    /// First block of the disk that holds part of the chunk.
    pub first_block: u64,
    /// The chunk.
    pub id: ChunkId,
    /// Where it lies.
    pub placement: Placement,
}

/// The first bytes of a map: how large everything else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapHeader {
    /// The map.
    pub id: MapId,
    /// Number of packs.
    pub packs: u32,
    /// Number of nodes (index nodes and checkpoints).
    pub nodes: u32,
    /// Number of chunks.
    pub chunks: u32,
    directory_crc: u32,
}

impl MapHeader {
    /// Length in bytes.
    pub const LEN: usize = 8 + Features::LEN + MapId::LEN + 4 + 4 + 4 + 4 + 4;

    fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(MAP_VERSION).encode(&mut to);
        to.bytes(self.id.as_bytes()).u32(self.packs).u32(self.nodes).u32(self.chunks).u32(self.directory_crc);
        to.seal()
    }

    /// Reads the first [`MapHeader::LEN`] bytes of a map.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::sealed("image map header", bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the image map", MAP_VERSION)?;
        let id = MapId::from_bytes(from.array()?);
        let (packs, nodes, chunks, directory_crc) = (from.u32()?, from.u32()?, from.u32()?, from.u32()?);
        from.finish()?;
        Ok(Self { id, packs, nodes, chunks, directory_crc })
    }

    /// Length of the directory, which follows the header, in bytes. A reader bounds it by the map's length
    /// before it allocates.
    pub fn directory_len(&self) -> u64 {
        u64::from(self.packs) * PackId::LEN as u64
            + FanOut::encoded_len(u64::from(self.nodes)) as u64
            + self.chunk_pages() * 8
    }

    fn chunk_pages(&self) -> u64 {
        rows::pages_for(u64::from(self.chunks), CHUNK_ROW_LEN)
    }

    fn nodes_at(&self) -> u64 {
        (Self::LEN as u64 + self.directory_len()).next_multiple_of(PAGE_LEN as u64)
    }

    fn chunks_at(&self) -> u64 {
        self.nodes_at() + rows::pages_for(u64::from(self.nodes), EntryRow::LEN) * PAGE_LEN as u64
    }

    /// Length of the whole map in bytes.
    pub fn file_len(&self) -> u64 {
        self.chunks_at() + self.chunk_pages() * PAGE_LEN as u64
    }
}

/// Header and directory of a map. Pages are named by their section and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageMap {
    header: MapHeader,
    packs: Vec<PackId>,
    nodes: FanOut,
    first_blocks: Vec<u64>,
}

impl ImageMap {
    /// Reads the directory that follows `header`.
    pub fn decode(header: MapHeader, directory: &[u8]) -> Result<Self> {
        let mut from = Reader::new(WHAT, directory);
        if directory.len() as u64 != header.directory_len() || !has_crc(directory, header.directory_crc) {
            return Err(from.corrupt("checksum of its directory does not match"));
        }
        let packs = decode_packs(&mut from, header.packs)?;
        let nodes = FanOut::decode(&mut from, header.nodes)?;
        let mut first_blocks = Vec::with_capacity(from.remaining() / 8);
        while from.remaining() > 0 {
            first_blocks.push(from.u64()?);
        }
        if !first_blocks.is_sorted_by(|a, b| a < b) {
            return Err(from.corrupt("first blocks of its pages are out of order"));
        }
        Ok(Self { header, packs, nodes, first_blocks })
    }

    /// Reads header and directory of a whole map, and checks that it is as long as they say. Its pages are
    /// checked where they are read.
    pub fn of(map: &[u8]) -> Result<Self> {
        let mut from = Reader::new(WHAT, map);
        let header = MapHeader::decode(from.take(MapHeader::LEN)?)?;
        if header.file_len() != map.len() as u64 {
            return Err(from.corrupt(format_args!("its counts don't fit {} bytes", map.len())));
        }
        Self::decode(header, from.take(header.directory_len() as usize)?)
    }

    /// All nodes of a whole map, sorted by key.
    pub fn all_nodes(&self, map: &[u8]) -> Result<Vec<(EntryKey, Placement)>> {
        let mut nodes = Vec::with_capacity(self.header.nodes as usize);
        for page in 0..self.header.nodes.div_ceil(NODES_PER_PAGE) {
            nodes.extend(self.nodes(page, page_of(map, self.node_page_offset(page))?)?);
        }
        Ok(nodes)
    }

    /// The chunks of a whole map, in disk order, page by page.
    pub fn all_chunks<'a>(&'a self, map: &'a [u8]) -> impl Iterator<Item = Result<Vec<MappedChunk>>> + 'a {
        let pages = 0..self.header.chunks.div_ceil(CHUNKS_PER_PAGE);
        pages.map(move |page| self.chunks(page, page_of(map, self.chunk_page_offset(page))?))
    }

    /// The header.
    pub fn header(&self) -> &MapHeader {
        &self.header
    }

    /// The packs that nodes and chunks lie in, sorted.
    pub fn packs(&self) -> &[PackId] {
        &self.packs
    }

    /// Pages of nodes that can hold a node, in order.
    pub fn node_pages(&self, key: &EntryKey) -> Range<u32> {
        let (start, end) = self.nodes.rows_of(&key.id);
        if start == end { 0..0 } else { start / NODES_PER_PAGE..(end - 1) / NODES_PER_PAGE + 1 }
    }

    /// Pages of chunks that can hold chunks whose first block is in `start..end`, in order.
    pub fn chunk_pages(&self, start: u64, end: u64) -> Range<u32> {
        let first = self.first_blocks.partition_point(|block| *block <= start).saturating_sub(1);
        let last = self.first_blocks.partition_point(|block| *block < end);
        let number = |n: usize| u32::try_from(n).expect("fewer pages than chunks");
        number(first)..number(last.max(first))
    }

    /// Offset of a page of nodes in the map; pages are [`PAGE_LEN`] bytes.
    pub fn node_page_offset(&self, page: u32) -> u64 {
        self.header.nodes_at() + u64::from(page) * PAGE_LEN as u64
    }

    /// Offset of a page of chunks in the map; pages are [`PAGE_LEN`] bytes.
    pub fn chunk_page_offset(&self, page: u32) -> u64 {
        self.header.chunks_at() + u64::from(page) * PAGE_LEN as u64
    }

    /// Checks a page of nodes and looks for one in it.
    pub fn find_node(&self, page: u32, bytes: &[u8], key: &EntryKey) -> Result<Option<Placement>> {
        let rows = self.page(self.header.nodes, NODES_PER_PAGE, page, bytes, EntryRow::LEN)?;
        let found = rows::find_row(rows, key);
        found.map(|row| EntryRow::decode(&mut Reader::new(WHAT, row))?.placement(&self.packs)).transpose()
    }

    /// Checks a page of nodes and reads all of it.
    pub fn nodes(&self, page: u32, bytes: &[u8]) -> Result<Vec<(EntryKey, Placement)>> {
        let rows = self.page(self.header.nodes, NODES_PER_PAGE, page, bytes, EntryRow::LEN)?;
        rows.chunks_exact(EntryRow::LEN)
            .map(|row| {
                let row = EntryRow::decode(&mut Reader::new(WHAT, row))?;
                Ok((row.key, row.placement(&self.packs)?))
            })
            .collect()
    }

    /// Checks a page of chunks and reads all of it.
    pub fn chunks(&self, page: u32, bytes: &[u8]) -> Result<Vec<MappedChunk>> {
        let rows = self.page(self.header.chunks, CHUNKS_PER_PAGE, page, bytes, CHUNK_ROW_LEN)?;
        rows.chunks_exact(CHUNK_ROW_LEN)
            .map(|row| {
                let mut from = Reader::new(WHAT, row);
                let first_block = from.u64()?;
                let row = EntryRow::decode(&mut from)?;
                if row.key.kind != ChunkKind::Data {
                    return Err(from.corrupt("a row among the chunks is of another kind"));
                }
                Ok(MappedChunk { first_block, id: row.key.id, placement: row.placement(&self.packs)? })
            })
            .collect()
    }

    fn page<'a>(
        &self,
        all: u32,
        per_page: u32,
        page: u32,
        bytes: &'a [u8],
        width: usize,
    ) -> Result<&'a [u8]> {
        let left = all.saturating_sub(page.saturating_mul(per_page));
        rows::page_rows(WHAT, bytes, left.min(per_page) as usize, width)
    }
}

/// Encodes map `id` over nodes sorted by key and chunks strictly sorted by first block; anything else is
/// `Invalid`, and so is data among the nodes.
pub fn encode(id: MapId, nodes: &[(EntryKey, Placement)], chunks: &[MappedChunk]) -> Result<Vec<u8>> {
    let mut map = MapWriter::new(chunks.len());
    nodes.iter().try_for_each(|(key, placement)| map.node(*key, placement))?;
    chunks.iter().try_for_each(|chunk| map.chunk(chunk))?;
    map.finish(id)
}

/// What a whole map holds: its nodes by key and its chunks in disk order.
pub type MapRows = (Vec<(EntryKey, Placement)>, Vec<MappedChunk>);

/// Reads a whole map, accepting only what [`encode`] writes.
pub fn decode_all(bytes: &[u8]) -> Result<(ImageMap, MapRows)> {
    let map = ImageMap::of(bytes)?;
    let nodes = map.all_nodes(bytes)?;
    let mut chunks = Vec::with_capacity(map.header.chunks as usize);
    for page in map.all_chunks(bytes) {
        chunks.extend(page?);
    }
    let whole = Reader::new(WHAT, bytes);
    if encode(map.header.id, &nodes, &chunks).map_err(|e| whole.corrupt(e.report()))? != bytes {
        return Err(whole.corrupt("its rows would be written differently"));
    }
    Ok((map, (nodes, chunks)))
}

/// The page at an offset of a whole map.
fn page_of(map: &[u8], offset: u64) -> Result<&[u8]> {
    let page = usize::try_from(offset).ok().and_then(|start| map.get(start..start.checked_add(PAGE_LEN)?));
    page.ok_or_else(|| Error::corrupt(format!("{WHAT}: it ends before byte {offset}")))
}

#[cfg(test)]
mod tests;
