mod far;
mod races;
mod staged;

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    BLOCK_SIZE, BlockDevice, ErrorKind, ImageName, Store,
    device::{Allocation, ZeroMode},
    ops::{
        ImportOptions, IngestOptions, Job, import, open_checkpoint, resolve,
        tests::{Disk, clock, memory, name, nodes, noise},
    },
    overlay::MemoryOverlay,
    types::VolumeId,
};

fn options(image: &ImageName) -> CheckpointOptions {
    CheckpointOptions {
        owner: VolumeId::from_bytes([7; 16]),
        image: image.clone(),
        lineage: None,
        labels: std::collections::BTreeMap::new(),
        ingest: IngestOptions::default(),
        append: Append::Any,
    }
}

fn home(store: &Store) -> Home {
    Home { store: store.clone(), nodes: nodes(store), clock: Arc::new(clock()) }
}

async fn fork(store: &Store, image: &str) -> Volume {
    let entry = resolve(store, &image.parse().unwrap()).await.unwrap();
    let (checkpoint, index) = open_checkpoint(&nodes(store), entry.checkpoint).await.unwrap();
    let overlay = Arc::new(MemoryOverlay::new(checkpoint.size));
    let base = Base::Index(IndexBase::new(index));
    Volume::writable(format!("volume '{image}'"), overlay, base, Some(entry.checkpoint), checkpoint.size)
}

async fn content(volume: &Volume) -> Vec<u8> {
    let mut all = vec![0xEE; volume.size() as usize];
    volume.read(0, &mut all).await.unwrap();
    all
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, data: Vec<u8>, at_once: bool },
    Trim { at: u64, len: u64 },
    Zero { at: u64, len: u64, no_hole: bool },
    Checkpoint,
    Fork,
    Grow { by: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0_u64..600_000;
    let len = prop_oneof![1_u64..100, 1_u64..20_000, Just(4096_u64), Just(65_536_u64)];
    let aligned = |range: std::ops::Range<u64>| range.prop_map(|at| at / 4096 * 4096);
    let place = prop_oneof![at.clone(), aligned(at)];
    prop_oneof![
        6 => (place.clone(), len.clone(), any::<u64>(), any::<bool>())
            .prop_map(|(at, len, seed, at_once)| Op::Write { at, data: noise(len as usize, seed), at_once }),
        2 => (place.clone(), len.clone()).prop_map(|(at, len)| Op::Trim { at, len }),
        2 => (place, len, any::<bool>()).prop_map(|(at, len, no_hole)| Op::Zero { at, len, no_hole }),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Fork),
        1 => (1_u64..100_000).prop_map(|by| Op::Grow { by }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_volume_behaves_like_bytes(size in 300_000_usize..700_000, seed in any::<u64>(), ops in prop::collection::vec(op(), 1..40)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
            let store = memory();
            let mut model = noise(size, seed);
            model[100_000..200_000].fill(0);
            import(&store, &clock(), &name("vm"), Disk::new(model.clone()), ImportOptions::default(), &Job::default()).await.unwrap();
            let mut volume = fork(&store, "vm").await;
            for op in ops {
                run(&store, &mut volume, &mut model, op).await;
                assert!(content(&volume).await == model);
            }
        });
    }
}

async fn run(store: &Store, volume: &mut Volume, model: &mut Vec<u8>, op: Op) {
    let clip = |at: u64, len: u64| {
        let at = at.min(model.len() as u64 - 1);
        (at as usize, len.min(model.len() as u64 - at) as usize)
    };
    match op {
        Op::Write { at, data, at_once } => {
            let (at, len) = clip(at, data.len() as u64);
            if at_once && let Some(result) = volume.try_write(at as u64, &data[..len]) {
                result.unwrap();
            } else {
                volume.write(at as u64, Bytes::copy_from_slice(&data[..len])).await.unwrap();
            }
            model[at..at + len].copy_from_slice(&data[..len]);
        }
        Op::Trim { at, len } => {
            let (at, len) = clip(at, len);
            volume.trim(at as u64, len as u64).await.unwrap();
            let end =
                if at + len == model.len() { model.len() } else { (at + len) / BLOCK_SIZE * BLOCK_SIZE };
            let start = at.next_multiple_of(BLOCK_SIZE).min(model.len());
            if start < end {
                model[start..end].fill(0);
            }
        }
        Op::Zero { at, len, no_hole } => {
            let (at, len) = clip(at, len);
            volume.write_zeroes(at as u64, len as u64, ZeroMode { no_hole, fast: false }).await.unwrap();
            model[at..at + len].fill(0);
            let extents = volume.status(at as u64, len as u64, 100).await.unwrap();
            if no_hole {
                assert!(extents.iter().all(|extent| extent.allocation == Allocation::Data), "{extents:?}");
            }
        }
        Op::Checkpoint => {
            let made = volume.checkpoint(&home(store), &options(&name("vm")), &Job::default()).await.unwrap();
            assert_eq!(volume.base(), Some(made.checkpoint));
            assert_eq!(volume.local_blocks(), 0);
        }
        Op::Fork => {
            volume.checkpoint(&home(store), &options(&name("vm")), &Job::default()).await.unwrap();
            *volume = fork(store, "vm").await;
        }
        Op::Grow { by } => {
            let size = model.len() as u64 + by;
            volume.grow(size).await.unwrap();
            model.resize(size as usize, 0);
            assert_eq!(volume.grow(size - 1).await.unwrap_err().kind(), ErrorKind::Invalid);
        }
    }
}

