use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::*;
use crate::{
    ErrorKind, ImageName, Result, Store,
    chunking::{DiskSource, Next},
    clock::Timestamp,
    index::NodeCache,
    stores::MemoryStore,
    testing::FixedClock,
    volume::IndexBase,
};

/// A disk in memory; runs of zeros of at least `hole` bytes are told as holes.
pub(crate) struct Disk {
    bytes: Vec<u8>,
    at: usize,
    knows_size: bool,
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, knows_size: true }
    }

    fn stream(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0, knows_size: false }
    }
}

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        self.knows_size.then_some(self.bytes.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let rest = &self.bytes[self.at..];
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if rest.is_empty() {
            return Ok(Next::End);
        }
        if self.knows_size && zeros >= 65536 {
            self.at += zeros;
            return Ok(Next::Zero(zeros as u64));
        }
        let len = rest.len().min(buf.len()).min(100_000);
        buf[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(Next::Data(len))
    }
}

#[derive(Default)]
struct Collect(Vec<u8>, u64);

impl DiskSink for Collect {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, length: u64) -> Result<()> {
        self.1 += length;
        self.0.resize(self.0.len() + length as usize, 0);
        Ok(())
    }
}

pub(crate) fn clock() -> FixedClock {
    FixedClock::new(Timestamp(1_000))
}

pub(crate) fn memory() -> Store {
    Arc::new(MemoryStore::new(&clock()).unwrap()).store()
}

pub(crate) fn nodes(store: &Store) -> Arc<NodeCache> {
    Arc::new(NodeCache::new(Arc::clone(&store.chunks), 1 << 20))
}

pub(crate) fn name(text: &str) -> ImageName {
    ImageName::new(text).unwrap()
}

async fn exported(store: &Store, image: &str) -> Vec<u8> {
    let entry = resolve(store, &image.parse().unwrap()).await.unwrap();
    let (checkpoint, index) = open_checkpoint(&nodes(store), entry.checkpoint).await.unwrap();
    assert_eq!(checkpoint.size, entry.size);
    let (sink, done) =
        export(&IndexBase::new(index), checkpoint.size, Collect::default(), &Job::default()).await.unwrap();
    assert_eq!((done.size, done.data), (checkpoint.size, checkpoint.size - sink.1));
    sink.0
}

async fn imported(store: &Store, image: &str, disk: Vec<u8>) -> Imported {
    import(store, &clock(), &name(image), Disk::new(disk), ImportOptions::default(), &Job::default())
        .await
        .unwrap()
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    crate::testing::Rng::new(seed).bytes(len)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn export_gives_back_what_import_took(
        parts in prop::collection::vec((0_u8..3, 1_usize..3_000_000), 0..5), stream in any::<bool>(),
    ) {
        let disk: Vec<u8> = parts.iter().enumerate().flat_map(|(at, (kind, len))| match kind {
            0 => vec![0; *len],
            1 => vec![at as u8; *len],
            _ => noise(*len, at as u64),
        }).collect();
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
            let store = memory();
            let source = if stream { Disk::stream(disk.clone()) } else { Disk::new(disk.clone()) };
            let done = import(&store, &clock(), &name("a"), source, ImportOptions::default(), &Job::default()).await.unwrap();
            assert_eq!(done.size, disk.len() as u64);
            assert!(exported(&store, "a").await == disk);
            let again = imported(&store, "b", disk.clone()).await;
            assert_eq!((again.stats.new, again.stats.new_chunks), (0, 0));
            assert_eq!(again.stats.used, done.stats.used);
            let report = check(&store, Depth::Hashes, &Job::default()).await.unwrap();
            assert!(report.damage.is_empty(), "{:?}", report.damage);
            assert_eq!(report.images, 2);
        });
    }
}

