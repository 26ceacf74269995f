//! [`DiskCached`]: the disk cache in front of a store.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, Result,
    format::codec::Encoded,
    store::{Placement, Synced, get_one},
    stores::Verify,
    types::MapId,
};

use super::DiskCache;

/// A store behind a disk cache. Stands below the memory ([`Cached::trusting`](gabion_store_core::stores::Cached::trusting)) and above everything slow; it brings
/// its own [`Verify`], so that only bytes that match their id get into the cache, and a lying store is found out
/// before. All it answers was hashed, here or in the cache.
///
/// Reads of entries are answered from the cache and, for the rest, by one batch of the store below, which fills
/// the cache beside the reader, not before it. A part of an entry is cut out of the whole: the checksum on disk
/// covers all of it, at most 128 KiB of data, and reading that is one call without decompression. Writes and
/// encoded reads pass by, as they do in `Cached` and for the same reasons; so do `contains` and `locate`, which
/// are about the store below and not about what is remembered of it.
#[derive(Debug)]
pub struct DiskCached {
    cache: DiskCache,
    inner: Verify<Arc<dyn ChunkStore>>,
}

impl DiskCached {
    /// Puts `cache`, which other stores may share, in front of `inner`.
    pub fn new(cache: DiskCache, inner: Arc<dyn ChunkStore>) -> Self {
        Self { cache, inner: Verify::new(inner) }
    }

    /// The cache in front.
    pub fn cache(&self) -> &DiskCache {
        &self.cache
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChunkStore for DiskCached {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let cached = self.cache.get(kind, ids).await;
        let missing: Vec<_> =
            ids.iter().zip(&cached).filter(|(_, bytes)| bytes.is_none()).map(|(id, _)| *id).collect();
        if missing.is_empty() {
            return cached.into_iter().flatten().map(Ok).collect();
        }
        let fetched = self.inner.get(kind, &missing).await;
        let new = missing.iter().zip(&fetched);
        self.cache
            .fill(kind, new.filter_map(|(id, bytes)| Some((*id, bytes.as_ref().ok()?.clone()))).collect());
        let mut fetched = fetched.into_iter();
        let mut next = || fetched.next().expect("Verify answers once per entry");
        cached.into_iter().map(|bytes| bytes.map_or_else(&mut next, Ok)).collect()
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.inner.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.inner.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        self.inner.holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        self.inner.sync().await
    }

    /// What the store below has at once: a file can always make one wait.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.inner.try_get(kind, id)
    }

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

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        self.inner.get_encoded(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.inner.put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.inner.locate(kind, ids).await
    }
}
