//! Damaged files, failing disks, and segments that go while they are read.

use super::*;
use crate::fs::{FaultFs, FsFault, FsOp, On};

async fn some_segments(fs: &MemFs) -> Vec<PathBuf> {
    let cache = open(fs);
    fill(&cache, 0..30).await;
    close(cache).await;
    let names = fs.read_dir(dir()).unwrap();
    names.into_iter().filter(|name| number_of(name).is_some()).map(|name| dir().join(name)).collect()
}

#[tokio::test]
async fn a_bad_byte_anywhere_is_a_miss() {
    let fs = MemFs::new();
    // Small entries, so that every byte of a whole segment can be tried.
    let small = |number: u8| {
        let bytes = Bytes::from(vec![number; 20 + usize::from(number)]);
        (id_of(KIND, &bytes), bytes)
    };
    let open = || DiskCache::open_with(Arc::new(fs.clone()), dir(), 8 * 1024, 1024).unwrap();
    let cache = open();
    cache.fill(KIND, (0..20).map(small).collect());
    close(cache).await;
    let whole = snapshot(&fs);
    assert_eq!(whole.len(), 3);
    for (segment, (_, bytes)) in whole.iter().enumerate() {
        for at in 0..bytes.len() {
            let mut flipped = whole.clone();
            flipped[segment].1[at] ^= 1 << (at % 8);
            restore(&fs, &flipped);
            let cache = open();
            let mut held = 0;
            for number in 0..20 {
                let (id, right) = small(number);
                let found = cache.get(KIND, &[id]).await.pop().unwrap();
                assert!(found.as_ref().is_none_or(|found| *found == right), "byte {at}");
                held += usize::from(found.is_some());
            }
            assert!(held >= 5, "one byte costs at most one segment: {held} at {at}");
            // What it lost, it takes again.
            cache.fill(KIND, (0..20).map(small).collect());
            cache.settled().await;
            assert_eq!(cache.get(KIND, &[small(19).0]).await, [Some(small(19).1)], "byte {at}");
            drop(cache);
        }
    }
}

/// The segments and their bytes.
fn snapshot(fs: &MemFs) -> Vec<(PathBuf, Vec<u8>)> {
    let names = fs.read_dir(dir()).unwrap().into_iter().filter(|name| number_of(name).is_some());
    let read = |path: PathBuf| {
        let bytes = crate::fs::read_whole(fs, &path, 1 << 20).unwrap();
        (path, bytes)
    };
    names.map(|name| read(dir().join(name))).collect()
}

/// Leaves these segments in the folder, and no others.
fn restore(fs: &MemFs, segments: &[(PathBuf, Vec<u8>)]) {
    for (path, _) in snapshot(fs) {
        fs.remove_file(&path).unwrap();
    }
    for (path, bytes) in segments {
        fs.open(path, OpenMode::CreateNew).unwrap().write_all_at(bytes, 0).unwrap();
    }
}

#[tokio::test]
async fn files_cut_anywhere_are_misses() {
    let fs = MemFs::new();
    some_segments(&fs).await;
    let whole = snapshot(&fs);
    for len in (0..whole.last().unwrap().1.len()).step_by(997) {
        let mut cut = whole.clone();
        cut.last_mut().unwrap().1.truncate(len);
        restore(&fs, &cut);
        let cache = open(&fs);
        assert!(held(&cache, 0..30).await.contains(&0));
        fill(&cache, 0..30).await;
        assert_eq!(held(&cache, 0..30).await.len(), 30);
    }
}

#[tokio::test]
async fn a_file_cut_while_it_is_open_is_a_miss_and_taken_again() {
    let fs = MemFs::new();
    let cache = open(&fs);
    fill(&cache, 0..10).await;
    let segment = dir().join("00000000.segment");
    fs.open(&segment, OpenMode::ReadWrite).unwrap().set_len(100).unwrap();
    assert!(held(&cache, 0..10).await.is_empty());
    assert_eq!(cache.stats().entries, 0);
    fill(&cache, 0..10).await;
    assert_eq!(held(&cache, 0..10).await.len(), 10);
}

#[tokio::test]
async fn another_version_is_discarded_and_other_files_are_left_alone() {
    let fs = MemFs::new();
    let segments = some_segments(&fs).await;
    let file = fs.open(&segments[0], OpenMode::ReadWrite).unwrap();
    let mut header = segment::header(0);
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..segment::HEADER_LEN - 4]);
    header[segment::HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0).unwrap();
    for name in ["notes.txt", "0.segment", "0000000G.segment", "00000000.segment.bak"] {
        fs.open(&dir().join(name), OpenMode::CreateNew).unwrap();
    }
    let cache = open(&fs);
    assert!(!crate::fs::exists(&fs, &segments[0]).unwrap());
    let held = held(&cache, 0..30).await;
    assert!(!held.is_empty() && held.len() < 30);
    assert!(crate::fs::exists(&fs, &dir().join("notes.txt")).unwrap());
}

