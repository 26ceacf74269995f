//! Image maps: where an image's nodes and chunks lie, without asking a locator.
//!
//! The maps of images that were read lately are asked for nodes and checkpoints; for data, each caller says by
//! `expect` which maps and which block of the disk to look at. A map is read in large pieces, the first of which
//! holds its directory and, unless the disk is huge, all its nodes: opening an image takes one request for it.
//!
//! Everything here is a hint. A map that is missing or damaged is a warning, and the locators are asked.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gabion_store_core::{
    ChunkId, Error, ErrorKind, ImageName, Result,
    format::{
        image_map::{ImageMap, MapHeader},
        layout,
        node::LEAF_BLOCKS,
        rows::{EntryKey, PAGE_LEN},
    },
    store::Placement,
    sync::Mutex,
    types::{MAX_CHUNK_BLOCKS, MapId},
};
use lru::LruCache;

use super::shelf::Shelf;
use crate::objects::Objects;

/// Bytes that a map is read in, aligned.
const PIECE: u64 = 256 << 10;
/// Bytes read when a map is opened, whole pieces.
const HEAD: u64 = 4 * PIECE;
/// Longest directory of a map, in bytes: that of 100 million chunks.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Images whose maps are asked for nodes.
const IMAGES: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");
/// Maps whose lengths are remembered.
const LENS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
/// Chunks that are expected at most, some 100 bytes each.
const EXPECTED: NonZeroUsize = NonZeroUsize::new(1 << 15).expect("not zero");
/// Bytes of memory for directories, and for pieces.
const DIRECTORIES: usize = 8 << 20;
const PIECES: usize = 16 << 20;
/// Longest map that is kept when it is written or read whole, in bytes: those of checkpoints are folded soon.
const KEPT: usize = 2 << 20;
/// Pieces fetched at once by one call.
const CONCURRENCY: usize = 8;

/// The image maps that this handle knows of.
#[derive(Debug)]
pub(super) struct Maps {
    objects: Objects,
    /// Maps of images that were read, newest first.
    images: Mutex<LruCache<ImageName, Arc<[MapId]>>>,
    expected: Mutex<LruCache<ChunkId, Expected>>,
    /// `None` for one that can't be used.
    open: Shelf<MapId, Option<Arc<ImageMap>>>,
    pieces: Shelf<(MapId, u64), Bytes>,
    /// Lengths that were asked for.
    lens: Mutex<LruCache<MapId, u64>>,
}

/// Where to look for a data chunk.
#[derive(Clone, Debug)]
struct Expected {
    maps: Arc<[MapId]>,
    /// A block of the disk that is found in it.
    block: u64,
}

