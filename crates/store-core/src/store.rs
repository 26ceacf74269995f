//! The two traits a storage backend implements, and what passes through them.
//!
//! A store keeps immutable **entries** (data chunks, index nodes, checkpoints) behind [`ChunkStore`] and
//! the few mutable objects (image records, the catalog) behind [`IndexStore`]. Caches, verification and
//! stacks are [`ChunkStore`]s around others, in [`stores`](crate::stores).

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ChunkId, ChunkKind, Error, ImageName, Result,
    format::{
        catalog::{Catalog, LocatorRef},
        codec::{Encoded, MAX_RAW_LEN},
        descriptor::Descriptor,
        image_record::ImageRecord,
    },
    types::{MapId, PackId},
};

/// Immutable entries by id.
///
/// **Closure**: a store holds a node only if it holds all that the node reaches. Writers put children
/// before parents and [`sync`](Self::sync) before they publish.
///
/// **Idempotence**: putting what is there already is success and normally writes nothing; an entry that
/// failed verification counts as absent, so that putting it again heals it. A put that did not finish
/// leaves nothing that a reader can see.
///
/// **Trust**: a store checks what its own format lets it check and may return wrong bytes otherwise;
/// `Verify` stands above it where bytes enter a cache.
///
/// **Errors**: `NotFound` says the entry is known to be absent. What could not be asked is
/// `Unavailable`, never `NotFound`.
///
/// **Cancel safety**: every method may be dropped at any await; a dropped put may or may not have
/// stored its entries.
#[async_trait]
pub trait ChunkStore: Send + Sync + fmt::Debug {
    /// Decoded entries of one kind, one result per id and in the order asked.
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>>;

    /// Stores decoded entries of one kind. The caller vouches that each id is the hash of its bytes.
    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()>;

    /// Which of the entries are here, in the order asked. "Yes" is covered by the next
    /// [`sync`](Self::sync), like a put. "No" may mean that finding out costs more than storing the entry again.
    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>>;

    /// As [`contains`](Self::contains), whatever finding out costs: "no" is true, too. One result per id and in
    /// the order asked.
    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        match self.contains(kind, ids).await {
            Ok(present) => present.into_iter().map(Ok).collect(),
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    /// Makes durable everything put, or reported present, through this handle before the call.
    async fn sync(&self) -> Result<Synced>;

    /// An entry that can be had without waiting, decoded and verified. Caches answer; others need not.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        let _ = (kind, id);
        None
    }

    /// Part of a decoded entry, `start..start + length` within it, else `Invalid`.
    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let bytes = get_one(self, kind, id).await?;
        match start.checked_add(length) {
            Some(end) if end <= bytes.len() => Ok(bytes.slice(start..end)),
            _ => Err(Error::invalid(format!(
                "range {start}+{length} is outside entry {id} of {}",
                bytes.len()
            ))),
        }
    }

    /// Entries in the form they are stored in, for a transfer that need not recompress them.
    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let raw = |(id, entry): (&ChunkId, Result<Bytes>)| match entry? {
            bytes if bytes.len() <= MAX_RAW_LEN => Ok(Encoded::raw(bytes)),
            bytes => {
                Err(Error::corrupt(format!("entry {id} of {} bytes is too long to be one", bytes.len())))
            }
        };
        ids.iter().zip(self.get(kind, ids).await).map(raw).collect()
    }

    /// Stores entries that are encoded already. As [`put`](Self::put), the caller vouches for the ids.
    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let decoded =
            entries.into_iter().map(|(id, entry)| Ok((id, entry.decode()?))).collect::<Result<_>>()?;
        self.put(kind, decoded).await
    }

    /// Says that data chunks will be asked for, and with each a block of the disk that is found in it; `maps`
    /// are those of an image with that disk, newest first. A store that is far away finds the chunks in these
    /// maps with few requests. A hint: it starts nothing, never fails, and may be forgotten.
    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        let _ = (maps, chunks);
    }

    /// Where entries lie, as far as this store keeps them in packs; for image maps.
    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let _ = kind;
        Ok(vec![None; ids.len()])
    }
}

