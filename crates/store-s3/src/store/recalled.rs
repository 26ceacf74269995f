//! What a handle read or wrote last of the mutable objects, so that a change by compare-and-swap need not read
//! first. May be stale: the compare-and-swap finds out. And image maps, which never change: whoever publishes
//! often folds what it wrote a moment ago.

use std::num::NonZeroUsize;

use bytes::Bytes;
use gabion_store_core::{
    ImageName,
    format::{catalog::Catalog, image_record::ImageRecord},
    store::Versioned,
    types::MapId,
};
use lru::LruCache;
use parking_lot::Mutex;

/// Images whose records are remembered: those that one process replicates at a time, and some.
const IMAGES: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// Image maps whose lengths are remembered, and how long one is at most that is remembered whole: 8 MiB in all.
const MAPS: NonZeroUsize = NonZeroUsize::new(64).expect("not zero");
const MAP_MAX: usize = 128 << 10;

/// Records and catalog, as they were; maps, as they are.
#[derive(Debug)]
pub(super) struct Recalled {
    images: Mutex<LruCache<ImageName, Versioned<ImageRecord>>>,
    catalog: Mutex<Option<Versioned<Catalog>>>,
    maps: Mutex<LruCache<MapId, RecalledMap>>,
}

/// What is known of an image map.
#[derive(Clone, Debug)]
pub(super) struct RecalledMap {
    pub(super) len: u64,
    pub(super) bytes: Option<Bytes>,
}

impl Default for Recalled {
    fn default() -> Self {
        Self {
            images: Mutex::new(LruCache::new(IMAGES)),
            catalog: Mutex::default(),
            maps: Mutex::new(LruCache::new(MAPS)),
        }
    }
}

impl Recalled {
    pub(super) fn image(&self, name: &ImageName) -> Option<Versioned<ImageRecord>> {
        self.images.lock().get(name).cloned()
    }

    /// What is there now; `None` if it is not known any more.
    pub(super) fn set_image(&self, name: &ImageName, found: Option<Versioned<ImageRecord>>) {
        match found {
            Some(found) => drop(self.images.lock().put(name.clone(), found)),
            None => drop(self.images.lock().pop(name)),
        }
    }

    pub(super) fn catalog(&self) -> Option<Versioned<Catalog>> {
        self.catalog.lock().clone()
    }

    /// What is there now; `None` if it is not known any more.
    pub(super) fn set_catalog(&self, found: Option<Versioned<Catalog>>) {
        *self.catalog.lock() = found;
    }

    pub(super) fn map(&self, id: MapId) -> Option<RecalledMap> {
        self.maps.lock().get(&id).cloned()
    }

    /// A whole map.
    pub(super) fn set_map(&self, id: MapId, map: &Bytes) {
        let bytes = (map.len() <= MAP_MAX).then(|| Bytes::copy_from_slice(map));
        self.maps.lock().put(id, RecalledMap { len: map.len() as u64, bytes });
    }

    /// The length of a map.
    pub(super) fn set_map_len(&self, id: MapId, len: u64) {
        self.maps.lock().put(id, RecalledMap { len, bytes: None });
    }
}