impl Maps {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            images: Mutex::new(LruCache::new(IMAGES)),
            expected: Mutex::new(LruCache::new(EXPECTED)),
            open: Shelf::new(DIRECTORIES),
            pieces: Shelf::new(PIECES),
            lens: Mutex::new(LruCache::new(LENS)),
        }
    }

    /// An image was read or written: these are its maps, newest first.
    pub(super) fn observe(&self, image: &ImageName, maps: &[MapId]) {
        let mut images = self.images.lock();
        match images.get(image) {
            Some(known) if **known == *maps => {}
            _ => drop(images.put(image.clone(), maps.into())),
        }
    }

    /// A whole map that was written or read.
    pub(super) fn adopt(&self, id: MapId, bytes: &Bytes) {
        let decoded = || {
            let header = MapHeader::decode(bytes.get(..MapHeader::LEN)?).ok()?;
            let behind = bytes.get(MapHeader::LEN..)?;
            let directory = behind.get(..usize::try_from(header.directory_len()).ok()?)?;
            ImageMap::decode(header, directory).ok().filter(|map| map.header().id == id)
        };
        // Anything else that is kept under a map's key is none of ours.
        if bytes.len() <= KEPT
            && let Some(map) = decoded()
        {
            let weight = map.header().directory_len() as usize;
            self.open.put(id, Some(Arc::new(map)), weight);
            self.keep(id, bytes);
        }
    }

    /// A whole map, if it is in memory.
    pub(super) fn whole(&self, id: MapId) -> Option<Bytes> {
        let len = self.open.peek(&id)??.header().file_len();
        let pieces = (0..len.div_ceil(PIECE)).map(|number| self.pieces.peek(&(id, number)));
        Some(pieces.collect::<Option<Vec<_>>>()?.concat().into())
    }

    /// Length of a map in bytes. A small one is in memory then.
    pub(super) async fn len(&self, id: MapId) -> Result<u64> {
        if let Some(Some(map)) = self.open.peek(&id) {
            return Ok(map.header().file_len());
        }
        if let Some(len) = self.lens.lock().get(&id) {
            return Ok(*len);
        }
        let start = self.objects.get_window(&layout::map_key(&id), 0..PIECE).await?;
        self.lens.lock().put(id, start.object_len);
        if start.bytes.len() as u64 == start.object_len {
            self.adopt(id, &start.bytes);
        }
        Ok(start.object_len)
    }

    /// Keeps the first bytes of a map: whole pieces, or all of it.
    fn keep(&self, id: MapId, bytes: &Bytes) {
        for start in (0..bytes.len()).step_by(PIECE as usize) {
            let piece = bytes.slice(start..bytes.len().min(start + PIECE as usize));
            let weight = piece.len();
            self.pieces.put((id, start as u64 / PIECE), piece, weight);
        }
    }

    /// Chunks that will be asked for, and where to look for them.
    pub(super) fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        if maps.is_empty() {
            return;
        }
        let mut expected = self.expected.lock();
        for (block, id) in chunks {
            expected.put(*id, Expected { maps: maps.clone(), block: *block });
        }
    }

    /// Places of nodes and checkpoints, as far as the maps of images that were read tell them.
    pub(super) async fn find_nodes(&self, keys: &[EntryKey]) -> Result<Vec<Option<Placement>>> {
        let mut found = vec![None; keys.len()];
        let mut maps: Vec<MapId> = Vec::new();
        for (_, of_image) in self.images.lock().iter() {
            maps.extend(of_image.iter().filter(|id| !maps.contains(id)).copied().collect::<Vec<_>>());
        }
        for id in maps {
            if found.iter().all(Option::is_some) {
                break;
            }
            hint(id, self.nodes_in(id, keys, &mut found).await)?;
        }
        Ok(found)
    }

    async fn nodes_in(&self, id: MapId, keys: &[EntryKey], found: &mut [Option<Placement>]) -> Result<()> {
        let Some(map) = self.open(id).await? else { return Ok(()) };
        let missing: Vec<usize> = (0..keys.len()).filter(|&n| found[n].is_none()).collect();
        let pages = missing.iter().flat_map(|&n| map.node_pages(&keys[n]));
        let pieces = self.load(&map, pages.map(|page| map.node_page_offset(page))).await?;
        for n in missing {
            for page in map.node_pages(&keys[n]) {
                let bytes = page_at(&pieces, map.node_page_offset(page));
                let place = self.damaged_is_forgotten(&map, map.node_page_offset(page), || {
                    map.find_node(page, bytes, &keys[n])
                })?;
                if place.is_some() {
                    found[n] = place;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Places of data chunks, as far as the maps that they are expected in tell them.
    pub(super) async fn find_chunks(&self, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let mut found = vec![None; ids.len()];
        let expected: Vec<Option<Expected>> = {
            let mut known = self.expected.lock();
            ids.iter().map(|id| known.get(id).cloned()).collect()
        };
        let most = expected.iter().flatten().map(|expected| expected.maps.len()).max().unwrap_or(0);
        // Newer maps first: older ones are asked only for what these don't have.
        for age in 0..most {
            let mut by_map: BTreeMap<MapId, Vec<(usize, u64)>> = BTreeMap::new();
            for (n, expected) in expected.iter().enumerate().filter(|(n, _)| found[*n].is_none()) {
                if let Some(expected) = expected
                    && let Some(id) = expected.maps.get(age)
                {
                    by_map.entry(*id).or_default().push((n, expected.block));
                }
            }
            for (id, wanted) in by_map {
                hint(id, self.chunks_in(id, ids, &wanted, &mut found).await)?;
            }
        }
        Ok(found)
    }

    /// Looks for `wanted`, places in `ids` with a block each.
    async fn chunks_in(
        &self,
        id: MapId,
        ids: &[ChunkId],
        wanted: &[(usize, u64)],
        found: &mut [Option<Placement>],
    ) -> Result<()> {
        let Some(map) = self.open(id).await? else { return Ok(()) };
        let mut by_page: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (n, block) in wanted {
            // A chunk's first block is within its leaf.
            let leaf = block - block % LEAF_BLOCKS;
            let first = block.saturating_sub(MAX_CHUNK_BLOCKS as u64 - 1).max(leaf);
            for page in map.chunk_pages(first, block.saturating_add(1)) {
                by_page.entry(page).or_default().push(*n);
            }
        }
        let pieces = self.load(&map, by_page.keys().map(|page| map.chunk_page_offset(*page))).await?;
        for (page, wanted) in by_page {
            let at = map.chunk_page_offset(page);
            let rows = self.damaged_is_forgotten(&map, at, || map.chunks(page, page_at(&pieces, at)))?;
            for n in wanted {
                if found[n].is_none() {
                    found[n] = rows.iter().find(|row| row.id == ids[n]).map(|row| row.placement);
                }
            }
        }
        Ok(())
    }

    /// Opens a map, once; `None` if it can't be used.
    async fn open(&self, id: MapId) -> Result<Option<Arc<ImageMap>>> {
        let open = async {
            match self.read_head(id).await {
                Ok(map) => {
                    let weight = map.header().directory_len() as usize;
                    Ok((Some(Arc::new(map)), weight))
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Unsupported
                    ) =>
                {
                    tracing::warn!(map = %id, error = %e.report(), "an image map can't be used: reads take longer");
                    Ok((None, 0))
                }
                Err(e) => Err(e),
            }
        };
        self.open.get_or(&id, open).await
    }

    async fn read_head(&self, id: MapId) -> Result<ImageMap> {
        let key = layout::map_key(&id);
        let head = self.objects.get_window(&key, 0..HEAD).await?;
        let short = || Error::corrupt(format!("{key} is too short"));
        let header = MapHeader::decode(head.bytes.get(..MapHeader::LEN).ok_or_else(short)?)?;
        if header.id != id || header.file_len() != head.object_len || header.directory_len() > MAX_DIRECTORY {
            return Err(Error::corrupt(format!("{key} is not the map that its name says")));
        }
        let end = MapHeader::LEN as u64 + header.directory_len();
        let map = match head.bytes.get(MapHeader::LEN..end as usize) {
            Some(directory) => ImageMap::decode(header, directory)?,
            None => {
                let rest = self.objects.get_range(&key, head.bytes.len() as u64..end).await?;
                ImageMap::decode(header, &[&head.bytes[MapHeader::LEN..], &rest].concat())?
            }
        };
        self.keep(id, &head.bytes);
        Ok(map)
    }

    /// The pieces with the pages at these offsets.
    async fn load(&self, map: &ImageMap, pages: impl Iterator<Item = u64>) -> Result<HashMap<u64, Bytes>> {
        let (id, len) = (map.header().id, map.header().file_len());
        let mut numbers: Vec<u64> = pages.map(|at| at / PIECE).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let load = |number: u64| async move {
            let fetch = async {
                let range = number * PIECE..len.min((number + 1) * PIECE);
                let bytes = self.objects.get_range(&layout::map_key(&id), range).await?;
                let weight = bytes.len();
                Ok((bytes, weight))
            };
            Ok((number, self.pieces.get_or(&(id, number), fetch).await?))
        };
        let loads: Vec<_> = numbers.into_iter().map(load).collect();
        stream::iter(loads).buffer_unordered(CONCURRENCY).try_collect().await
    }

    /// Forgets the piece around `at` if `read` finds it damaged: it may have been so on the way only.
    fn damaged_is_forgotten<T>(
        &self,
        map: &ImageMap,
        at: u64,
        read: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        read().inspect_err(|_| self.pieces.remove(&(map.header().id, at / PIECE)))
    }
}

fn page_at(pieces: &HashMap<u64, Bytes>, at: u64) -> &[u8] {
    let within = (at % PIECE) as usize;
    pieces.get(&(at / PIECE)).and_then(|piece| piece.get(within..within + PAGE_LEN)).unwrap_or_default()
}

/// What a map does not tell, the locators do; only a store that can't be reached is an error.
fn hint(id: MapId, searched: Result<()>) -> Result<()> {
    match searched {
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            tracing::warn!(map = %id, error = %e.report(), "part of an image map can't be used");
            Ok(())
        }
        searched => searched,
    }
}