/// One operation fails, whichever, and everything goes on: right bytes or misses, and soon hits again.
#[tokio::test]
async fn one_failure_at_each_operation() {
    for n in 1.. {
        let fs = FaultFs::new(Arc::new(MemFs::new()));
        fs.fail(On::any().skip(n - 1), FsFault::Torn(5));
        // Who can't open it goes on without, and a later start does.
        let again = || {
            let opened = DiskCache::open_with(Arc::new(fs.clone()), dir(), 8 * SEGMENT, SEGMENT);
            opened.unwrap_or_else(|_| open_in(Arc::new(fs.clone())))
        };
        let mut cache = again();
        for round in 0..14_u64 {
            fill(&cache, round * 12..(round + 1) * 12).await;
            held(&cache, [0, 1, round * 12, round * 12 + 5]).await;
            assert!(cache.stats().bytes <= 8 * SEGMENT);
            if round == 6 {
                close(cache).await;
                cache = again();
            }
        }
        // After the rest that follows a failure.
        let failed = fs.heal();
        fill(&cache, 300..340).await;
        fill(&cache, 340..360).await;
        let held = held(&cache, 340..360).await.len();
        assert!(held == 20 || !failed, "failure {n}: {held}");
        if !failed {
            assert!(n > 150, "the life is shorter than thought: {n}");
            return;
        }
    }
}

#[tokio::test]
async fn a_disk_that_can_not_be_written_costs_the_cache_alone() {
    let mem = MemFs::new();
    let fs = FaultFs::new(Arc::new(mem.clone()));
    let cache = open_in(Arc::new(fs.clone()));
    fill(&cache, 0..60).await;
    let before = held(&cache, 0..60).await;
    for op in [FsOp::Write, FsOp::Remove, FsOp::Create] {
        fs.fail(On::op(op).always(), FsFault::Torn(30));
    }
    for number in 60..200 {
        fill(&cache, [number]).await;
        assert!(mem.used() <= 9 * SEGMENT);
    }
    assert_eq!(held(&cache, 0..60).await, before, "what it had, it still has");
    fs.heal();
    for number in 200..800 {
        fill(&cache, [number]).await;
    }
    assert_eq!(held(&cache, [799]).await, [799], "it came back");
}

#[tokio::test]
async fn a_disk_that_can_not_be_read_is_misses() {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    let cache = open_in(Arc::new(fs.clone()));
    fill(&cache, 0..20).await;
    fs.fail(On::op(FsOp::Read).always(), FsFault::EIO);
    assert!(held(&cache, 0..20).await.is_empty());
    assert_eq!(cache.stats().entries, 0, "it does not try the same again and again");
    fs.heal();
    fill(&cache, 0..20).await;
    assert_eq!(held(&cache, 0..20).await.len(), 20);
}

#[tokio::test]
async fn a_full_disk_gets_space_back() {
    let fs = MemFs::new();
    let cache = open(&fs);
    fill(&cache, 0..90).await;
    // Somebody else fills the disk.
    let full = fs.used();
    fs.set_capacity(full);
    for number in 100..400 {
        fill(&cache, [number]).await;
        assert!(cache.stats().bytes <= 8 * SEGMENT);
    }
    assert!(fs.used() <= full);
    fs.set_capacity(u64::MAX);
    for number in 400..1000 {
        fill(&cache, [number]).await;
    }
    assert_eq!(held(&cache, [999]).await, [999]);
}

/// A reader has found the place of an entry when its segment goes, and the entry with it. Row 50.
#[tokio::test]
async fn a_segment_that_goes_while_it_is_read_reads_right() {
    let fs = MemFs::new();
    let cache = open(&fs);
    fill(&cache, 0..3).await;
    let wants: Vec<_> = (0..3).map(|number| cache.0.want(0, KIND, &entry(number).0).unwrap()).collect();
    // So that they get no second chance.
    for want in &wants {
        cache.0.index.remove(KIND, &want.id, &want.place);
    }
    for number in 100..300 {
        fill(&cache, [number]).await;
    }
    assert!(!crate::fs::exists(&fs, &dir().join("00000000.segment")).unwrap());
    for (number, want) in wants.iter().enumerate() {
        let Read::Entry(bytes) = cache.0.read(want, Waiting::Allowed) else { panic!("a miss") };
        assert_eq!(bytes, entry(number as u64).1);
    }
}

/// Readers on several threads while everything is evicted all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_beside_evictions_get_right_bytes_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let cache = DiskCache::open_with(Arc::new(StdFs), folder.path(), 4 * SEGMENT, SEGMENT).unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let mut rng = Rng::new(task);
                let mut hits = 0;
                for _ in 0..300 {
                    let numbers: Vec<_> = (0..6).map(|_| rng.below(100) as u64).collect();
                    cache.fill(KIND, numbers.iter().copied().map(entry).collect());
                    hits += held(&cache, numbers).await.len();
                }
                hits
            })
        })
        .collect();
    let mut hits = 0;
    for task in tasks {
        hits += task.await.unwrap();
    }
    cache.settled().await;
    assert!(hits > 0 && cache.stats().bytes <= 4 * SEGMENT);
}