/// One entry by [`ChunkStore::get`].
pub async fn get_one<S: ChunkStore + ?Sized>(store: &S, kind: ChunkKind, id: &ChunkId) -> Result<Bytes> {
    let mut found = store.get(kind, std::slice::from_ref(id)).await;
    match found.pop() {
        Some(result) if found.is_empty() => result,
        _ => Err(Error::corrupt(format!("store answered more or less than the one entry asked for, {id}"))),
    }
}

/// What a [`ChunkStore::sync`] made durable, for the publish that follows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Locators of this handle that the catalog may not name yet.
    pub locators: Vec<LocatorRef>,
    /// Generation of the catalog under which this handle first answered "it is there" since its last
    /// publish; if entries were condemned since, the answers are void. `None` if nothing was answered.
    pub answered_under: Option<u64>,
}

/// Where an entry lies in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The pack.
    pub pack: PackId,
    /// Offset of the stored bytes (behind the entry's header) in the pack.
    pub offset: u64,
    /// Length of the stored bytes.
    pub stored_len: u32,
    /// Length of the decoded bytes.
    pub raw_len: u32,
    /// Codec of the stored bytes, as in [`codec`](crate::format::codec).
    pub codec: crate::format::codec::Codec,
}

/// State of a mutable object at one moment, as its store names it: an etag, a generation. Opaque.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub Bytes);

/// A mutable object and the version that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The object.
    pub value: T,
    /// What a compare-and-swap compares with.
    pub version: Version,
}

/// The mutable objects of a store: image records and the catalog, each changed by compare-and-swap
/// only, and image maps, which are immutable and hints.
///
/// **Atomicity**: a write is there whole or not at all, durable when it is acknowledged.
///
/// **Errors**: a lost compare-and-swap is `Conflict` and changed nothing. After `Unavailable` the
/// outcome of a write is unknown: read back before acting.
#[async_trait]
pub trait IndexStore: Send + Sync + fmt::Debug {
    /// The store's descriptor.
    fn descriptor(&self) -> &Descriptor;

    /// An image's record, or `None` if there is no such image.
    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>>;

    /// As [`read_image`](Self::read_image), but may answer what this handle read or wrote last, if that
    /// saves a request: for a change by compare-and-swap, which finds out, and is tried again with a fresh
    /// record then.
    async fn recall_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        self.read_image(name).await
    }

    /// Replaces the record of version `expected`, or creates it if `None`.
    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version>;

    /// Removes an image's record if it still has version `expected`.
    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()>;

    /// Names of all images, sorted; last, an error for every record that does not tell its name. One damaged
    /// record hides no other image, and an error is never shown as an empty list.
    async fn list_images(&self) -> Result<Vec<Result<ImageName>>>;

    /// The catalog.
    async fn read_catalog(&self) -> Result<Versioned<Catalog>>;

    /// As [`read_catalog`](Self::read_catalog), but may answer what this handle read or wrote last: for a
    /// change by compare-and-swap.
    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        self.read_catalog().await
    }

    /// Replaces the catalog of version `expected`.
    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version>;

    /// Makes durable what this handle has read of records and of the catalog: their writer may have died when others
    /// saw what he wrote, but before that was durable. Whoever reports success because of what he read calls this
    /// first. Nothing to do for a store that shows only what is durable.
    async fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Stores an image map, durably.
    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()>;

    /// An image map.
    async fn get_map(&self, id: MapId) -> Result<Bytes>;

    /// Length of an image map in bytes.
    async fn map_len(&self, id: MapId) -> Result<u64> {
        self.get_map(id).await.map(|map| map.len() as u64)
    }
}

/// A store: where its entries are read and written, and its mutable objects.
#[derive(Clone, Debug)]
pub struct Store {
    /// Entries, through whatever caches and checks stand in front of them.
    pub chunks: Arc<dyn ChunkStore>,
    /// Images and catalog.
    pub index: Arc<dyn IndexStore>,
}
