//! Disks whose store is far away: reading ahead, recording first touches, and fetching in their order.

use std::collections::HashSet;

use super::*;
use crate::{
    ChunkKind,
    index::{Index, NodeCache},
    stores::{Cached, MemoryCache, Metered, Metrics},
    testing::{BadEntry, Call, Fault, FaultStore, Gate, Rng},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 96 * MIB;

/// A store with an image of 96 MiB of noise with holes.
struct Far {
    faults: Arc<FaultStore>,
    disk: Vec<u8>,
}

/// The image on a host that has nothing in memory yet.
struct Host {
    below: Arc<Metered<Arc<FaultStore>>>,
    readahead: Readahead,
    volume: Volume,
}

impl Far {
    async fn new() -> Self {
        let store = memory();
        let mut disk = noise(SIZE as usize, 7);
        disk[20 << 20..24 << 20].fill(0);
        let source = Disk::new(disk.clone());
        import(&store, &clock(), &name("vm"), source, ImportOptions::default(), &Job::default())
            .await
            .unwrap();
        Self { faults: FaultStore::new(store, 1), disk }
    }

    async fn host(&self) -> Host {
        let below = Arc::new(Metered::new(Arc::clone(&self.faults)));
        let cached = Arc::new(Cached::new(Arc::new(MemoryCache::new(1 << 30)), below.clone()));
        let nodes = Arc::new(NodeCache::new(cached, 16 << 20));
        let entry = resolve(&self.faults.store(), &"vm".parse().unwrap()).await.unwrap();
        let (checkpoint, index) = open_checkpoint(&nodes, entry.checkpoint).await.unwrap();
        let readahead = Readahead::default();
        let base = Base::Index(IndexBase::new(index).with_readahead(&readahead));
        let overlay = Arc::new(MemoryOverlay::new(checkpoint.size));
        let volume = Volume::writable("volume 'vm'", overlay, base, Some(entry.checkpoint), checkpoint.size);
        Host { below, readahead, volume }
    }
}

impl Host {
    /// Reads as a front end does: at once if that is possible. `true` if it was.
    async fn read(&self, far: &Far, offset: u64, len: usize) -> bool {
        let mut buf = vec![0xEE; len];
        let at_once = self.volume.try_read(offset, &mut buf);
        let hit = at_once.is_some();
        match at_once {
            Some(read) => read.unwrap(),
            None => self.volume.read(offset, &mut buf).await.unwrap(),
        }
        assert!(buf == far.disk[offset as usize..][..len], "{len} bytes at {offset}");
        hit
    }

    fn asked(&self) -> Metrics {
        self.below.metrics()
    }

    fn index(&self) -> Index {
        match &*self.volume.shared.view().base {
            Base::Index(base) => base.index().clone(),
            other => panic!("{other:?}"),
        }
    }
}

/// Chunks of a range of the disk.
async fn chunks(index: &Index, range: BlockRange) -> HashSet<crate::ChunkId> {
    let (mut at, mut chunks) = (range.start, HashSet::new());
    while at < range.end {
        let found = index.find(BlockRange::new(at, range.end)).await.unwrap();
        chunks.extend(found.target.map(|target| target.chunk));
        at = found.range.end;
    }
    chunks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_finds_most_in_memory() {
    let far = Far::new().await;
    let host = far.host().await;
    let (mut hits, len) = (0, 128 << 10);
    for offset in (0..SIZE).step_by(len) {
        hits += u64::from(host.read(&far, offset, len).await);
        host.readahead.settled().await;
    }
    assert!(hits > SIZE / len as u64 * 8 / 10, "{hits} hits");
    let all = chunks(&host.index(), BlockRange::new(0, SIZE / 4096)).await.len() as u64;
    let asked = host.asked();
    let nodes = 2 + SIZE / (2 * MIB) - 2;
    assert!(
        asked.get.entries <= all + nodes + 8,
        "each once: {} of {all} and {nodes} nodes",
        asked.get.entries
    );
    assert!(asked.get.calls < 120, "{} requests", asked.get.calls);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_here_and_there_fetch_what_they_need_alone() {
    let far = Far::new().await;
    let host = far.host().await;
    let (mut rng, mut needed) = (Rng::new(5), HashSet::new());
    let index = {
        let other = far.host().await;
        other.index()
    };
    for _ in 0..300 {
        let block = rng.below((SIZE / 4096) as usize) as u64;
        host.read(&far, block * 4096, 4096).await;
        needed.extend(chunks(&index, BlockRange::new(block, block + 1)).await);
    }
    host.readahead.settled().await;
    let leaves = SIZE / (2 * MIB);
    let asked = host.asked().get.entries;
    assert!(asked <= needed.len() as u64 + leaves + 2, "{asked} entries for {} chunks", needed.len());
}

/// What is fetched ahead fails: nobody hears of it but who reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_ahead_surface_at_the_read_only() {
    let far = Far::new().await;
    let host = far.host().await;
    for number in 0..32 {
        host.read(&far, number * 128 * 1024, 128 << 10).await;
    }
    host.readahead.settled().await;
    far.faults.outage(Some(ErrorKind::Unavailable));
    // Goes on with what there is, until there is no more.
    let (mut at, mut buf) = (4 * MIB, vec![0; 128 << 10]);
    let error = loop {
        match host.volume.read(at, &mut buf).await {
            Ok(()) => at += 128 << 10,
            Err(error) => break error,
        }
    };
    assert!(at > 4 * MIB && at < SIZE, "{at}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    host.readahead.settled().await;
    far.faults.heal();
    while at < 40 * MIB {
        host.read(&far, at, 128 << 10).await;
        at += 128 << 10;
    }
}

/// Whatever hangs below, no more than the room is on its way, and the reader is not held up by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_is_bounded() {
    let far = Far::new().await;
    let host = far.host().await;
    let small = Readahead::new(MIB);
    assert!(small.try_take(100 * MIB).is_some(), "one piece, however long");
    let held = small.try_take(MIB).unwrap();
    assert!(small.try_take(1).is_none());
    drop(held);
    assert!(small.try_take(1).is_some());
    for number in 0..16 {
        host.read(&far, number * 256 * 1024, 256 << 10).await;
    }
    host.readahead.settled().await;
    let room = host.readahead.take_all().await;
    let before = host.asked().get.entries;
    for number in 16..64 {
        host.read(&far, number * 256 * 1024, 256 << 10).await;
    }
    let read = chunks(&host.index(), BlockRange::new(1024, 4096)).await.len() as u64;
    assert!(host.asked().get.entries <= before + read + 8, "nothing ahead without room");
    drop(room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_touches_are_recorded_and_come_before_the_guest() {
    let far = Far::new().await;
    let first = far.host().await;
    let touches = first.volume.record_touches();
    let reads: Vec<(u64, usize)> = vec![
        (50 * MIB, 4096),
        (3 * MIB + 100, 9000),
        (50 * MIB, 8192),
        (80 * MIB, 300 << 10),
        (21 * MIB, 4096),
        (0, 512),
    ];
    for (offset, len) in &reads {
        first.read(&far, *offset, *len).await;
        // Hits are no first touches, and what the layers have is not the base's.
        first.read(&far, *offset, *len).await;
    }
    first.volume.write(60 * MIB, Bytes::from(vec![1; 4096])).await.unwrap();
    first.volume.read(60 * MIB, &mut [0; 4096]).await.unwrap();
    let trace = touches.finish();
    let block = |offset: u64| offset / 4096;
    let expected = [
        BlockRange::new(block(50 * MIB), block(50 * MIB) + 1),
        BlockRange::new(768, 771),
        BlockRange::new(block(50 * MIB) + 1, block(50 * MIB) + 2),
        BlockRange::new(block(80 * MIB), block(80 * MIB) + 75),
        BlockRange::new(block(21 * MIB), block(21 * MIB) + 1),
        BlockRange::new(0, 1),
    ];
    assert_eq!(trace.runs(), expected);

    let second = far.host().await;
    second.volume.replay(&trace, Job::default()).await.unwrap();
    let asked = second.asked().get;
    assert!(asked.calls <= 6, "{} requests for index and chunks", asked.calls);
    for (offset, len) in &reads {
        assert!(second.read(&far, *offset, *len).await, "{offset} is in memory");
    }
    assert_eq!(second.asked().get.calls, asked.calls);
}

/// A trace that was recorded on another disk, or by another hand.
#[tokio::test]
async fn a_trace_of_a_larger_disk_leads_as_far_as_this_one_goes() {
    let far = Far::new().await;
    let host = far.host().await;
    let end = SIZE / 4096;
    let runs = vec![
        BlockRange::new(end + 5, end + 90),
        BlockRange::new(end - 1, end + 1),
        BlockRange::new(1 << 40, 1 << 41),
    ];
    let trace = crate::format::boot_trace::BootTrace::new(runs).unwrap();
    host.volume.replay(&trace, Job::default()).await.unwrap();
    assert!(host.read(&far, SIZE - 4096, 4096).await);
}

#[tokio::test]
async fn a_recording_ends_when_it_is_dropped_replaced_or_full() {
    let far = Far::new().await;
    let host = far.host().await;
    let marked = |host: &Host| host.volume.shared.watch.marks(0, 1);
    assert!(!marked(&host));
    let touches = host.volume.record_touches();
    assert!(marked(&host));
    drop(touches);
    assert!(!marked(&host));
    let older = host.volume.record_touches();
    let newer = host.volume.record_touches();
    host.read(&far, 0, 4096).await;
    assert!(older.finish().is_empty());
    assert_eq!(newer.finish().blocks(), 1);
    // More runs than a trace has.
    let mut recorder = trace::Recorder::new();
    for block in 0..200_000 {
        recorder.touch(BlockRange::new(2 * block, 2 * block + 1));
    }
    assert!(recorder.is_full());
    let mut recorder = trace::Recorder::new();
    recorder.touch(BlockRange::new(0, 1 << 40));
    assert!(recorder.is_full());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recording_goes_on_over_a_checkpoint() {
    let far = Far::new().await;
    let host = far.host().await;
    let touches = host.volume.record_touches();
    host.read(&far, 0, 4096).await;
    host.volume.write(5 * MIB, Bytes::from(vec![1; 4096])).await.unwrap();
    let store = far.faults.store();
    host.volume.checkpoint(&home(&store), &options(&name("vm")), &Job::default()).await.unwrap();
    host.read(&far, 70 * MIB, 4096).await;
    let last = touches.finish().runs().last().copied();
    assert_eq!(last, Some(BlockRange::new(70 * 256, 70 * 256 + 1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_shows_can_be_fetched() {
    let far = Far::new().await;
    let host = far.host().await;
    // A region of the index that the layers hide.
    host.volume.trim(32 * MIB, 4 * MIB).await.unwrap();
    let progress = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = Arc::clone(&progress);
    let job = Job { progress: Some(Arc::new(move |now| seen.lock().push(now))), ..Job::default() };
    host.volume.prefetch_all(job).await.unwrap();
    let progress = progress.lock().clone();
    assert!(progress.is_sorted_by_key(|now| now.done));
    assert_eq!(progress.last().map(|now| (now.done, now.total)), Some((SIZE, Some(SIZE))));
    let asked = host.asked().get;
    for offset in (0..SIZE).step_by(MIB as usize).filter(|at| !(32 * MIB..36 * MIB).contains(at)) {
        assert!(host.read(&far, offset, MIB as usize).await, "{offset}");
    }
    let hidden = chunks(&host.index(), BlockRange::new(32 * 256 + 64, 36 * 256 - 64)).await.len() as u64;
    let all = chunks(&host.index(), BlockRange::new(0, SIZE / 4096)).await.len() as u64;
    assert!(asked.entries <= all - hidden + SIZE / (2 * MIB) + 2, "what is hidden stays away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetching_ends_with_the_job_and_with_the_disk_and_passes_over_damage() {
    let far = Far::new().await;
    let host = far.host().await;
    let bad = *chunks(&host.index(), BlockRange::new(300, 301)).await.iter().next().unwrap();
    far.faults.break_entry(ChunkKind::Data, bad, BadEntry::Corrupt);
    host.volume.prefetch_all(Job::default()).await.unwrap();
    assert!(host.read(&far, 90 * MIB, 4096).await);
    assert_eq!(host.volume.read(300 * 4096, &mut [0; 10]).await.unwrap_err().kind(), ErrorKind::Corrupt);
    far.faults.heal();

    // The job.
    let host = far.host().await;
    let gate = Arc::new(Gate::new());
    far.faults.script(Call::Get, 3, Fault::Hold(gate.clone()));
    let job = Job::default();
    let fetching = spawn(host.volume.prefetch_all(job.clone()));
    gate.arrived(1).await;
    job.cancel.cancel();
    assert_eq!(fetching.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);

    // The disk: whoever fetches for it does not keep it.
    let host = far.host().await;
    let gate = Arc::new(Gate::new());
    far.faults.script(Call::Get, 3, Fault::Hold(gate.clone()));
    let fetching = spawn(host.volume.prefetch_all(Job::default()));
    gate.arrived(1).await;
    let below = Arc::clone(&host.below);
    drop(host);
    gate.open();
    fetching.await.unwrap().unwrap();
    let all = SIZE / (128 << 10);
    assert!(below.metrics().get.entries < all, "it went on for nobody");

    // The store.
    let host = far.host().await;
    far.faults.outage(Some(ErrorKind::Unavailable));
    let refused = host.volume.prefetch_all(Job::default()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_ends_prefetch_takes_the_same_way() {
    let far = Far::new().await;
    let host = far.host().await;
    host.volume.prefetch(10 * MIB + 5, 9 * MIB).await.unwrap();
    let asked = host.asked().get.calls;
    assert!(asked <= 8, "{asked} requests");
    for offset in (10 * MIB + 5..19 * MIB).step_by(65_536) {
        assert!(host.read(&far, offset, 65_536).await);
    }
    host.volume.prefetch(SIZE - 10, 10).await.unwrap();
    assert!(host.volume.prefetch(SIZE - 10, 11).await.is_err());
}
