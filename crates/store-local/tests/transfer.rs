//! Transfers between local stores: what is planned is sent, and a target that is killed holds no node without
//! what it needs.
#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

use std::{collections::HashSet, io::Cursor, path::Path, sync::Arc};

use gabion_store_core::{
    ChunkId, ChunkKind, ErrorKind, Result, Store,
    chunking::{DiskSource, Next},
    clock::SystemClock,
    format::{image_map, layout, node::Node},
    index::{NodeCache, Reached, walk_nodes},
    ops::{
        Depth, ImageRef, ImportOptions, Job, Side, TransferOptions, Transferred, check, import,
        open_checkpoint, plan, resolve, transfer,
    },
    testing::{Call, Fault, FaultStore, Rng},
};
use gabion_store_local::{
    fs::{Fs, FsFileExt as _, MemFs, OpenMode},
    store::{LocalStore, LocalStoreOptions},
};

/// A disk in memory.
struct Disk(Cursor<Vec<u8>>);

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.0.get_ref().len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let read = std::io::Read::read(&mut self.0, buf).expect("memory can be read");
        Ok(if read == 0 { Next::End } else { Next::Data(read) })
    }
}

/// A folder with a store.
struct Place(Arc<dyn Fs>);

impl Place {
    fn new() -> Self {
        let fs = Arc::new(MemFs::new());
        LocalStore::init(fs.clone(), Path::new("/s"), &SystemClock).unwrap();
        Self(fs)
    }

    /// A handle, as a process of its own has it, with small packs.
    fn open(&self) -> Store {
        let options = LocalStoreOptions { pack_target: 128 << 10, ..LocalStoreOptions::default() };
        LocalStore::open_with(self.0.clone(), Path::new("/s"), options).unwrap().into_store()
    }
}

fn vm() -> ImageRef {
    "vm".parse().unwrap()
}

async fn add(store: &Store, content: &[u8]) {
    let source = Disk(Cursor::new(content.to_vec()));
    let options = ImportOptions::default();
    import(store, &SystemClock, &vm().name, source, options, &Job::default()).await.unwrap();
}

async fn run(from: &Store, to: &Store) -> Result<Transferred> {
    let (from, to) = (Side { store: from, place: "a" }, Side { store: to, place: "b" });
    let options = TransferOptions::default();
    transfer(from, to, &vm(), &vm().name, &SystemClock, options, &Job::default()).await
}

/// Half of it soft, half hard to compress.
fn content(mib: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut content = rng.bytes(mib << 20);
    for piece in content.chunks_mut(64 << 10).step_by(2) {
        piece.iter_mut().for_each(|byte| *byte &= 3);
    }
    content
}

async fn assert_whole(store: &Store) {
    let report = check(store, Depth::Hashes, &Job::default()).await.unwrap();
    assert!(report.damage.is_empty(), "{:?}", report.damage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planned_is_sent() {
    let (here, there) = (Place::new(), Place::new());
    let mut disk = content(12, 1);
    for round in 0..3 {
        add(&here.open(), &disk).await;
        let (from, to) = (here.open(), there.open());
        let sides = (Side { store: &from, place: "a" }, Side { store: &to, place: "b" });
        let options = TransferOptions::default();
        let planned = plan(sides.0, sides.1, &vm(), &vm().name, options, &Job::default()).await.unwrap();
        let done = run(&from, &to).await.unwrap();
        assert_eq!(
            (planned.checkpoint, planned.publishes, planned.chunks, planned.nodes, planned.bytes),
            (done.checkpoint, done.published, done.chunks, done.nodes, done.bytes)
        );
        assert!(round == 0 || done.bytes < 1 << 20, "{done:?}");
        assert_whole(&there.open()).await;
        let at = 1_000_000 * (round + 1);
        disk[at..at + 100_000].copy_from_slice(&content(1, 50 + round as u64)[..100_000]);
    }
}

/// A store that is far away knows places by the image's maps only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_are_found_in_the_maps() {
    let (here, there) = (Place::new(), Place::new().open());
    let mut disk = content(12, 1);
    for round in 0..6 {
        add(&here.open(), &disk).await;
        let at = 1_000_000 * (round + 1);
        disk[at..at + 100_000].copy_from_slice(&content(1, 50 + round as u64)[..100_000]);
    }
    let near = here.open();
    let faults = FaultStore::new(near.clone(), 1);
    for number in 0..100 {
        faults.script(Call::Locate, number, Fault::Missing);
    }
    let far = faults.store();
    let mut plans = Vec::new();
    for from in [&near, &far] {
        let (from, to) = (Side { store: from, place: "a" }, Side { store: &there, place: "b" });
        let options = TransferOptions::default();
        plans.push(plan(from, to, &vm(), &vm().name, options, &Job::default()).await.unwrap());
    }
    assert_eq!(plans[0], plans[1]);
    assert!((1..100).contains(&faults.calls(Call::Locate)) && faults.calls(Call::GetMap) > 1);
    assert!(plans[0].bytes < plans[0].disk);
}

/// The first map of an image tells of every node and chunk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_map_of_a_new_image_is_whole() {
    let (here, there) = (Place::new(), Place::new());
    let disk = content(6, 1);
    add(&here.open(), &disk).await;
    let mut moved = vec![0; 1 << 20];
    moved.extend_from_slice(&disk);
    let to = there.open();
    run(&here.open(), &to).await.unwrap();
    // All chunks are there, no leaf is.
    let other = Place::new();
    add(&other.open(), &moved).await;
    let from = other.open();
    let (a, b) = (Side { store: &from, place: "a" }, Side { store: &to, place: "b" });
    let name = "moved".parse().unwrap();
    let options = TransferOptions::default();
    let done = transfer(a, b, &vm(), &name, &SystemClock, options, &Job::default()).await.unwrap();
    assert!(done.skipped > 50 && done.chunks <= 2, "{done:?}");

    let record = to.index.read_image(&name).await.unwrap().unwrap().value;
    let map = to.index.get_map(record.maps[0]).await.unwrap();
    let (_, (nodes, chunks)) = image_map::decode_all(&map).unwrap();
    let mapped: HashSet<_> =
        nodes.iter().map(|(key, _)| key.id).chain(chunks.iter().map(|chunk| chunk.id)).collect();
    for (kind, id) in reached(&to, &name.into()).await {
        assert!(mapped.contains(&id), "{kind:?} {id}");
    }
}