#[tokio::test]
async fn a_name_has_a_history() {
    let store = memory();
    let first = imported(&store, "vm", noise(100_000, 1)).await.checkpoint;
    let second = imported(&store, "vm", noise(200_000, 2)).await.checkpoint;
    let resolved =
        async |text: &str| resolve(&store, &text.parse().unwrap()).await.map(|entry| entry.checkpoint);
    assert_eq!(resolved("vm").await.unwrap(), second);
    assert_eq!(resolved("vm~1").await.unwrap(), first);
    assert_eq!(resolved(&format!("vm@{}", first.short())).await.unwrap(), first);
    assert_eq!(resolved("vm~2").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(resolved("vm@ffffffff").await.unwrap_err().kind(), ErrorKind::NotFound);
    let (checkpoint, _) = open_checkpoint(&nodes(&store), second).await.unwrap();
    assert_eq!(checkpoint.parent, Some(first));
    assert_eq!(exported(&store, "vm~1").await, noise(100_000, 1));

    tag(&store, &clock(), &"vm~1".parse().unwrap(), &name("release")).await.unwrap();
    assert_eq!(resolved("release").await.unwrap(), first);
    let taken = tag(&store, &clock(), &"vm".parse().unwrap(), &name("release")).await;
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::AlreadyExists);

    remove(&store, &name("vm")).await.unwrap();
    let error = resolved("vm").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = resolved("releas").await.unwrap_err();
    assert!(error.report().contains("nearest: release"), "{}", error.report());
    assert_eq!(remove(&store, &name("vm")).await.unwrap_err().kind(), ErrorKind::NotFound);
    let catalog = store.index.read_catalog().await.unwrap().value;
    assert!(catalog.pending.is_empty());
}

