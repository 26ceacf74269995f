//! Transfers between stores in memory, with a model of what each side holds.

mod faults;
mod names;
mod traces;

use std::sync::Arc;

use super::*;
use crate::{
    Store,
    ops::{
        Depth, ImportOptions, check, import, resolve,
        tests::{Disk, clock, memory, name, noise},
    },
    testing::{Call, FaultStore},
};

/// Appends a disk to an image.
async fn add(store: &Store, image: &str, disk: &[u8]) -> CheckpointId {
    let (source, options) = (Disk::new(disk.to_vec()), ImportOptions::default());
    import(store, &clock(), &name(image), source, options, &Job::default()).await.unwrap().checkpoint
}

fn side(store: &Store) -> Side<'_> {
    Side { store, place: "there" }
}

async fn run(from: &Store, to: &Store, what: &str, image: &str) -> Result<Transferred> {
    run_with(from, to, what, image, TransferOptions::default()).await
}

async fn run_with(
    from: &Store,
    to: &Store,
    what: &str,
    image: &str,
    options: TransferOptions,
) -> Result<Transferred> {
    let what = what.parse().unwrap();
    transfer(side(from), side(to), &what, &name(image), &clock(), options, &Job::default()).await
}

/// History of an image, newest first.
async fn history(store: &Store, image: &str) -> Vec<CheckpointId> {
    let found = store.index.read_image(&name(image)).await.unwrap();
    found.map_or_else(Vec::new, |found| found.value.history.iter().map(|entry| entry.checkpoint).collect())
}

/// Everything that names reach is there, and nothing is left over in the catalog.
async fn assert_whole(store: &Store) {
    let report = check(store, Depth::Hashes, &Job::default()).await.unwrap();
    assert!(report.damage.is_empty(), "{:?}", report.damage);
}

