//! The cache against a model: right bytes or a miss, whatever happens to its files.

mod faults;
mod layer;

use std::collections::HashSet;

use gabion_store_core::{testing::Rng, types::id_of};

use super::*;
use crate::fs::{MemFs, StdFs};

const KIND: ChunkKind = ChunkKind::Data;
const SEGMENT: u64 = 64 << 10;

fn dir() -> &'static Path {
    Path::new("/cache")
}

/// A cache of 8 segments of 64 KiB.
fn open(fs: &MemFs) -> DiskCache {
    open_in(Arc::new(fs.clone()))
}

fn open_in(fs: Arc<dyn Fs>) -> DiskCache {
    DiskCache::open_with(fs, dir(), 8 * SEGMENT, SEGMENT).unwrap()
}

/// Entry `number`, of 1 to 8,000 bytes, always the same.
fn entry(number: u64) -> (ChunkId, Bytes) {
    let mut rng = Rng::new(number);
    let len = 1 + rng.below(8000);
    let bytes = Bytes::from(rng.bytes(len));
    (id_of(KIND, &bytes), bytes)
}

async fn fill(cache: &DiskCache, numbers: impl IntoIterator<Item = u64>) {
    cache.fill(KIND, numbers.into_iter().map(entry).collect());
    cache.settled().await;
}

/// Which of the entries are there; those that are must be right.
async fn held(cache: &DiskCache, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let wanted: Vec<_> = numbers.into_iter().map(|number| (number, entry(number))).collect();
    let ids: Vec<_> = wanted.iter().map(|(_, (id, _))| *id).collect();
    let found = cache.get(KIND, &ids).await;
    assert_eq!(found.len(), ids.len());
    let mut held = Vec::new();
    for ((number, (_, bytes)), found) in wanted.into_iter().zip(found) {
        if let Some(found) = found {
            assert_eq!(found, bytes, "entry {number}");
            held.push(number);
        }
    }
    held
}

async fn close(cache: DiskCache) {
    cache.settled().await;
    drop(cache);
}

#[tokio::test]
async fn what_is_filled_is_found_also_after_a_restart() {
    let fs = MemFs::new();
    let cache = open(&fs);
    assert!(held(&cache, 0..40).await.is_empty());
    fill(&cache, 0..40).await;
    assert_eq!(held(&cache, 0..50).await, (0..40).collect::<Vec<_>>());
    assert_eq!(cache.get(ChunkKind::Node, &[entry(1).0]).await, [None], "kinds are apart");
    let before = cache.stats();
    assert_eq!((before.hits, before.misses, before.entries), (40, 51, 40));
    close(cache).await;
    let cache = open(&fs);
    assert_eq!(cache.stats(), DiskCacheStats { hits: 0, misses: 0, ..before });
    assert_eq!(held(&cache, 0..40).await.len(), 40);
    // It goes on where it stopped, and writes nothing twice.
    fill(&cache, 30..45).await;
    assert_eq!(cache.stats().entries, 45);
    close(cache).await;
    assert_eq!(held(&open(&fs), 0..45).await.len(), 45);
}

#[tokio::test]
async fn random_fills_reads_and_restarts_within_the_capacity() {
    for seed in 0..8 {
        let fs = MemFs::new();
        let mut rng = Rng::new(seed);
        let mut cache = open(&fs);
        let mut ever = HashSet::new();
        for _ in 0..150 {
            let numbers: Vec<_> = (0..1 + rng.below(12)).map(|_| rng.below(400) as u64).collect();
            match rng.below(8) {
                0 => {
                    close(cache).await;
                    cache = open(&fs);
                }
                1..4 => {
                    let held = held(&cache, numbers).await;
                    assert!(held.iter().all(|number| ever.contains(number)));
                }
                _ => {
                    let before: HashSet<_> =
                        held(&cache, numbers.iter().copied()).await.into_iter().collect();
                    fill(&cache, numbers.iter().copied()).await;
                    ever.extend(numbers.iter().copied());
                    let new = || numbers.iter().copied().filter(|number| !before.contains(number));
                    assert_eq!(held(&cache, new()).await.len(), new().count(), "what is new is there");
                }
            }
            assert!(cache.stats().bytes <= 8 * SEGMENT, "{cache:?}");
            assert!(fs.used() <= 8 * SEGMENT + 8 * 4096, "{} on disk", fs.used());
        }
        assert!(cache.stats().entries > 50, "{cache:?}");
    }
}