/// Everything an image's newest checkpoint reaches.
async fn reached(store: &Store, image: &ImageRef) -> Vec<(ChunkKind, ChunkId)> {
    let nodes = Arc::new(NodeCache::new(Arc::clone(&store.chunks), 16 << 20));
    let newest = resolve(store, image).await.unwrap().checkpoint;
    let (_, index) = open_checkpoint(&nodes, newest).await.unwrap();
    let mut all = vec![(ChunkKind::Checkpoint, newest.as_chunk())];
    let visit = |reached| match reached {
        Reached::Node(id) => all.push((ChunkKind::Node, id.as_chunk())),
        Reached::Chunk(id, _) => all.push((ChunkKind::Data, id)),
    };
    let (root, level) = (index.root().unwrap(), index.level());
    walk_nodes(&nodes, root, level, &mut HashSet::new(), visit, |_, e| panic!("{e:?}")).await;
    all
}

/// Whatever of the source's index the target holds leads to what it holds.
async fn assert_closed(source: &Store, target: &Store) {
    for (kind, id) in reached(source, &vm()).await {
        if kind != ChunkKind::Node {
            continue;
        }
        let Some(Ok(bytes)) = target.chunks.get(kind, &[id]).await.pop() else { continue };
        let (kind, below): (_, Vec<_>) = match Node::decode(&bytes).unwrap() {
            Node::Leaf(extents) => (ChunkKind::Data, extents.iter().map(|extent| extent.chunk).collect()),
            Node::Inner { children, .. } => {
                (ChunkKind::Node, children.iter().map(|(_, child)| child.as_chunk()).collect())
            }
        };
        let present = target.chunks.contains(kind, &below).await.unwrap();
        assert!(!present.contains(&false), "node {id} is there, and what it needs is not");
    }
}

/// The target's process dies at each of its calls, with packs half sealed in the background. Another one, which sees
/// only what is live, finds whole subtrees and no name, and a rerun finishes.
/// Flips a byte of an entry where it lies.
async fn damage(place: &Place, kind: ChunkKind, id: ChunkId) {
    let at = place.open().chunks.locate(kind, &[id]).await.unwrap()[0].unwrap();
    let path = Path::new("/s").join(layout::pack_key(&at.pack));
    let file = place.0.open(&path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at.offset + 3).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at.offset + 3).unwrap();
}

/// As long as damage is known, nothing is taken for whole because of a node above it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_heals_what_was_found_damaged_in_the_target() {
    let (here, there) = (Place::new(), Place::new());
    let mut disk = content(9, 1);
    add(&here.open(), &disk).await;
    run(&here.open(), &there.open()).await.unwrap();
    let all = reached(&here.open(), &vm()).await;
    let chunk = |entry: &&(ChunkKind, ChunkId)| entry.0 == ChunkKind::Data;
    let leaf = all.iter().rfind(|(kind, _)| *kind == ChunkKind::Node).unwrap();
    let lost = [*all.iter().find(chunk).unwrap(), *all.iter().rfind(chunk).unwrap(), *leaf];
    for (kind, id) in lost {
        damage(&there, kind, id).await;
        assert_eq!(
            there.open().chunks.get(kind, &[id]).await[0].as_ref().unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }
    // What is new is in the middle, far from what is damaged.
    disk[5 << 20] ^= 1;
    add(&here.open(), &disk).await;
    let done = run(&here.open(), &there.open()).await.unwrap();
    assert!(done.chunks >= 3 && done.bytes < 2 << 20, "{done:?}");
    assert_whole(&there.open()).await;

    // From here on what is there is believed again.
    disk[5 << 20] ^= 2;
    add(&here.open(), &disk).await;
    let done = run(&here.open(), &there.open()).await.unwrap();
    assert_eq!(done.nodes, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_is_killed_holds_whole_subtrees() {
    let here = Place::new();
    add(&here.open(), &content(9, 1)).await;
    let source = here.open();
    let calls =
        [Call::PutEncoded, Call::Contains, Call::Sync, Call::WriteCatalog, Call::PutMap, Call::WriteImage];
    let mut killed = 0;
    for call in calls {
        for fault in [Fault::Before(ErrorKind::Unavailable), Fault::After(ErrorKind::Unavailable)] {
            for number in 0.. {
                let there = Place::new();
                let target = FaultStore::new(there.open(), 1);
                target.script(call, number, fault.clone());
                let done = run(&source, &target.store()).await;
                let reached_it = target.calls(call) > number;
                drop(target);
                let after = there.open();
                assert_closed(&source, &after).await;
                assert_whole(&after).await;
                let named = after.index.read_image(&vm().name).await.unwrap().is_some();
                assert_eq!(named, done.is_ok(), "{call:?} {number} {done:?}");
                if !reached_it {
                    break;
                }
                killed += 1;
                let rerun = run(&source, &after).await.unwrap();
                assert_eq!(rerun.published, u64::from(!named));
                assert_whole(&there.open()).await;
            }
        }
    }
    assert!(killed >= 15, "{killed}");
}
