//! Image maps: where the nodes and chunks of an image's changes lie, in the order they are read.
//!
//! ```text
//! header │ directory: packs, fan-out of nodes, first block of each page of chunks │ zeros up to a page
//!        │ pages of nodes, sorted by id │ pages of chunks, sorted by first block
//! ```
//!
//! A reader takes header and directory in one read, then only the pages it needs. A map is a hint:
//! everything it leads to is verified by its hash, and what it misses is asked of the locators.

use std::{collections::BTreeSet, ops::Range};

use crate::{
    ChunkId, ChunkKind, Error, Result,
    format::{
        features::Features,
        locator::{decode_packs, encode_packs},
        rows::{self, EntryKey, EntryRow, FanOut, PAGE_LEN},
        wire::{Reader, Writer},
    },
    store::Placement,
    types::{MAX_DISK_SIZE, MapId, PackId, blocks_for},
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
        if directory.len() as u64 != header.directory_len()
            || crc32c::crc32c(directory) != header.directory_crc
        {
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
    if !nodes.is_sorted_by(|a, b| a.0 < b.0) || !chunks.is_sorted_by(|a, b| a.first_block < b.first_block) {
        return Err(Error::invalid("nodes or chunks for an image map are out of order or twice there"));
    }
    if nodes.iter().any(|(key, _)| key.kind == ChunkKind::Data) {
        return Err(Error::invalid("a data chunk among the nodes for an image map"));
    }
    if chunks.last().is_some_and(|chunk| chunk.first_block >= blocks_for(MAX_DISK_SIZE)) {
        return Err(Error::invalid("a chunk for an image map lies beyond the largest disk"));
    }
    let count = |len: usize| {
        u32::try_from(len).map_err(|_| Error::invalid(format!("{len} rows are too many for one image map")))
    };
    let node_packs = nodes.iter().map(|(_, placement)| placement.pack);
    let packs = pack_table(node_packs.chain(chunks.iter().map(|chunk| chunk.placement.pack)));
    let (mut node_rows, mut chunk_rows) = (Writer::new(), Writer::new());
    for (key, placement) in nodes {
        EntryRow::new(*key, pack_index(&packs, &placement.pack), placement)?.encode(&mut node_rows);
    }
    for chunk in chunks {
        let key = EntryKey::new(ChunkKind::Data, chunk.id);
        chunk_rows.u64(chunk.first_block);
        EntryRow::new(key, pack_index(&packs, &chunk.placement.pack), &chunk.placement)?
            .encode(&mut chunk_rows);
    }
    let mut directory = Writer::new();
    encode_packs(&packs, &mut directory);
    FanOut::build(nodes.iter().map(|(key, _)| &key.id))?.encode(&mut directory);
    for chunk in chunks.iter().step_by(CHUNKS_PER_PAGE as usize) {
        directory.u64(chunk.first_block);
    }
    let directory = directory.into_vec();
    let header = MapHeader {
        id,
        packs: count(packs.len())?,
        nodes: count(nodes.len())?,
        chunks: count(chunks.len())?,
        directory_crc: crc32c::crc32c(&directory),
    };
    let mut to = Writer::new();
    to.bytes(&header.encode()).bytes(&directory);
    to.zeros(to.len().next_multiple_of(PAGE_LEN) - to.len());
    rows::encode_pages(&node_rows.into_vec(), EntryRow::LEN, &mut to);
    rows::encode_pages(&chunk_rows.into_vec(), CHUNK_ROW_LEN, &mut to);
    Ok(to.into_vec())
}

/// The table of packs over rows that refer to them: sorted, each once.
fn pack_table(packs: impl Iterator<Item = PackId>) -> Vec<PackId> {
    packs.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Index in a [`pack_table`] that was made over `pack` too.
fn pack_index(packs: &[PackId], pack: &PackId) -> u32 {
    let at = packs.binary_search(pack).expect("the table was made over every pack");
    u32::try_from(at).expect("no more packs than rows")
}

/// What a whole map holds: its nodes by key and its chunks in disk order.
pub type MapRows = (Vec<(EntryKey, Placement)>, Vec<MappedChunk>);

/// Reads a whole map, accepting only what [`encode`] writes.
pub fn decode_all(bytes: &[u8]) -> Result<(ImageMap, MapRows)> {
    let whole = Reader::new(WHAT, bytes);
    let mut from = Reader::new(WHAT, bytes);
    let header = MapHeader::decode(from.take(MapHeader::LEN)?)?;
    if header.file_len() != bytes.len() as u64 {
        return Err(whole.corrupt(format_args!("its counts don't fit {} bytes", bytes.len())));
    }
    let map = ImageMap::decode(header, from.take(header.directory_len() as usize)?)?;
    from.take(header.nodes_at() as usize - (bytes.len() - from.remaining()))?;
    let (mut nodes, mut chunks) = (Vec::new(), Vec::new());
    for page in 0..header.nodes.div_ceil(NODES_PER_PAGE) {
        nodes.extend(map.nodes(page, from.take(PAGE_LEN)?)?);
    }
    for page in 0..header.chunks.div_ceil(CHUNKS_PER_PAGE) {
        chunks.extend(map.chunks(page, from.take(PAGE_LEN)?)?);
    }
    from.finish()?;
    if encode(header.id, &nodes, &chunks).map_err(|e| whole.corrupt(e.report()))? != bytes {
        return Err(whole.corrupt("its rows would be written differently"));
    }
    Ok((map, (nodes, chunks)))
}

#[cfg(test)]
mod tests;