#[test]
fn references_people_write() {
    for good in ["a", "a/b~", "a~3", "a@0fF3"] {
        assert!(good.parse::<ImageRef>().is_ok(), "{good}");
    }
    for bad in ["", "a~x", "a@", "a@12", "a@xyzw", "~1", "a~1~2"] {
        assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_cancelled_import_names_nothing_and_a_rerun_reuses_it() {
    let store = memory();
    let cancel = tokio_util::sync::CancellationToken::new();
    let (calls, on) = (Arc::new(AtomicU64::new(0)), cancel.clone());
    let counted = Arc::clone(&calls);
    let progress = move |_| {
        if counted.fetch_add(1, Ordering::Relaxed) == 3 {
            on.cancel();
        }
    };
    let job = Job { progress: Some(Arc::new(progress)), cancel };
    let disk = noise(40 << 20, 7);
    let done =
        import(&store, &clock(), &name("a"), Disk::new(disk.clone()), ImportOptions::default(), &job).await;
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(store.index.list_images().await.unwrap().is_empty());
    let rerun = imported(&store, "a", disk).await;
    assert!(rerun.stats.new < rerun.stats.used, "{:?}", rerun.stats);
}

#[tokio::test]
async fn diff_is_where_content_changed() {
    let store = memory();
    let mut disk = noise(8 << 20, 3);
    let a = imported(&store, "a", disk.clone()).await.checkpoint;
    disk[5 << 20] ^= 1;
    let b = imported(&store, "b", disk).await.checkpoint;
    let nodes = nodes(&store);
    let (_, a) = open_checkpoint(&nodes, a).await.unwrap();
    let (_, b) = open_checkpoint(&nodes, b).await.unwrap();
    let found = diff(&a, &b).await.unwrap();
    let changed = (5 << 20) / 4096;
    assert!(found.ranges.iter().any(|range| (range.start..range.end).contains(&changed)), "{found:?}");
    assert!(found.blocks <= 96, "{found:?}");
    assert_eq!(diff(&a, &a).await.unwrap(), DiskDiff::default());
}

/// What the last step of a publish tidies up can't fail it: the image has the checkpoint by then.
#[tokio::test]
async fn an_image_that_is_published_is_said_to_be() {
    use crate::testing::{Call, Fault, FaultStore};

    for fault in [Fault::Before(ErrorKind::Unavailable), Fault::After(ErrorKind::Unavailable)] {
        let faults = FaultStore::new(memory(), 1);
        faults.script(Call::WriteCatalog, 1, fault);
        let done = imported(&faults.store(), "vm", noise(10_000, 1)).await.checkpoint;
        assert_eq!(resolve(&faults.store(), &"vm".parse().unwrap()).await.unwrap().checkpoint, done);
        assert_eq!(faults.calls(Call::WriteCatalog), 2);
    }
}

/// Without a collection the list of replaced maps fills up; publishing goes on.
#[tokio::test]
async fn a_full_catalog_takes_checkpoints() {
    use crate::format::catalog::{Catalog, Replaced};

    let store = memory();
    let found = store.index.read_catalog().await.unwrap();
    let mut full = found.value;
    let id = |n: usize| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        crate::types::MapId::from_bytes(id)
    };
    full.replaced = (0..Catalog::MAX_LIST).map(|n| Replaced::Map(id(n), Timestamp(1))).collect();
    store.index.write_catalog(&full, &found.version).await.unwrap();
    let mapped =
        Store { chunks: Arc::new(Mapped(Arc::clone(&store.chunks))), index: Arc::clone(&store.index) };
    for n in 0..6 {
        imported(&mapped, "vm", noise(10_000, n)).await;
    }
    let catalog = store.index.read_catalog().await.unwrap().value;
    catalog.encode().unwrap();
    assert_eq!(catalog.replaced.len(), Catalog::MAX_LIST);
    assert!(catalog.pending.is_empty());
}

/// Two images that were one have the same maps, and each folds them away in its turn.
#[tokio::test]
async fn maps_that_two_images_share_are_replaced_twice() {
    let store = memory();
    let store =
        Store { chunks: Arc::new(Mapped(Arc::clone(&store.chunks))), index: Arc::clone(&store.index) };
    for n in 0..3 {
        imported(&store, "vm", noise(10_000, n)).await;
    }
    tag(&store, &clock(), &name("vm").into(), &name("release")).await.unwrap();
    for n in 3..9 {
        for image in ["vm", "release"] {
            imported(&store, image, noise(10_000, n)).await;
            let catalog = store.index.read_catalog().await.unwrap().value;
            assert!(catalog.pending.is_empty(), "a root of '{image}' stays after {n} imports");
        }
    }
    assert!(!store.index.read_catalog().await.unwrap().value.replaced.is_empty());
}

/// A store that says of every entry where it lies, so that publishes write maps.
#[derive(Debug)]
struct Mapped(Arc<dyn crate::ChunkStore>);

#[async_trait::async_trait]
impl crate::ChunkStore for Mapped {
    async fn get(&self, kind: crate::ChunkKind, ids: &[crate::ChunkId]) -> Vec<Result<bytes::Bytes>> {
        self.0.get(kind, ids).await
    }

    async fn put(&self, kind: crate::ChunkKind, entries: Vec<(crate::ChunkId, bytes::Bytes)>) -> Result<()> {
        self.0.put(kind, entries).await
    }

    async fn contains(&self, kind: crate::ChunkKind, ids: &[crate::ChunkId]) -> Result<Vec<bool>> {
        self.0.contains(kind, ids).await
    }

    async fn sync(&self) -> Result<crate::store::Synced> {
        self.0.sync().await
    }

    async fn locate(
        &self,
        _: crate::ChunkKind,
        ids: &[crate::ChunkId],
    ) -> Result<Vec<Option<crate::store::Placement>>> {
        let place = crate::store::Placement {
            pack: crate::types::PackId::from_bytes([1; 16]),
            offset: 4096,
            stored_len: 1,
            raw_len: 1,
            codec: crate::format::codec::Codec::None,
        };
        Ok(vec![Some(place); ids.len()])
    }
}
