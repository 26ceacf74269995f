//! A disk out of a bucket through a stack of one's own: memory in front, counted calls behind it.
//!
//! ```text
//! cargo run -p gabion-examples --example s3_lru_stack
//! cargo run -p gabion-examples --example s3_lru_stack -- s3://BUCKET/PREFIX IMAGE
//! ```
//!
//! Without arguments the bucket is in memory, and a small disk is put into it first. Credentials for a real one
//! come from the environment. `gabion::open(url)` makes much the same stack in one call.

#![expect(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::{sync::Arc, time::Instant};

use gabion_store_core::{
    BlockDevice, ImageName, Result, Store,
    clock::SystemClock,
    index::NodeCache,
    ops::{ImportOptions, Job, import, open_checkpoint, resolve},
    stores::{Cached, MemoryCache, Metered},
    volume::{Base, IndexBase, Volume},
};
use gabion_store_local::disk_file::StreamSource;
use gabion_store_s3::{ObjectUrl, RemoteOptions, RemoteStore};

/// Memory for what was read: entries stay until this much newer ones came.
const MEMORY: usize = 64 << 20;
/// Memory for index nodes.
const NODES: usize = 4 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (url, image) = match (arguments.next(), arguments.next()) {
        (Some(url), Some(image)) => (url.parse::<ObjectUrl>()?, image.parse()?),
        _ => (example_bucket().await?, "vm1".parse()?),
    };

    // 1. The stack, from the inside out. `Cached` brings the verification: what is wrong never gets past it.
    let remote = RemoteStore::open(&url, RemoteOptions::default()).await?;
    let counted = Arc::new(Metered::new(remote.clone()));
    let lru = Arc::new(MemoryCache::new(MEMORY));
    let chunks = Arc::new(Cached::new(Arc::clone(&lru), Arc::clone(&counted) as _));
    let store = Store { chunks, index: Arc::new(remote) };

    // 2. An image of it as a disk. The maps of its record spare the bucket requests.
    let nodes = Arc::new(NodeCache::new(Arc::clone(&store.chunks), NODES));
    let entry = resolve(&store, &image).await?;
    let record = store.index.recall_image(&image.name).await?;
    let maps = record.map(|found| found.value.maps).unwrap_or_default();
    let (checkpoint, index) = open_checkpoint(&nodes, entry.checkpoint).await?;
    let base = Base::Index(IndexBase::new(index).with_maps(&maps));
    let disk = Volume::read_only(image.to_string(), base, checkpoint.size);
    println!("{image} at {url}: {} bytes, checkpoint {}", checkpoint.size, entry.checkpoint.short());

    // 3. Read it twice. The second time nothing is asked of the bucket.
    for round in ["cold", "warm"] {
        let (began, asked) = (Instant::now(), counted.metrics().get.entries);
        let mut piece = vec![0; 1 << 20];
        for at in (0..checkpoint.size.min(MEMORY as u64 / 2)).step_by(piece.len()) {
            let length = piece.len().min((checkpoint.size - at) as usize);
            disk.read(at, &mut piece[..length]).await?;
        }
        let asked = counted.metrics().get.entries - asked;
        println!("{round}: {:?}, {asked} entries asked of the bucket", began.elapsed());
    }
    let stats = lru.stats();
    println!("memory: {} hits, {} misses, {} bytes", stats.hits, stats.misses, stats.bytes);
    Ok(())
}

/// A bucket in this process with image `vm1` of 16 MiB in it.
async fn example_bucket() -> Result<ObjectUrl> {
    let url: ObjectUrl = "memory://example".parse()?;
    let remote = Arc::new(RemoteStore::init(&url, RemoteOptions::default()).await?);
    let store = Store { chunks: Arc::clone(&remote) as _, index: remote };
    let disk: Vec<u8> = (0..16 << 20_u32).map(|at| (at / 4096 * 7 + at % 251) as u8).collect();
    let source = StreamSource::new(std::io::Cursor::new(disk), "a pattern");
    let name = ImageName::new("vm1")?;
    import(&store, &SystemClock, &name, source, ImportOptions::default(), &Job::default()).await?;
    Ok(url)
}
