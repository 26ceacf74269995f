//! [`MemoryStore`]: a whole store in memory, for ephemeral disks, tools and tests.
//!
//! It keeps every promise of [`ChunkStore`] and [`IndexStore`] but one: nothing outlives the process, so a
//! sync makes nothing durable. Entries are kept decoded; nothing is ever evicted or collected, so its
//! memory grows with what is put. As a bounded cache use [`MemoryCache`](super::MemoryCache).

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::missing;
use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, ImageName, IndexStore, Result, Store,
    clock::Clock,
    format::{catalog::Catalog, codec::MAX_RAW_LEN, descriptor::Descriptor, image_record::ImageRecord},
    store::{Synced, Version, Versioned},
    sync::RwLock,
    types::{MapId, WriteId},
};

#[cfg(test)]
mod tests;

/// A store in memory. Share it as an [`Arc`]; [`store`](Self::store) gives both halves of one.
pub struct MemoryStore {
    descriptor: Descriptor,
    entries: RwLock<HashMap<(ChunkKind, ChunkId), Bytes>>,
    records: RwLock<Records>,
}

/// The mutable objects, and the maps beside them.
struct Records {
    images: BTreeMap<ImageName, Versioned<ImageRecord>>,
    catalog: Versioned<Catalog>,
    maps: HashMap<MapId, Bytes>,
    /// Versions given out so far. They are never reused, so no compare-and-swap takes a new object for
    /// an old one.
    versions: u64,
}

impl Records {
    fn next_version(&mut self) -> Version {
        self.versions += 1;
        version(self.versions)
    }
}

fn version(number: u64) -> Version {
    Version(Bytes::copy_from_slice(&number.to_le_bytes()))
}

impl MemoryStore {
    /// An empty store with a new identity. `Unavailable` if the system gives no randomness.
    pub fn new(clock: &dyn Clock) -> Result<Self> {
        let catalog = Catalog {
            condemn_generation: 0,
            locators: Vec::new(),
            pending: Vec::new(),
            pins: Vec::new(),
            replaced: Vec::new(),
            write_id: WriteId::random()?,
        };
        Ok(Self {
            descriptor: Descriptor::new(clock.now())?,
            entries: RwLock::default(),
            records: RwLock::new(Records {
                images: BTreeMap::new(),
                catalog: Versioned { value: catalog, version: version(0) },
                maps: HashMap::new(),
                versions: 0,
            }),
        })
    }

    /// This store as a [`Store`], without caches in front of it.
    pub fn store(self: &Arc<Self>) -> Store {
        Store { chunks: self.clone(), index: self.clone() }
    }

    /// Number of entries, of all kinds.
    pub fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// Whether there is no entry of any kind.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<MemoryStore> for Store {
    fn from(store: MemoryStore) -> Self {
        Arc::new(store).store()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("store", &self.descriptor.store)
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

/// Nothing is ever removed, so no answer becomes void and [`sync`](ChunkStore::sync) has nothing to tell
/// the publish: its [`Synced`] is empty. An entry that is put again replaces what is there, which heals
/// wrong bytes. An entry longer than [`MAX_RAW_LEN`] is `Invalid`, and then nothing of its batch is stored.
#[async_trait]
impl ChunkStore for MemoryStore {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let entries = self.entries.read();
        ids.iter().map(|id| entries.get(&(kind, *id)).cloned().ok_or_else(|| missing(kind, id))).collect()
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        if let Some((id, bytes)) = entries.iter().find(|(_, bytes)| bytes.len() > MAX_RAW_LEN) {
            let len = bytes.len();
            return Err(Error::invalid(format!("{kind:?} entry {id} of {len} bytes is over {MAX_RAW_LEN}")));
        }
        self.entries.write().extend(entries.into_iter().map(|(id, bytes)| ((kind, id), bytes)));
        Ok(())
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let entries = self.entries.read();
        Ok(ids.iter().map(|id| entries.contains_key(&(kind, *id))).collect())
    }

    async fn sync(&self) -> Result<Synced> {
        Ok(Synced::default())
    }
}

fn lost(what: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Conflict, format!("{what} was changed by someone else: read it again and retry"))
}

#[async_trait]
impl IndexStore for MemoryStore {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        Ok(self.records.read().images.get(name).cloned())
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let mut records = self.records.write();
        if records.images.get(&record.name).map(|found| &found.version) != expected {
            return Err(lost(format_args!("image '{}'", record.name)));
        }
        let version = records.next_version();
        let versioned = Versioned { value: record.clone(), version: version.clone() };
        records.images.insert(record.name.clone(), versioned);
        Ok(version)
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        let mut records = self.records.write();
        if records.images.get(name).map(|found| &found.version) != Some(expected) {
            return Err(lost(format_args!("image '{name}'")));
        }
        records.images.remove(name);
        Ok(())
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        Ok(self.records.read().images.keys().cloned().map(Ok).collect())
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        Ok(self.records.read().catalog.clone())
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let mut records = self.records.write();
        if records.catalog.version != *expected {
            return Err(lost("the catalog"));
        }
        let version = records.next_version();
        records.catalog = Versioned { value: catalog.clone(), version: version.clone() };
        Ok(version)
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.records.write().maps.insert(id, map);
        Ok(())
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        let map = self.records.read().maps.get(&id).cloned();
        map.ok_or_else(|| Error::not_found(format!("image map {id} is not in this store")))
    }
}
