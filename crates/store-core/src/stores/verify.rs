//! [`Verify`]: nothing passes up that is not what its id says.
//!
//! Stands right above a store and below every cache, so that bytes are hashed once, on their way into a
//! cache, and never on a warm read. Stores check what their format lets them check; this layer makes a
//! lying remote, a swapped entry and a flipped bit one and the same: `Corrupt`, with the entry's name.
//!
//! **Healing**: an entry that failed here counts as absent until it is put again: `contains` says so, and a
//! writer that has the bytes stores them. Whether that replaces the bad bytes is up to the store below,
//! which must not take a presence it didn't check for a reason to skip the put.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use super::one_each;
use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    blocking::spawn_blocking,
    format::codec::{Encoded, MAX_RAW_LEN},
    store::{Placement, Synced, get_one},
    sync::{Handle, Mutex},
    types::{MapId, id_of},
};

#[cfg(test)]
mod tests;

/// Above this many bytes a batch is hashed off the runtime's own threads: BLAKE3 takes some 0.2 ms for
/// it, decompression of as much some 1 ms.
const HASH_INLINE_MAX: usize = 1 << 20;

/// Failed entries remembered; a store with more needs a check, and loses nothing but early healing.
const FAILED_MAX: usize = 4096;

/// Verifies every entry that `S` answers. Writes pass unchecked: their callers vouch for them. Clones
/// share what they know.
#[derive(Clone, Debug)]
pub struct Verify<S> {
    inner: S,
    /// Entries that failed and were not put since.
    failed: Arc<Mutex<HashSet<(ChunkKind, ChunkId)>>>,
}

impl<S: ChunkStore> Verify<S> {
    /// Verifies what `inner` answers.
    pub fn new(inner: S) -> Self {
        Self { inner, failed: Arc::default() }
    }

    /// Verifies a batch, here if it is small, else where blocking is allowed.
    async fn check<T: Entry>(
        &self,
        kind: ChunkKind,
        ids: &[ChunkId],
        answers: Vec<Result<T>>,
    ) -> Vec<Result<T>> {
        let answers = verify(kind, ids, one_each(ids, answers)).await;
        let corrupt = |answer: &Result<T>| answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt);
        let failed = ids.iter().zip(&answers).filter(|(_, answer)| corrupt(answer));
        for (id, _) in failed {
            let mut known = self.failed.lock();
            if known.len() < FAILED_MAX {
                known.insert((kind, *id));
            }
        }
        answers
    }

    fn healed(&self, kind: ChunkKind, ids: &[ChunkId]) {
        let mut failed = self.failed.lock();
        if !failed.is_empty() {
            for id in ids {
                failed.remove(&(kind, *id));
            }
        }
    }
}

/// An entry in either form.
trait Entry: Clone + Send + 'static {
    /// Bytes to hash; what an entry claims is bounded before it counts.
    fn weight(&self) -> usize;
    fn decoded(&self) -> Result<Bytes>;
}

impl Entry for Bytes {
    fn weight(&self) -> usize {
        self.len()
    }

    fn decoded(&self) -> Result<Bytes> {
        Ok(self.clone())
    }
}

impl Entry for Encoded {
    fn weight(&self) -> usize {
        self.bytes.len() + MAX_RAW_LEN.min(self.raw_len as usize)
    }

    fn decoded(&self) -> Result<Bytes> {
        self.decode()
    }
}

fn verify_one<T: Entry>(kind: ChunkKind, id: &ChunkId, entry: T) -> Result<T> {
    let bytes = entry.decoded().map_err(|e| {
        Error::with_source(ErrorKind::Corrupt, format!("{kind:?} entry {id} does not decode"), e)
    })?;
    if id_of(kind, &bytes) == *id {
        Ok(entry)
    } else {
        Err(Error::corrupt(format!(
            "{kind:?} entry {id}: the store answered {} bytes that are not this entry; run a check of the store",
            bytes.len()
        )))
    }
}

fn verify_all<T: Entry>(kind: ChunkKind, ids: &[ChunkId], answers: Vec<Result<T>>) -> Vec<Result<T>> {
    let verify = |(id, answer): (&ChunkId, Result<T>)| answer.and_then(|entry| verify_one(kind, id, entry));
    ids.iter().zip(answers).map(verify).collect()
}

async fn verify<T: Entry>(kind: ChunkKind, ids: &[ChunkId], answers: Vec<Result<T>>) -> Vec<Result<T>> {
    let weight: usize = answers.iter().flatten().map(Entry::weight).sum();
    match Handle::try_current() {
        Ok(_) if weight > HASH_INLINE_MAX => {
            let owned = ids.to_vec();
            let hashed = spawn_blocking(move || verify_all(kind, &owned, answers)).await;
            hashed.unwrap_or_else(|e| {
                let stopped = Error::with_source(ErrorKind::Cancelled, "verifying entries was stopped", e);
                vec![Err(stopped); ids.len()]
            })
        }
        _ => verify_all(kind, ids, answers),
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore> ChunkStore for Verify<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let answers = self.inner.get(kind, ids).await;
        self.check(kind, ids, answers).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        self.inner.put(kind, entries).await?;
        self.healed(kind, &ids);
        Ok(())
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let present = self.inner.contains(kind, ids).await?;
        let failed = self.failed.lock();
        Ok(present
            .into_iter()
            .zip(ids)
            .map(|(present, id)| present && !failed.contains(&(kind, *id)))
            .collect())
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let present = self.inner.holds(kind, ids).await;
        let failed = self.failed.lock();
        let sound = |(present, id): (Result<bool>, &ChunkId)| Ok(present? && !failed.contains(&(kind, *id)));
        present.into_iter().zip(ids).map(sound).collect()
    }

    async fn sync(&self) -> Result<Synced> {
        self.inner.sync().await
    }

    /// Hashes here, too. What fails is not answered: [`get`](ChunkStore::get) will say why.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.inner.try_get(kind, id).and_then(|bytes| verify_one(kind, id, bytes).ok())
    }

    /// Gets the whole entry: a part has no hash of its own.
    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        slice(id, &get_one(self, kind, id).await?, start, length)
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let answers = self.inner.get_encoded(kind, ids).await;
        self.check(kind, ids, answers).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        self.inner.put_encoded(kind, entries).await?;
        self.healed(kind, &ids);
        Ok(())
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.inner.locate(kind, ids).await
    }
}

/// Part of an entry, or `Invalid` if it is not inside.
pub(super) fn slice(id: &ChunkId, bytes: &Bytes, start: usize, length: usize) -> Result<Bytes> {
    match start.checked_add(length) {
        Some(end) if end <= bytes.len() => Ok(bytes.slice(start..end)),
        _ => Err(Error::invalid(format!("range {start}+{length} is outside entry {id} of {}", bytes.len()))),
    }
}