#[tokio::test]
async fn what_is_used_outlives_what_is_not() {
    let cache = open(&MemFs::new());
    for round in 0..40 {
        fill(&cache, [1000, 1001]).await;
        assert_eq!(held(&cache, [1000, 1001]).await.len(), 2, "round {round}");
        let base = round * 20;
        fill(&cache, base..base + 20).await;
        if round > 0 {
            // Since the first round it was never missing, so never written anew.
            assert_eq!(cache.stats().misses, 0);
        }
    }
    assert!(held(&cache, 0..100).await.is_empty(), "what nobody asked for went");
}

/// All is used all the time: the second chance must leave room for what is new.
#[tokio::test]
async fn a_cache_whose_entries_are_all_used_takes_new_ones() {
    let cache = open(&MemFs::new());
    for number in 0..600 {
        fill(&cache, [number]).await;
        assert_eq!(held(&cache, [number]).await, [number]);
        held(&cache, 0..number).await;
        assert!(cache.stats().bytes <= 8 * SEGMENT);
    }
}

#[tokio::test]
async fn a_smaller_capacity_lets_the_oldest_go() {
    let fs = MemFs::new();
    let cache = open(&fs);
    fill(&cache, 0..80).await;
    close(cache).await;
    let cache = DiskCache::open_with(Arc::new(fs.clone()), dir(), 4 * SEGMENT, SEGMENT).unwrap();
    assert!(cache.stats().bytes <= 4 * SEGMENT);
    let held = held(&cache, 0..80).await;
    assert!(!held.is_empty() && held.iter().is_sorted() && *held.last().unwrap() == 79, "{held:?}");
    close(cache).await;
    // Nothing at all is allowed, too.
    let cache = DiskCache::open(Arc::new(fs.clone()), dir(), 0).unwrap();
    fill(&cache, 0..10).await;
    assert_eq!(cache.stats().bytes, 0);
}

#[tokio::test]
async fn entries_too_long_for_a_segment_are_not_kept() {
    let cache = open(&MemFs::new());
    for len in [SEGMENT as usize, 200_000, 300_000] {
        let bytes = Bytes::from(vec![1; len]);
        cache.fill(KIND, vec![(id_of(KIND, &bytes), bytes), entry(1)]);
        cache.settled().await;
        assert_eq!(cache.stats().entries, 1);
    }
    let bytes = Bytes::new();
    cache.fill(KIND, vec![(id_of(KIND, &bytes), bytes.clone())]);
    cache.settled().await;
    assert_eq!(cache.get(KIND, &[id_of(KIND, &bytes)]).await, [Some(bytes)], "an empty one is");
}

#[tokio::test]
async fn one_opener_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a/b");
    for fs in [Arc::new(StdFs) as Arc<dyn Fs>, Arc::new(MemFs::new())] {
        let dir = if format!("{fs:?}").contains("Mem") { Path::new("/a/b") } else { &*dir };
        let cache = DiskCache::open(fs.clone(), dir, 64 << 20).unwrap();
        let refused = DiskCache::open(fs.clone(), dir, 64 << 20).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        let clone = cache.clone();
        drop(cache);
        assert!(DiskCache::open(fs.clone(), dir, 64 << 20).is_err(), "a clone is the same cache");
        drop(clone);
        DiskCache::open(fs, dir, 64 << 20).unwrap();
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the seam does not tell modes")]
async fn files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a/b");
    let cache = DiskCache::open(Arc::new(StdFs), &dir, 64 << 20).unwrap();
    fill(&cache, 0..10).await;
    assert_eq!(held(&cache, 0..10).await.len(), 10);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&folder.path().join("a"))), (0o700, 0o700));
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() == 2 && files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}
