//! An [`Arc`] of a store is a store, so that layers stand on shared stores as on their own.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ChunkId, ChunkKind, ChunkStore, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
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

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        (**self).locate(kind, ids).await
    }
}
