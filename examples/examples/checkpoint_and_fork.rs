//! A disk, a checkpoint while it is written, and a fork of the checkpoint: all in memory.
//!
//! `cargo run -p gabion-examples --example checkpoint_and_fork`

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    BlockDevice, ImageName, Result,
    clock::SystemClock,
    index::NodeCache,
    ops::{IngestOptions, Job, open_checkpoint},
    overlay::MemoryOverlay,
    store::Store,
    stores::{Cached, MemoryCache, MemoryStore},
    types::VolumeId,
    volume::{Append, Base, CheckpointOptions, Home, IndexBase, Volume},
};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() -> Result<()> {
    // A stack: a cache in front of a store. Any `ChunkStore` can stand in place of the store in memory.
    let backend = Arc::new(MemoryStore::new(&SystemClock)?);
    let cache = Arc::new(MemoryCache::new(64 << 20));
    let store = Store { chunks: Arc::new(Cached::new(cache, backend.clone())), index: backend };
    let nodes = Arc::new(NodeCache::new(Arc::clone(&store.chunks), 1 << 20));

    // An empty disk, some writes, a checkpoint.
    let size = 64 << 20;
    let disk = Volume::writable("vm1", Arc::new(MemoryOverlay::new(size)), Base::Empty, None, size);
    disk.write(0, Bytes::from(vec![1; 1 << 20])).await?;
    let options = CheckpointOptions {
        owner: VolumeId::random()?,
        image: ImageName::new("vm1")?,
        lineage: None,
        labels: BTreeMap::from([("why".into(), "before the upgrade".into())]),
        ingest: IngestOptions::default(),
        append: Append::Any,
    };
    let home = Home { store, nodes: Arc::clone(&nodes), clock: Arc::new(SystemClock) };
    let made = disk.checkpoint(&home, &options, &Job::default()).await?;
    println!("checkpoint {}: writes were held for {:?}", made.checkpoint.short(), made.held);

    // The disk goes on; the fork is the disk as it was.
    disk.write(0, Bytes::from(vec![2; 4096])).await?;
    let (checkpoint, index) = open_checkpoint(&nodes, made.checkpoint).await?;
    let base = Base::Index(IndexBase::new(index));
    let overlay = Arc::new(MemoryOverlay::new(checkpoint.size));
    let fork = Volume::writable("fork", overlay, base, Some(made.checkpoint), checkpoint.size);
    let (mut now, mut then) = ([0; 1], [0; 1]);
    disk.read(100, &mut now).await?;
    fork.read(100, &mut then).await?;
    println!("the disk has {} there, its fork has {}", now[0], then[0]);
    Ok(())
}
