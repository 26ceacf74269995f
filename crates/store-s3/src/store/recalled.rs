//! What a handle read or wrote last of the mutable objects, so that a change by compare-and-swap need not read
//! first. May be stale: the compare-and-swap finds out.

use std::num::NonZeroUsize;

use gabion_store_core::{
    ImageName,
    format::{catalog::Catalog, image_record::ImageRecord},
    store::Versioned,
    sync::Mutex,
};
use lru::LruCache;

/// Images whose records are remembered: those that one process replicates at a time, and some.
const IMAGES: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");

/// Records and catalog, as they were.
#[derive(Debug)]
pub(super) struct Recalled {
    images: Mutex<LruCache<ImageName, Versioned<ImageRecord>>>,
    catalog: Mutex<Option<Versioned<Catalog>>>,
}

impl Default for Recalled {
    fn default() -> Self {
        Self { images: Mutex::new(LruCache::new(IMAGES)), catalog: Mutex::default() }
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
}
