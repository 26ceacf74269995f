//! An [`Arc`] of a store is a store, so that layers stand on shared stores as on their own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ChunkId, ChunkKind, ChunkStore, ImageName, IndexStore, Result,
    format::{catalog::Catalog, codec::Encoded, descriptor::Descriptor, image_record::ImageRecord},
    store::{Placement, Synced, Version, Versioned},
    types::MapId,
};

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore + ?Sized> ChunkStore for Arc<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        (**self).get(kind, ids).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        (**self).put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        (**self).contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        (**self).holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        (**self).sync().await
    }

    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        (**self).try_get(kind, id)
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        (**self).get_range(kind, id, start, length).await
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        (**self).get_encoded(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        (**self).put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        (**self).expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        (**self).locate(kind, ids).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: IndexStore + ?Sized> IndexStore for Arc<S> {
    fn descriptor(&self) -> &Descriptor {
        (**self).descriptor()
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        (**self).read_image(name).await
    }

    async fn recall_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        (**self).recall_image(name).await
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        (**self).write_image(record, expected).await
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        (**self).remove_image(name, expected).await
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        (**self).list_images().await
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        (**self).read_catalog().await
    }

    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        (**self).recall_catalog().await
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        (**self).write_catalog(catalog, expected).await
    }

    async fn settle(&self) -> Result<()> {
        (**self).settle().await
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        (**self).put_map(id, map).await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        (**self).get_map(id).await
    }
    async fn map_len(&self, id: MapId) -> Result<u64> {
        (**self).map_len(id).await
    }
}
