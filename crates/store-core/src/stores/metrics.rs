//! [`Metered`]: counts what a store is asked and what it answers.
//!
//! Stands wherever the question is: around a remote it counts requests to pay for, around a stack what
//! the caches above let through. A counter is one relaxed atomic: no order between counters is promised.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
    types::MapId,
};

#[cfg(test)]
mod tests;

/// Counts of one method. Plain numbers, all since the layer was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodMetrics {
    /// Calls begun, those dropped before their end included.
    pub calls: u64,
    /// Entries asked for or handed in.
    pub entries: u64,
    /// Bytes of entries answered or handed in, in the form the method uses.
    pub bytes: u64,
    /// Entries answered to be absent.
    pub missing: u64,
    /// Other errors: one per entry where a method answers per entry, else one per call.
    pub errors: u64,
}

/// Counts of all methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metrics {
    /// [`ChunkStore::get`].
    pub get: MethodMetrics,
    /// [`ChunkStore::put`].
    pub put: MethodMetrics,
    /// [`ChunkStore::contains`].
    pub contains: MethodMetrics,
    /// [`ChunkStore::sync`].
    pub sync: MethodMetrics,
    /// [`ChunkStore::try_get`].
    pub try_get: MethodMetrics,
    /// [`ChunkStore::get_range`].
    pub get_range: MethodMetrics,
    /// [`ChunkStore::get_encoded`].
    pub get_encoded: MethodMetrics,
    /// [`ChunkStore::put_encoded`].
    pub put_encoded: MethodMetrics,
    /// [`ChunkStore::locate`].
    pub locate: MethodMetrics,
}

#[derive(Debug, Default)]
struct Counter {
    calls: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    missing: AtomicU64,
    errors: AtomicU64,
}

impl Counter {
    fn begin(&self, entries: usize) {
        self.calls.fetch_add(1, Relaxed);
        self.entries.fetch_add(entries as u64, Relaxed);
    }

    fn bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    fn missing(&self, entries: usize) {
        self.missing.fetch_add(entries as u64, Relaxed);
    }

    fn error(&self, error: &Error) {
        let counter = if error.kind() == ErrorKind::NotFound { &self.missing } else { &self.errors };
        counter.fetch_add(1, Relaxed);
    }

    fn answer<T>(&self, answer: &Result<T>, len: impl Fn(&T) -> usize) {
        match answer {
            Ok(entry) => self.bytes(len(entry)),
            Err(e) => self.error(e),
        }
    }

    fn snapshot(&self) -> MethodMetrics {
        MethodMetrics {
            calls: self.calls.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            missing: self.missing.load(Relaxed),
            errors: self.errors.load(Relaxed),
        }
    }
}

/// Counts the calls into `S`. Keep it as an [`Arc`](std::sync::Arc) to read it while others use it.
#[derive(Debug)]
pub struct Metered<S> {
    inner: S,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    get: Counter,
    put: Counter,
    contains: Counter,
    sync: Counter,
    try_get: Counter,
    get_range: Counter,
    get_encoded: Counter,
    put_encoded: Counter,
    locate: Counter,
}

impl<S: ChunkStore> Metered<S> {
    /// Counts the calls into `inner`, from zero.
    pub fn new(inner: S) -> Self {
        Self { inner, counters: Counters::default() }
    }

    /// The counts now.
    pub fn metrics(&self) -> Metrics {
        let counters = &self.counters;
        Metrics {
            get: counters.get.snapshot(),
            put: counters.put.snapshot(),
            contains: counters.contains.snapshot(),
            sync: counters.sync.snapshot(),
            try_get: counters.try_get.snapshot(),
            get_range: counters.get_range.snapshot(),
            get_encoded: counters.get_encoded.snapshot(),
            put_encoded: counters.put_encoded.snapshot(),
            locate: counters.locate.snapshot(),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore> ChunkStore for Metered<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let counter = &self.counters.get;
        counter.begin(ids.len());
        let answers = self.inner.get(kind, ids).await;
        answers.iter().for_each(|answer| counter.answer(answer, Bytes::len));
        answers
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        let counter = &self.counters.put;
        counter.begin(entries.len());
        counter.bytes(entries.iter().map(|(_, bytes)| bytes.len()).sum());
        self.inner.put(kind, entries).await.inspect_err(|e| counter.error(e))
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let counter = &self.counters.contains;
        counter.begin(ids.len());
        let answer = self.inner.contains(kind, ids).await;
        answer
            .inspect(|present| counter.missing(present.iter().filter(|present| !**present).count()))
            .inspect_err(|e| counter.error(e))
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let counter = &self.counters.contains;
        counter.begin(ids.len());
        let answers = self.inner.holds(kind, ids).await;
        counter.missing(answers.iter().filter(|answer| matches!(answer, Ok(false))).count());
        answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(|e| counter.error(e));
        answers
    }

    async fn sync(&self) -> Result<Synced> {
        let counter = &self.counters.sync;
        counter.begin(0);
        self.inner.sync().await.inspect_err(|e| counter.error(e))
    }

    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        let counter = &self.counters.try_get;
        counter.begin(1);
        let answer = self.inner.try_get(kind, id);
        match &answer {
            Some(bytes) => counter.bytes(bytes.len()),
            None => counter.missing(1),
        }
        answer
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let counter = &self.counters.get_range;
        counter.begin(1);
        let answer = self.inner.get_range(kind, id, start, length).await;
        counter.answer(&answer, Bytes::len);
        answer
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let counter = &self.counters.get_encoded;
        counter.begin(ids.len());
        let answers = self.inner.get_encoded(kind, ids).await;
        answers.iter().for_each(|answer| counter.answer(answer, |entry| entry.bytes.len()));
        answers
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let counter = &self.counters.put_encoded;
        counter.begin(entries.len());
        counter.bytes(entries.iter().map(|(_, entry)| entry.bytes.len()).sum());
        self.inner.put_encoded(kind, entries).await.inspect_err(|e| counter.error(e))
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let counter = &self.counters.locate;
        counter.begin(ids.len());
        let answer = self.inner.locate(kind, ids).await;
        answer
            .inspect(|places| counter.missing(places.iter().filter(|place| place.is_none()).count()))
            .inspect_err(|e| counter.error(e))
    }
}
