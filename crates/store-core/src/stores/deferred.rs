//! [`Deferred`]: a store that is opened once something is asked of it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::OnceCell;

use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
    types::MapId,
};

type Open<S> = dyn Fn() -> BoxFuture<'static, Result<S>> + Send + Sync;

/// A store to read from in need, as the far one of a [`Healing`](super::Healing). While it can't be opened, whatever
/// is asked of it fails, and the next question tries again. It takes no writes.
pub struct Deferred<S> {
    open: Box<Open<S>>,
    store: OnceCell<S>,
}

impl<S: ChunkStore> Deferred<S> {
    /// A store that `open` opens.
    pub fn new(open: impl Fn() -> BoxFuture<'static, Result<S>> + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open), store: OnceCell::new() }
    }

    async fn store(&self) -> Result<&S> {
        self.store.get_or_try_init(&self.open).await
    }

    fn read_only() -> Error {
        Error::new(ErrorKind::ReadOnly, "this store is only read from, in need")
    }
}

impl<S: fmt::Debug> fmt::Debug for Deferred<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deferred").field("store", &self.store.get()).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore> ChunkStore for Deferred<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        match self.store().await {
            Ok(store) => store.get(kind, ids).await,
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        match self.store().await {
            Ok(store) => store.get_encoded(kind, ids).await,
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.store().await?.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        match self.store().await {
            Ok(store) => store.holds(kind, ids).await,
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.store.get()?.try_get(kind, id)
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        self.store().await?.get_range(kind, id, start, length).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        if let Some(store) = self.store.get() {
            store.expect(maps, chunks);
        }
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.store().await?.locate(kind, ids).await
    }

    async fn put(&self, _: ChunkKind, _: Vec<(ChunkId, Bytes)>) -> Result<()> {
        Err(Self::read_only())
    }

    async fn put_encoded(&self, _: ChunkKind, _: Vec<(ChunkId, Encoded)>) -> Result<()> {
        Err(Self::read_only())
    }

    async fn sync(&self) -> Result<Synced> {
        Err(Self::read_only())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{stores::MemoryStore, testing::FixedClock, types::chunk_id};

    #[tokio::test]
    async fn is_opened_once_when_it_is_needed() {
        let store = Arc::new(MemoryStore::new(&FixedClock::default()).unwrap());
        let bytes = Bytes::from_static(b"far away");
        let id = chunk_id(&bytes);
        store.put(ChunkKind::Data, vec![(id, bytes.clone())]).await.unwrap();
        let tries = Arc::new(AtomicUsize::new(0));
        let deferred = {
            let tries = Arc::clone(&tries);
            Deferred::new(move || {
                let (store, count) = (Arc::clone(&store), tries.fetch_add(1, Ordering::Relaxed));
                let away = Error::new(ErrorKind::Unavailable, "away");
                Box::pin(async move { if count == 0 { Err(away) } else { Ok(store) } })
            })
        };
        assert_eq!(tries.load(Ordering::Relaxed), 0);
        let answer = deferred.get(ChunkKind::Data, &[id]).await.remove(0);
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(deferred.get(ChunkKind::Data, &[id]).await.remove(0).unwrap(), bytes);
        assert!(deferred.holds(ChunkKind::Data, &[id]).await.remove(0).unwrap());
        assert_eq!(
            deferred.get_encoded(ChunkKind::Data, &[id]).await.remove(0).unwrap().decode().unwrap(),
            bytes
        );
        assert_eq!(tries.load(Ordering::Relaxed), 2, "once in vain");
        assert_eq!(deferred.sync().await.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
}
