//! A tier of your own between the LRU memory and a bucket.
//!
//! ```text
//! cargo run -p gabion-examples --example custom_tier
//!
//! Cached (8 MiB, decoded) ─► Squeezed (this example: 64 MiB, as stored) ─► RemoteStore
//! ```
//!
//! Memory holds entries decoded, so that a warm read copies and does nothing else. Behind it, `Squeezed` keeps
//! them as they are stored: three times as many fit, and reading one costs a decompression instead of a
//! request. It is a cache like any other; everything else comes from gabion.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, Result,
    clock::SystemClock,
    format::codec::{Compression, Encoded, Encoder},
    store::{Placement, Synced, get_one},
    stores::{Cached, MemoryCache, MemoryStore, Metered, Verify},
    testing::conformance::{self, Capabilities},
    types::{MapId, chunk_id},
};
use gabion_store_s3::{ObjectUrl, RemoteOptions, RemoteStore};
use lru::LruCache;
use parking_lot::Mutex;

/// Entries as they are stored, the last used ones, in front of a store.
///
/// What enters is verified, because `S` stands behind a [`Verify`]: a cache must not keep a lie. Presence and
/// places are asked of the store alone, because a writer relies on the answer.
#[derive(Debug)]
struct Squeezed<S> {
    inner: Verify<S>,
    budget: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    entries: LruCache<(ChunkKind, ChunkId), Encoded>,
    bytes: usize,
}

impl<S: ChunkStore> Squeezed<S> {
    fn new(inner: S, budget: usize) -> Self {
        let kept = Kept { entries: LruCache::unbounded(), bytes: 0 };
        Self { inner: Verify::new(inner), budget, kept: Mutex::new(kept) }
    }

    fn keep(&self, kind: ChunkKind, id: ChunkId, entry: Encoded) {
        let kept = &mut *self.kept.lock();
        kept.bytes += entry.bytes.len();
        if let Some(old) = kept.entries.put((kind, id), entry) {
            kept.bytes -= old.bytes.len();
        }
        while kept.bytes > self.budget
            && let Some((_, oldest)) = kept.entries.pop_lru()
        {
            kept.bytes -= oldest.bytes.len();
        }
    }
}

// A wrapper that forgets a method silently loses what the store below can do, so the lint stays on.
#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl<S: ChunkStore> ChunkStore for Squeezed<S> {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let entries = self.get_encoded(kind, ids).await;
        entries.into_iter().map(|entry| entry?.decode()).collect()
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let mut answers: Vec<Option<Result<Encoded>>> = {
            let mut kept = self.kept.lock();
            ids.iter().map(|id| kept.entries.get(&(kind, *id)).cloned().map(Ok)).collect()
        };
        // What is missing goes below in one call, so that a bucket can answer it with few requests.
        let missing: Vec<_> = (0..ids.len()).filter(|&at| answers[at].is_none()).collect();
        let wanted: Vec<_> = missing.iter().map(|&at| ids[at]).collect();
        if !wanted.is_empty() {
            for (at, found) in missing.into_iter().zip(self.inner.get_encoded(kind, &wanted).await) {
                if let Ok(entry) = &found {
                    self.keep(kind, ids[at], entry.clone());
                }
                answers[at] = Some(found);
            }
        }
        let unanswered = || Err(Error::corrupt("the store gave fewer answers than it was asked for"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(unanswered)).collect()
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let bytes = get_one(self, kind, id).await?;
        match start.checked_add(length) {
            Some(end) if end <= bytes.len() => Ok(bytes.slice(start..end)),
            _ => Err(Error::invalid(format!("range {start}+{length} is outside entry {id}"))),
        }
    }

    /// Nothing here can be had without a decompression.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.inner.try_get(kind, id)
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.inner.put(kind, entries).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.inner.put_encoded(kind, entries).await
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

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.inner.locate(kind, ids).await
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // 1. Does it keep the promises of a store? The suite panics with the broken one if not.
    let fresh = async || Squeezed::new(MemoryStore::new(&SystemClock).expect("memory"), 64 << 20);
    conformance::chunk_store(Capabilities::FULL, fresh).await;
    println!("Squeezed passes the conformance suite");

    // 2. The stack. `memory://` is a bucket in this process; s3://, gs:// and az:// go in its place.
    let url: ObjectUrl = "memory://example".parse()?;
    let bucket = Arc::new(Metered::new(RemoteStore::init(&url, RemoteOptions::default()).await?));
    let squeezed = Arc::new(Squeezed::new(Arc::clone(&bucket), 64 << 20));
    let memory = Arc::new(MemoryCache::new(8 << 20));
    let stack = Cached::new(Arc::clone(&memory), Arc::clone(&squeezed) as _);

    // 3. 32 MiB of chunks that compress well: they don't fit the memory, but all of them fit the tier.
    let chunks: Vec<Bytes> = (0..512_u32).map(chunk).collect();
    let ids: Vec<_> = chunks.iter().map(|bytes| chunk_id(bytes)).collect();
    let mut encoder = Encoder::new(Compression::Zstd(3))?;
    let entries = ids.iter().zip(&chunks).map(|(id, bytes)| (*id, encoder.encode(bytes))).collect();
    stack.put_encoded(ChunkKind::Data, entries).await?;
    stack.sync().await?;
    for round in ["cold", "warm"] {
        let before = bucket.metrics().get_encoded.entries;
        for batch in ids.chunks(64) {
            for entry in stack.get(ChunkKind::Data, batch).await {
                entry?;
            }
        }
        let asked = bucket.metrics().get_encoded.entries - before;
        println!("{round}: {asked} of {} entries were asked of the bucket", ids.len());
    }
    println!("memory holds {} bytes, Squeezed {}", memory.stats().bytes, squeezed.kept.lock().bytes);
    Ok(())
}

/// 64 KiB, unlike any other.
fn chunk(number: u32) -> Bytes {
    let block = |at: u32| chunk_id(&(number * 64 + at).to_le_bytes()).as_bytes().repeat(32);
    (0..64).flat_map(block).collect()
}
