//! Writers, a grower and a checkpointer at once; what every checkpoint and every read shows is checked.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{BLOCK_SIZE, BlockDevice as _, device::ZeroMode, testing::Rng, volume::Volume};
use gabion_store_local::fs::{Fs, MemFs, StdFs};

use super::{
    model::{Op, Region},
    rig::{Opened, Rig, seed, whole},
};

/// No multiple of a block, so that neighbours write to the same blocks.
pub(crate) const REGION: usize = 150_001;
pub(crate) const WRITERS: usize = 4;
pub(crate) const SIZE: usize = WRITERS * REGION;

/// The regions of a new volume; the last has no bytes yet, and grows.
pub(crate) fn regions() -> Vec<Arc<Region>> {
    let of = |n| Arc::new(Region::new(n * REGION, vec![0; if n < WRITERS { REGION } else { 0 }]));
    (0..=WRITERS).map(of).collect()
}

/// Does `count` operations on a region, and checks each part that it reads.
pub(crate) async fn write(
    volume: Volume,
    region: Arc<Region>,
    seed: u64,
    count: usize,
    mut held: Vec<u8>,
) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let grows = held.is_empty();
    for _ in 0..count {
        if grows && (held.len() < 5000 || rng.below(5) == 0) {
            let len = held.len() + 1 + rng.below(100_000);
            let op = Op::Grow { len };
            region.begin(op.clone());
            volume.grow((region.start + len) as u64).await.unwrap();
            op.apply(&mut held);
            region.answer();
            continue;
        }
        let (at, len) = place(&mut rng, region.start, held.len());
        let offset = (region.start + at) as u64;
        match rng.below(10) {
            0..=5 => {
                let op = Op::Write { at, len, seed: rng.next() };
                region.begin(op.clone());
                op.apply(&mut held);
                let data = &held[at..at + len];
                match volume.try_write(offset, data) {
                    Some(done) => done.unwrap(),
                    None => volume.write(offset, Bytes::copy_from_slice(data)).await.unwrap(),
                }
                region.answer();
            }
            6 => {
                // Only whole blocks are trimmed; the disk's last one is left out, as it may grow meanwhile.
                let end = (region.start + at + len) / BLOCK_SIZE * BLOCK_SIZE;
                let start = (region.start + at).next_multiple_of(BLOCK_SIZE).min(end);
                let last = region.start + held.len() == end;
                let op =
                    Op::Zero { at: start.max(region.start) - region.start, len: end.saturating_sub(start) };
                if end > start && !last {
                    region.begin(op.clone());
                    volume.trim(offset, (end as u64) - offset).await.unwrap();
                    op.apply(&mut held);
                    region.answer();
                }
            }
            7 => {
                let op = Op::Zero { at, len };
                region.begin(op.clone());
                let mode = ZeroMode { no_hole: rng.below(2) == 0, fast: false };
                volume.write_zeroes(offset, len as u64, mode).await.unwrap();
                op.apply(&mut held);
                region.answer();
            }
            8 => volume.flush().await.unwrap(),
            _ => {
                let mut shown = vec![0xEE; len];
                volume.read(offset, &mut shown).await.unwrap();
                assert!(shown == held[at..at + len], "{len} bytes at {offset} are not what was written");
            }
        }
    }
    held
}

/// A place in a region: whole blocks, parts of blocks, or long.
fn place(rng: &mut Rng, start: usize, len: usize) -> (usize, usize) {
    let at = rng.below(len);
    let at = match rng.below(2) {
        0 => ((start + at).next_multiple_of(BLOCK_SIZE) - start).min(len - 1),
        _ => at,
    };
    let count = match rng.below(4) {
        0 => 1 + rng.below(600),
        1 => BLOCK_SIZE,
        2 => BLOCK_SIZE * (1 + rng.below(12)),
        _ => 1 + rng.below(30_000),
    };
    (at, count.min(len - at))
}

/// Asserts that a disk shows all regions at one moment, after at least so many operations of each.
pub(crate) fn assert_shows(disk: &[u8], regions: &[Arc<Region>], least: &[usize], what: &str) {
    for (region, least) in regions.iter().zip(least) {
        region.check(disk, *least, what);
    }
}

pub(crate) fn answered(regions: &[Arc<Region>]) -> Vec<usize> {
    regions.iter().map(|region| region.answered()).collect()
}

/// Starts a writer for each region.
pub(crate) fn start(
    opened: &Opened,
    regions: &[Arc<Region>],
    rng: &mut Rng,
    count: usize,
) -> tokio::task::JoinSet<Vec<u8>> {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, region) in regions.iter().enumerate() {
        let held = vec![0; if n < WRITERS { REGION } else { 0 }];
        // Growing waits for checkpoints, so the grower gets less far.
        let count = if n < WRITERS { count } else { count / 4 };
        tasks.spawn(write(opened.volume.clone(), region.clone(), rng.next(), count, held));
    }
    tasks
}

/// Waits for the writers; a failure of one is the test's.
pub(crate) fn reap(tasks: &mut tokio::task::JoinSet<Vec<u8>>) {
    while let Some(ended) = tasks.try_join_next() {
        ended.unwrap();
    }
}

async fn stress(fs: Arc<dyn Fs>, root: &Path, test: &str) {
    let mut rng = Rng::new(seed(test));
    let rig = Rig::new(fs, root, SIZE as u64);
    let opened = rig.open(rig.store()).await;
    let regions = regions();
    let mut writers = start(&opened, &regions, &mut rng, 500);
    let mut checkpoints = 0;
    while !writers.is_empty() || checkpoints < 3 {
        let least = answered(&regions);
        let id = opened.checkpoint().await.unwrap();
        assert_shows(&rig.content(id).await, &regions, &least, "a checkpoint");
        checkpoints += 1;
        reap(&mut writers);
    }
    let all = answered(&regions);
    let shown = whole(&opened.volume).await;
    assert_shows(&shown, &regions, &all, "the volume");
    opened.volume.flush().await.unwrap();
    drop(opened);
    let opened = rig.open(rig.store()).await;
    assert!(whole(&opened.volume).await == shown, "the volume is another one when it is opened again");
    assert_eq!(rig.history().await.len(), checkpoints);
    assert_eq!(opened.overlay.inner.record().layers.len(), 1);
    rig.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_in_memory() {
    stress(Arc::new(MemFs::new()), Path::new("/"), "everything_at_once_in_memory").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    stress(Arc::new(StdFs), folder.path(), "everything_at_once_on_disk").await;
}
