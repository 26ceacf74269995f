//! A store of your own: implement four methods, prove them with the conformance suite, stack them.
//!
//! ```text
//! cargo run -p gabion-examples --example custom_store
//! ```
//!
//! `Frugal` keeps entries compressed in a map and refuses what would exceed its quota. Nothing else about
//! it is special: caches, verification, metrics and stacks come from gabion and work on any store.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::codec::{Compression, Encoded, Encoder},
    store::Synced,
    stores::{Cached, MemoryCache, Metered, Stack},
    testing::conformance::{self, Capabilities},
    types::chunk_id,
};
use parking_lot::Mutex;

/// Compressed entries in memory, up to a quota.
#[derive(Debug)]
struct Frugal {
    quota: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: BTreeMap<(ChunkKind, ChunkId), Encoded>,
    stored: usize,
}

impl Frugal {
    fn new(quota: usize) -> Self {
        Self { quota, kept: Mutex::default() }
    }

    fn stored(&self) -> usize {
        self.kept.lock().stored
    }
}

#[async_trait]
impl ChunkStore for Frugal {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let encoded = self.get_encoded(kind, ids).await;
        encoded.into_iter().map(|entry| entry?.decode()).collect()
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        let mut encoder = Encoder::new(Compression::Zstd(3))?;
        let encoded = entries.into_iter().map(|(id, bytes)| (id, encoder.encode(&bytes))).collect();
        self.put_encoded(kind, encoded).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let kept = self.kept.lock();
        Ok(ids.iter().map(|id| kept.entries.contains_key(&(kind, *id))).collect())
    }

    /// Memory has nothing to make durable, and no locators to publish.
    async fn sync(&self) -> Result<Synced> {
        Ok(Synced::default())
    }

    // The two methods below have defaults. A store that keeps compressed entries gives them its own,
    // so that a transfer moves them as they are.

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let kept = self.kept.lock();
        let find = |id: &ChunkId| kept.entries.get(&(kind, *id)).cloned();
        // Absent is NotFound, and nothing else is: a reader never takes a fault for an absence.
        ids.iter()
            .map(|id| find(id).ok_or_else(|| Error::not_found(format!("{kind:?} entry {id} is not kept"))))
            .collect()
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let kept = &mut *self.kept.lock();
        for (id, entry) in entries {
            let old = kept.entries.get(&(kind, id)).map_or(0, |old| old.bytes.len());
            let stored = kept.stored - old + entry.bytes.len();
            if stored > self.quota {
                let context = format!("no room for entry {id}: raise the quota of {} bytes", self.quota);
                return Err(Error::new(ErrorKind::NoSpace, context));
            }
            kept.stored = stored;
            kept.entries.insert((kind, id), entry);
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // 1. Does it keep the promises? The suite panics with the broken one if not.
    conformance::chunk_store(Capabilities::FULL, async || Frugal::new(64 << 20)).await;
    println!("Frugal passes the conformance suite");

    // 2. Its own policy: compressed, and no more than the quota.
    let small = Frugal::new(1000);
    let soft = Bytes::from(vec![b'x'; 64 * 1024]);
    small.put(ChunkKind::Data, vec![(chunk_id(&soft), soft.clone())]).await?;
    println!("64 KiB of one letter take {} bytes", small.stored());
    let hard: Bytes =
        (0..64 * 1024_u32).flat_map(|i| chunk_id(&i.to_le_bytes()).as_bytes()[..1].to_vec()).collect();
    match small.put(ChunkKind::Data, vec![(chunk_id(&hard), hard)]).await {
        Err(e) if e.kind() == ErrorKind::NoSpace => println!("64 KiB of noise are refused: {e}"),
        other => return other,
    }

    // 3. Stacked: memory in front, then a small near store, then a large one that takes the writes.
    let near = Arc::new(Metered::new(small));
    let far = Arc::new(Metered::new(Frugal::new(64 << 20)));
    let stack = Stack::builder().tier("near", near.clone()).tier("far", far.clone()).write_to("far")?;
    let cache = Arc::new(MemoryCache::new(16 << 20));
    let store = Cached::new(cache.clone(), Arc::new(stack));

    let fresh = Bytes::from(vec![b'y'; 64 * 1024]);
    let ids = [chunk_id(&soft), chunk_id(&fresh)];
    store.put(ChunkKind::Data, vec![(ids[1], fresh)]).await?;
    store.sync().await?;
    for round in ["cold", "warm"] {
        for entry in store.get(ChunkKind::Data, &ids).await {
            entry?;
        }
        let asked = |store: &Metered<Frugal>| store.metrics().get.entries;
        println!("{round}: near was asked for {} entries, far for {}", asked(&near), asked(&far));
    }
    let stats = cache.stats();
    println!("memory: {} hits, {} misses, {} bytes", stats.hits, stats.misses, stats.bytes);
    Ok(())
}