#[tokio::test]
async fn scattered_small_writes_keep_windows_in_few_pieces() {
    let store = memory();
    let mut model = noise(4 << 20, 5);
    import(
        &store,
        &clock(),
        &name("vm"),
        Disk::new(model.clone()),
        ImportOptions::default(),
        &Job::default(),
    )
    .await
    .unwrap();
    let volume = fork(&store, "vm").await;
    for block in (0..1024).step_by(2) {
        let data = noise(BLOCK_SIZE, 1000 + block);
        model[block as usize * BLOCK_SIZE..][..BLOCK_SIZE].copy_from_slice(&data);
        volume.write(block * BLOCK_SIZE as u64, data.into()).await.unwrap();
    }
    volume.checkpoint(&home(&store), &options(&name("vm")), &Job::default()).await.unwrap();
    assert!(content(&volume).await == model);
    let (_, index) = open_checkpoint(&nodes(&store), volume.base().unwrap()).await.unwrap();
    let (mut at, mut extents) = (0, 0);
    while at < 1024 {
        at = index.find(BlockRange::new(at, 1024)).await.unwrap().range.end;
        extents += 1;
    }
    assert!(extents < 300, "{extents} extents in 64 windows");
}

/// Row 14.
#[tokio::test]
async fn a_lost_chunk_is_an_error_that_names_it_and_the_disk() {
    let store = memory();
    let lossy = crate::stores::MemoryStore::new(&clock()).unwrap();
    import(
        &store,
        &clock(),
        &name("vm"),
        Disk::new(noise(1 << 20, 5)),
        ImportOptions::default(),
        &Job::default(),
    )
    .await
    .unwrap();
    // A store that has the nodes, but no chunk.
    let entry = resolve(&store, &"vm".parse().unwrap()).await.unwrap();
    let cache = nodes(&store);
    let (checkpoint, index) = open_checkpoint(&cache, entry.checkpoint).await.unwrap();
    let mut seen = std::collections::HashSet::new();
    let mut found = Vec::new();
    let visit = |reached| {
        if let crate::index::Reached::Node(id) = reached {
            found.push(id);
        }
    };
    crate::index::walk_nodes(&cache, index.root().unwrap(), index.level(), &mut seen, visit, |_, e| {
        panic!("{e:?}")
    })
    .await;
    let lossy: Arc<dyn crate::ChunkStore> = Arc::new(lossy);
    for id in found {
        let bytes =
            crate::store::get_one(&*store.chunks, crate::ChunkKind::Node, &id.as_chunk()).await.unwrap();
        lossy.put(crate::ChunkKind::Node, vec![(id.as_chunk(), bytes)]).await.unwrap();
    }
    let lossy = Arc::new(crate::index::NodeCache::new(lossy, 1 << 20));
    let index = crate::index::Index::new(lossy, checkpoint.root, checkpoint.size);
    let volume = Volume::read_only("image 'vm'", Base::Index(IndexBase::new(index)), checkpoint.size);
    let error = volume.read(5000, &mut [0; 100]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let line = error.report();
    assert!(line.contains("image 'vm'") && line.contains("chunk "), "{line}");
    let refused = volume.write(0, Bytes::from_static(b"x")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    assert_eq!(volume.try_write(0, b"x").unwrap().unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[tokio::test]
async fn status_tells_holes_from_data() {
    let store = memory();
    let mut disk = vec![0; 1 << 20];
    disk[65_536..131_072].copy_from_slice(&noise(65_536, 1));
    import(&store, &clock(), &name("vm"), Disk::new(disk), ImportOptions::default(), &Job::default())
        .await
        .unwrap();
    let volume = fork(&store, "vm").await;
    volume.trim(65_536, 8192).await.unwrap();
    volume.write(0, Bytes::from(vec![1; 4096])).await.unwrap();
    let extents = volume.status(100, (1 << 20) - 100, 10).await.unwrap();
    let expected = [
        (4096 - 100, Allocation::Data),
        (65_536 + 8192 - 4096, Allocation::Hole),
        (65_536 - 8192, Allocation::Data),
        ((1 << 20) - 131_072, Allocation::Hole),
    ];
    assert_eq!(extents.iter().map(|extent| (extent.length, extent.allocation)).collect::<Vec<_>>(), expected);
    assert_eq!(volume.status(0, 1 << 20, 1).await.unwrap().len(), 1);
}
