//! [`Healing`]: a store, and another that is asked for what is damaged there, and that heals it.
//!
//! Stands right above a store that is near and keeps what it is given, with the same entries farther away: a local
//! store and the bucket that it was pulled from. Unlike a cache, the near store is not filled: what it does not have
//! is `NotFound`. What it has and can't give is read from the far one, verified, answered, and stored again here.
//!
//! The answer waits for the far store, not for the healing: that goes on by itself, and if it fails, the next reader
//! tries again.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::TaskTracker;

use super::{Verify, one_each};
use crate::{
    ChunkId, ChunkKind, ChunkStore, ErrorKind, Result,
    format::codec::Encoded,
    store::{Placement, Synced, get_one},
    types::MapId,
};

#[cfg(test)]
mod tests;

/// A near store whose damage is healed from a far one. Both are verified. Clones share what they know.
///
/// **Durability**: a healed entry is stored and synced like any other. **Runtime**: it needs tokio's.
#[derive(Clone, Debug)]
pub struct Healing {
    near: Verify<Arc<dyn ChunkStore>>,
    far: Verify<Arc<dyn ChunkStore>>,
    under_way: TaskTracker,
}

impl Healing {
    /// Reads and writes `near`, and heals it from `far`.
    pub fn new(near: Arc<dyn ChunkStore>, far: Arc<dyn ChunkStore>) -> Self {
        Self { near: Verify::new(near), far: Verify::new(far), under_way: TaskTracker::new() }
    }

    /// Waits until nothing is being healed.
    pub async fn settle(&self) {
        self.under_way.close();
        self.under_way.wait().await;
        self.under_way.reopen();
    }

    /// For each of the answers that tells of damage what the far store has instead, which is stored here, too.
    async fn heal<T>(
        &self,
        kind: ChunkKind,
        ids: &[ChunkId],
        answers: &[Result<T>],
    ) -> Vec<(usize, Encoded)> {
        let is_damaged = |n: &usize| answers[*n].as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt);
        let damaged: Vec<usize> = (0..ids.len()).filter(is_damaged).collect();
        if damaged.is_empty() {
            return Vec::new();
        }
        let wanted: Vec<_> = damaged.iter().map(|&n| ids[n]).collect();
        let found = one_each(&wanted, self.far.get_encoded(kind, &wanted).await);
        let mut instead = Vec::new();
        for (n, found) in damaged.into_iter().zip(found) {
            match found {
                Ok(entry) => instead.push((n, entry)),
                // What is wrong here stays the answer: it names the damage.
                Err(error) => {
                    let why = error.report();
                    tracing::warn!(id = %ids[n], why, "the far store can't make good what is damaged");
                }
            }
        }
        let healed: Vec<_> = instead.iter().map(|(n, entry)| (ids[*n], entry.clone())).collect();
        let (near, count) = (self.near.clone(), healed.len());
        if count > 0 {
            self.under_way.spawn(async move {
                let stored = async {
                    near.put_encoded(kind, healed).await?;
                    near.sync().await
                };
                match stored.await {
                    Ok(_) => tracing::info!(count, "damaged entries were healed"),
                    Err(error) => {
                        tracing::warn!(error = %error.report(), "damaged entries were read from afar, and not healed");
                    }
                }
            });
        }
        instead
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChunkStore for Healing {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let mut answers = one_each(ids, self.near.get(kind, ids).await);
        for (n, entry) in self.heal(kind, ids, &answers).await {
            answers[n] = entry.decode();
        }
        answers
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.near.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.near.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        self.near.holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        self.near.sync().await
    }

    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.near.try_get(kind, id)
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        super::verify::slice(id, &get_one(self, kind, id).await?, start, length)
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let mut answers = one_each(ids, self.near.get_encoded(kind, ids).await);
        for (n, entry) in self.heal(kind, ids, &answers).await {
            answers[n] = Ok(entry);
        }
        answers
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.near.put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.near.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.near.locate(kind, ids).await
    }
}
