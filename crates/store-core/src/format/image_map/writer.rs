//! Making a map row by row: the rows of a large image are held once, in the form they are written in.

use std::collections::HashMap;

use super::{CHUNK_ROW_LEN, CHUNKS_PER_PAGE, MapHeader, MappedChunk};
use crate::{
    ChunkKind, Error, Result,
    format::{
        locator::encode_packs,
        rows::{self, EntryKey, EntryRow, FanOut, PAGE_LEN},
        wire::Writer,
    },
    store::Placement,
    types::{MAX_DISK_SIZE, MapId, PackId, blocks_for},
};

/// Where the rows of a page begin.
const ROWS_AT: usize = 4;
/// Where the index of its pack stands in a row of a chunk.
const PACK_AT: usize = 8 + EntryRow::PACK_AT;

/// Writes a map. Memory is the map itself and a few bytes for each pack.
#[derive(Debug)]
pub struct MapWriter {
    /// Packs by number of their first use.
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
    nodes: Vec<EntryRow>,
    /// Pages of chunks with numbers of first use and without checksums.
    pages: Vec<u8>,
    chunks: u32,
    first_blocks: Vec<u64>,
    last_block: Option<u64>,
}

impl MapWriter {
    /// A map of at most about `chunks` chunks.
    pub fn new(chunks: usize) -> Self {
        let pages = chunks.div_ceil(CHUNKS_PER_PAGE as usize);
        Self {
            packs: Vec::new(),
            numbers: HashMap::new(),
            nodes: Vec::new(),
            pages: Vec::with_capacity(pages * PAGE_LEN),
            chunks: 0,
            first_blocks: Vec::with_capacity(pages),
            last_block: None,
        }
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.chunks == 0
    }

    /// Adds a node or checkpoint, after all with smaller keys; anything else is `Invalid`.
    pub fn node(&mut self, key: EntryKey, placement: &Placement) -> Result<()> {
        if key.kind == ChunkKind::Data {
            return Err(Error::invalid("a data chunk among the nodes for an image map"));
        }
        if self.nodes.last().is_some_and(|last| last.key >= key) {
            return Err(Error::invalid("nodes for an image map are out of order or twice there"));
        }
        let row = EntryRow::new(key, self.number(placement.pack)?, placement)?;
        self.nodes.push(row);
        Ok(())
    }

    /// Adds a chunk, after all with lower first blocks; anything else is `Invalid`.
    pub fn chunk(&mut self, chunk: &MappedChunk) -> Result<()> {
        if self.last_block.is_some_and(|last| last >= chunk.first_block) {
            return Err(Error::invalid("chunks for an image map are out of order or twice there"));
        }
        if chunk.first_block >= blocks_for(MAX_DISK_SIZE) {
            return Err(Error::invalid("a chunk for an image map lies beyond the largest disk"));
        }
        let key = EntryKey::new(ChunkKind::Data, chunk.id);
        let mut row = Writer::new();
        row.u64(chunk.first_block);
        EntryRow::new(key, self.number(chunk.placement.pack)?, &chunk.placement)?.encode(&mut row);
        let at = (self.chunks % CHUNKS_PER_PAGE) as usize;
        if at == 0 {
            self.pages.resize(self.pages.len() + PAGE_LEN, 0);
            self.first_blocks.push(chunk.first_block);
        }
        let start = self.pages.len() - PAGE_LEN + ROWS_AT + at * CHUNK_ROW_LEN;
        self.pages[start..start + CHUNK_ROW_LEN].copy_from_slice(&row.into_vec());
        self.chunks = self.chunks.checked_add(1).ok_or_else(too_many)?;
        self.last_block = Some(chunk.first_block);
        Ok(())
    }

    fn number(&mut self, pack: PackId) -> Result<u32> {
        if let Some(number) = self.numbers.get(&pack) {
            return Ok(*number);
        }
        let number = u32::try_from(self.packs.len()).map_err(|_| too_many())?;
        self.numbers.insert(pack, number);
        self.packs.push(pack);
        Ok(number)
    }

    /// The encoded map.
    pub fn finish(mut self, id: MapId) -> Result<Vec<u8>> {
        let sorted = self.sort_packs();
        let mut node_rows = Writer::new();
        for row in &self.nodes {
            EntryRow { pack: sorted[row.pack as usize], ..*row }.encode(&mut node_rows);
        }
        self.seal_pages(&sorted);
        let mut directory = Writer::new();
        encode_packs(&self.packs, &mut directory);
        FanOut::build(self.nodes.iter().map(|row| &row.key.id))?.encode(&mut directory);
        for block in &self.first_blocks {
            directory.u64(*block);
        }
        let directory = directory.into_vec();
        let header = MapHeader {
            id,
            packs: u32::try_from(self.packs.len()).map_err(|_| too_many())?,
            nodes: u32::try_from(self.nodes.len()).map_err(|_| too_many())?,
            chunks: self.chunks,
            directory_crc: crc32c::crc32c(&directory),
        };
        let mut front = Writer::new();
        front.bytes(&header.encode()).bytes(&directory);
        front.zeros(front.len().next_multiple_of(PAGE_LEN) - front.len());
        rows::encode_pages(&node_rows.into_vec(), EntryRow::LEN, &mut front);
        // Moved within one buffer: a second copy of the pages would double the memory.
        let mut map = self.pages;
        let front = front.into_vec();
        map.reserve_exact(front.len());
        map.splice(0..0, front);
        Ok(map)
    }

    /// Sorts the packs; says of each number of first use which place it has now.
    fn sort_packs(&mut self) -> Vec<u32> {
        self.packs.sort_unstable();
        let mut places = vec![0; self.packs.len()];
        for (place, pack) in (0..).zip(&self.packs) {
            places[self.numbers[pack] as usize] = place;
        }
        places
    }

    fn seal_pages(&mut self, sorted: &[u32]) {
        let mut left = self.chunks as usize;
        for page in self.pages.chunks_exact_mut(PAGE_LEN) {
            let (crc, body) = page.split_at_mut(ROWS_AT);
            for row in body.chunks_exact_mut(CHUNK_ROW_LEN).take(left) {
                let number = &mut row[PACK_AT..PACK_AT + 4];
                let first_use = u32::from_le_bytes([number[0], number[1], number[2], number[3]]);
                number.copy_from_slice(&sorted[first_use as usize].to_le_bytes());
            }
            left = left.saturating_sub(CHUNKS_PER_PAGE as usize);
            crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
        }
    }
}

fn too_many() -> Error {
    Error::invalid("more rows or packs than one image map takes")
}
