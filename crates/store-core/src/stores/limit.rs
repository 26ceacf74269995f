//! [`Limited`]: a bound on the calls that are inside a store at once.
//!
//! Stands right around a store that has a cost per call (a remote): a burst of reads waits here, in the
//! order it came, rather than opening a connection each.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
    types::MapId,
};

#[cfg(test)]
mod tests;

/// Lets at most a fixed number of calls into `S` at once. A call dropped while it waits or runs frees its
/// place. What answers without waiting is not limited.
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
    places: Semaphore,
}

impl<S: ChunkStore> Limited<S> {
    /// Lets `calls` calls into `inner` at once; 0, with which nothing would ever go on, is `Invalid`.
    pub fn new(inner: S, calls: usize) -> Result<Self> {
        if calls == 0 || calls > Semaphore::MAX_PERMITS {
            return Err(Error::invalid(format!("a limit of {calls} calls at once: use at least 1")));
        }
        Ok(Self { inner, places: Semaphore::new(calls) })
    }

    async fn place(&self) -> SemaphorePermit<'_> {
        self.places.acquire().await.expect("the semaphore is never closed")
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore> ChunkStore for Limited<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let _place = self.place().await;
        self.inner.get(kind, ids).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        let _place = self.place().await;
        self.inner.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let _place = self.place().await;
        self.inner.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let _place = self.place().await;
        self.inner.holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        let _place = self.place().await;
        self.inner.sync().await
    }

    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.inner.try_get(kind, id)
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let _place = self.place().await;
        self.inner.get_range(kind, id, start, length).await
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let _place = self.place().await;
        self.inner.get_encoded(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let _place = self.place().await;
        self.inner.put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let _place = self.place().await;
        self.inner.locate(kind, ids).await
    }
}