/// A disk of `mib` MiB of which some is noise, some zeros and some the same over and over.
fn disk(mib: usize, seed: u64) -> Vec<u8> {
    let mut disk = vec![0; mib << 20];
    for (at, piece) in disk.chunks_mut(1 << 20).enumerate() {
        match at % 4 {
            0 | 1 => piece.copy_from_slice(&noise(1 << 20, seed + at as u64)),
            2 => piece[..300_000].fill(7),
            _ => {}
        }
    }
    disk
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_whole_and_a_second_one_sends_what_changed() {
    let (here, there) = (memory(), memory());
    let mut content = disk(37, 1);
    let first = add(&here, "vm", &content).await;
    let done = run(&here, &there, "vm", "vm").await.unwrap();
    assert_eq!((done.checkpoint, done.published, done.size), (first, 1, 37 << 20));
    assert!(done.bytes >= 19 << 20 && done.chunks > 100 && done.nodes > 10, "{done:?}");
    assert_whole(&there).await;

    let again = run(&here, &there, "vm", "vm").await.unwrap();
    assert_eq!(again, Transferred { published: 0, chunks: 0, nodes: 0, skipped: 0, bytes: 0, ..done });

    content[20 << 20] ^= 1;
    let second = add(&here, "vm", &content).await;
    let delta = run(&here, &there, "vm", "vm").await.unwrap();
    // A leaf, the root above it, and the chunk that changed.
    assert_eq!((delta.checkpoint, delta.published, delta.nodes), (second, 1, 2));
    assert!(delta.chunks <= 2 && delta.bytes < 300_000, "{delta:?}");
    assert_eq!(history(&there, "vm").await, [second, first]);
    assert_whole(&there).await;
}

#[tokio::test]
async fn what_is_there_under_another_name_is_not_sent() {
    let (here, there) = (memory(), memory());
    let content = disk(9, 1);
    add(&here, "vm", &content).await;
    run(&here, &there, "vm", "vm").await.unwrap();
    let other = run(&here, &there, "vm", "other").await.unwrap();
    assert_eq!((other.published, other.bytes), (1, 0));

    // The same content in another place: chunks are there, leaves are not.
    let mut moved = vec![0; 4 << 20];
    moved.extend_from_slice(&content);
    add(&here, "moved", &moved).await;
    let done = run(&here, &there, "moved", "moved").await.unwrap();
    assert_eq!(done.chunks, 0);
    assert_whole(&there).await;
}

#[tokio::test]
async fn empty_disks_travel() {
    let (here, there) = (memory(), memory());
    for (image, size) in [("none", 0), ("zeros", 5 << 30)] {
        let zeros = add_zeros(&here, image, size).await;
        let done = run(&here, &there, image, image).await.unwrap();
        assert_eq!((done.checkpoint, done.chunks, done.nodes, done.size), (zeros, 0, 0, size));
    }
    assert_whole(&there).await;
}

async fn add_zeros(store: &Store, image: &str, size: u64) -> CheckpointId {
    let checkpoint = crate::format::checkpoint::Checkpoint::new(size, None, clock().now()).unwrap();
    let id = crate::ops::store_checkpoint(store, &checkpoint).await.unwrap();
    let entry = HistoryEntry { checkpoint: id, size, created: checkpoint.created };
    publish(store, &clock(), Publish::append(&name(image), entry)).await.unwrap();
    id
}

#[tokio::test]
async fn equal_chunks_and_leaves_are_sent_once() {
    let (here, there) = (memory(), memory());
    let leaf = noise(2 << 20, 3);
    let content: Vec<u8> = (0..6).flat_map(|_| leaf.clone()).collect();
    add(&here, "vm", &content).await;
    let faults = FaultStore::new(there.clone(), 1);
    let done = run(&here, &faults.store(), "vm", "vm").await.unwrap();
    assert!(done.bytes < 3 << 20, "{done:?}");
    assert_whole(&there).await;
}

/// Scattered changes on a large disk: few questions, whatever the number of nodes on the way.
#[tokio::test]
async fn questions_are_asked_in_batches() {
    let (here, there) = (memory(), memory());
    let nodes = crate::ops::tests::nodes(&here);
    let mut writer =
        crate::index::IndexWriter::new(crate::index::Index::new(nodes, None, 0), 64 << 30).await.unwrap();
    let block = bytes::Bytes::from(vec![1; 4096]);
    let chunk = crate::types::chunk_id(&block);
    here.chunks.put(crate::ChunkKind::Data, vec![(chunk, block)]).await.unwrap();
    for at in (0..(64_u64 << 30) / 4096).step_by(131_072) {
        let range = crate::BlockRange::new(at + at / 131_072, at + at / 131_072 + 1);
        let target = Some(crate::index::Target { chunk, first: 0 });
        writer.push(crate::index::Change { range, target }).await.unwrap();
    }
    let root = writer.finish().await.unwrap().root;
    let checkpoint = crate::format::checkpoint::Checkpoint::new(64 << 30, root, clock().now()).unwrap();
    let id = crate::ops::store_checkpoint(&here, &checkpoint).await.unwrap();
    let entry = HistoryEntry { checkpoint: id, size: 64 << 30, created: checkpoint.created };
    publish(&here, &clock(), Publish::append(&name("vm"), entry)).await.unwrap();

    let (source, target) = (FaultStore::new(here, 1), FaultStore::new(there.clone(), 1));
    let done = run(&source.store(), &target.store(), "vm", "vm").await.unwrap();
    assert_eq!((done.nodes, done.chunks), (128 + 128 + 1, 1));
    assert_whole(&there).await;
    // Checkpoint, root, 128 nodes, 128 leaves, the chunk.
    assert_eq!(source.calls(Call::GetEncoded), 5);
    assert_eq!(target.calls(Call::Contains), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_says_what_a_transfer_sends() {
    let (here, there) = (memory(), memory());
    let mut content = disk(11, 1);
    for round in 0..3 {
        content[(3 * round) << 20] ^= 1;
        add(&here, "vm", &content).await;
        for history in [false, true] {
            let options = TransferOptions { history, ..TransferOptions::default() };
            let what = "vm".parse().unwrap();
            let planned =
                plan(side(&here), side(&there), &what, &name("vm"), options, &Job::default()).await.unwrap();
            let scratch = memory();
            for image in there.index.list_images().await.unwrap() {
                let image = image.unwrap();
                let all = TransferOptions { history: true, ..options };
                run_with(&there, &scratch, image.as_str(), image.as_str(), all).await.unwrap();
            }
            let done = run_with(&here, &scratch, "vm", "vm", options).await.unwrap();
            assert_eq!(
                (planned.checkpoint, planned.publishes, planned.chunks, planned.nodes),
                (done.checkpoint, done.published, done.chunks, done.nodes)
            );
            // A store in memory can't tell lengths: the blocks that are needed stand in for them.
            assert!((planned.disk..=done.bytes).contains(&planned.bytes), "{planned:?} {done:?}");
            assert!(planned.puts(16 << 20) <= 6 * planned.publishes + 1);
        }
        run(&here, &there, "vm", "vm").await.unwrap();
        let what = "vm".parse().unwrap();
        let options = TransferOptions::default();
        let nothing =
            plan(side(&here), side(&there), &what, &name("vm"), options, &Job::default()).await.unwrap();
        assert_eq!((nothing.publishes, nothing.bytes, nothing.puts(1)), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_ends_at_its_total() {
    use parking_lot::Mutex;
    let (here, there) = (memory(), memory());
    add(&here, "vm", &disk(60, 1)).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let job = Job { progress: Some(Arc::new(move |progress| sink.lock().push(progress))), ..Job::default() };
    let what = "vm".parse().unwrap();
    let options = TransferOptions::default();
    let done =
        transfer(side(&here), side(&there), &what, &name("vm"), &clock(), options, &job).await.unwrap();
    let seen = seen.lock();
    assert!(seen.len() > 5, "{}", seen.len());
    assert!(seen.is_sorted_by_key(|progress| progress.done));
    assert!(seen.iter().all(|progress| progress.total.is_none_or(|total| progress.done <= total)));
    let last = seen.last().unwrap();
    assert_eq!(last.total, Some(last.done));
    assert!(last.stored <= done.bytes);
}

#[tokio::test]
async fn the_newest_is_what_was_sent() {
    let (here, there) = (memory(), memory());
    add(&here, "vm", &disk(2, 1)).await;
    run(&here, &there, "vm", "a/b").await.unwrap();
    let entry = resolve(&there, &"a/b".parse().unwrap()).await.unwrap();
    assert_eq!(entry, resolve(&here, &"vm".parse().unwrap()).await.unwrap());
}
