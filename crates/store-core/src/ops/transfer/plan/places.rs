//! Where chunks of the source lie, and so how long they are: asked of the store, then of the image's maps.

use std::collections::HashMap;

use bytes::Bytes;

use crate::{
    ChunkId, ChunkKind, Result, Store,
    format::{image_map::ImageMap, rows::PAGE_LEN},
    ops::transfer::Maps,
    store::Placement,
};

/// Longest maps that are read for it, in bytes, all together.
const MAPS_MAX: u64 = 64 << 20;

/// Finds places.
pub(super) struct Places<'a> {
    store: &'a Store,
    ids: Maps,
    /// Once they were needed.
    maps: Option<Vec<(ImageMap, Bytes)>>,
}

impl<'a> Places<'a> {
    pub(super) fn new(store: &'a Store, maps: &Maps) -> Self {
        Self { store, ids: maps.clone(), maps: None }
    }

    /// Places of chunks, by the block of the disk they were met at; fewer, if some are not known.
    pub(super) async fn find(&mut self, chunks: &[(u64, ChunkId)]) -> Result<Vec<Placement>> {
        let ids: Vec<_> = chunks.iter().map(|(_, id)| *id).collect();
        let located = self.store.chunks.locate(ChunkKind::Data, &ids).await?;
        let mut unknown: HashMap<ChunkId, u64> = HashMap::new();
        let mut places = Vec::with_capacity(chunks.len());
        for ((block, id), place) in chunks.iter().zip(located) {
            match place {
                Some(place) => places.push(place),
                None => drop(unknown.insert(*id, *block)),
            }
        }
        if !unknown.is_empty() {
            places.extend(self.mapped(unknown).await);
        }
        Ok(places)
    }

    async fn mapped(&mut self, mut unknown: HashMap<ChunkId, u64>) -> Vec<Placement> {
        let maps = match &mut self.maps {
            Some(maps) => maps,
            maps => maps.insert(load(self.store, &self.ids).await),
        };
        let mut places = Vec::new();
        for (map, bytes) in maps {
            let (first, last) = (unknown.values().min(), unknown.values().max());
            let (Some(first), Some(last)) = (first, last) else { break };
            for page in map.chunk_pages(*first, last.saturating_add(1)) {
                let start = map.chunk_page_offset(page) as usize;
                let page = bytes.get(start..start + PAGE_LEN).map(|bytes| map.chunks(page, bytes));
                // A page that is damaged tells nothing.
                for chunk in page.and_then(Result::ok).unwrap_or_default() {
                    if unknown.remove(&chunk.id).is_some() {
                        places.push(chunk.placement);
                    }
                }
            }
        }
        places
    }
}

/// The maps that can be had. They are hints: a plan without them is less exact.
async fn load(store: &Store, ids: &[crate::types::MapId]) -> Vec<(ImageMap, Bytes)> {
    let (mut maps, mut left) = (Vec::new(), MAPS_MAX);
    for id in ids {
        let Ok(len) = store.index.map_len(*id).await else { continue };
        if len > left {
            continue;
        }
        left -= len;
        let Ok(bytes) = store.index.get_map(*id).await else { continue };
        if let Ok(map) = ImageMap::of(&bytes) {
            maps.push((map, bytes));
        }
    }
    maps
}
