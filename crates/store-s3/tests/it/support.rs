//! Places for stores, disks to put into them, and pushes between them.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gabion_store_core::{
    BlockDevice as _, ImageName, Result, Store,
    chunking::{DiskSource, Next},
    clock::SystemClock,
    index::NodeCache,
    ops::{
        ImportOptions, Job, Side, TransferOptions, Transferred, import, open_checkpoint, resolve, transfer,
    },
    stores::{Cached, MemoryCache, MemoryStore},
    testing::Rng,
    volume::{Base, IndexBase, Volume},
};
use gabion_store_s3::{ObjectUrl, RemoteOptions, RemoteStore, Timeouts};
use gabion_testcloud::Cloud;

/// Where fresh stores are made, each below a prefix of its own.
#[derive(Debug)]
pub(crate) struct Place {
    base: String,
    query: String,
    made: AtomicU32,
}

impl Place {
    pub(crate) fn new(base: impl Into<String>, query: impl Into<String>) -> Self {
        Self { base: base.into(), query: query.into(), made: AtomicU32::new(0) }
    }

    /// S3 of a cloud that asks for no credentials.
    pub(crate) fn s3(cloud: &Cloud) -> Self {
        Self::new("s3://bucket", format!("?endpoint={}&anonymous=true", cloud.s3_endpoint()))
    }

    /// Google Cloud Storage of the same.
    pub(crate) fn gcs(cloud: &Cloud) -> Self {
        Self::new("gs://bucket/gcs", format!("?endpoint={}&anonymous=true", cloud.gcs_endpoint()))
    }

    /// A URL where no store is yet.
    pub(crate) fn fresh(&self) -> ObjectUrl {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{}/{number}{}", self.base, self.query).parse().unwrap()
    }

    /// A fresh store.
    pub(crate) async fn init(&self) -> RemoteStore {
        RemoteStore::init(&self.fresh(), options()).await.unwrap()
    }
}

/// Times short enough for a test that waits for the end of patience.
pub(crate) fn options() -> RemoteOptions {
    RemoteOptions { timeouts: Timeouts::for_guest_wait(Duration::from_secs(6)), ..RemoteOptions::default() }
}

/// Whether this is the process in which the calling test is to run, which has these environment variables. Else it
/// runs the test there, which must succeed. Credentials come from the environment alone, and that of a process
/// belongs to all its tests.
pub(crate) fn in_process_with(variables: &[(&str, &str)]) -> bool {
    const MARK: &str = "GABION_TEST_IN_PROCESS";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let thread = std::thread::current();
    let test = thread.name().expect("a test's thread has its name");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(MARK, "1")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// A disk of pseudorandom bytes, which no codec makes smaller.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

struct Disk {
    bytes: Vec<u8>,
    at: usize,
}

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let rest = &self.bytes[self.at..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.at += len;
        Ok(if len == 0 { Next::End } else { Next::Data(len) })
    }
}

pub(crate) fn vm() -> ImageName {
    ImageName::new("vm").unwrap()
}

/// A store in memory.
pub(crate) fn memory() -> Store {
    MemoryStore::new(&SystemClock).unwrap().into()
}

/// Appends a disk to image `vm` of a store.
pub(crate) async fn add(store: &Store, disk: &[u8]) {
    let source = Disk { bytes: disk.to_vec(), at: 0 };
    import(store, &SystemClock, &vm(), source, ImportOptions::default(), &Job::default()).await.unwrap();
}

/// Pushes image `vm`.
pub(crate) async fn push(from: &Store, to: &RemoteStore) -> Result<Transferred> {
    push_with(from, to, TransferOptions::default()).await
}

pub(crate) async fn push_with(
    from: &Store,
    to: &RemoteStore,
    options: TransferOptions,
) -> Result<Transferred> {
    let to = to.clone().into_store();
    let (from, to) = (Side { store: from, place: "here" }, Side { store: &to, place: "there" });
    transfer(from, to, &vm().into(), &vm(), &SystemClock, options, &Job::default()).await
}

/// Checkpoints of image `vm`.
pub(crate) async fn history(store: &RemoteStore) -> usize {
    let record = store.clone().into_store().index.read_image(&vm()).await.unwrap();
    record.map_or(0, |found| found.value.history.len())
}

/// Reads image `vm` to its end, through a cache as anyone would.
pub(crate) async fn read(store: &RemoteStore) -> Result<Vec<u8>> {
    read_through(store, &Arc::new(MemoryCache::new(64 << 20))).await
}

/// The same, through a cache that is kept.
pub(crate) async fn read_through(store: &RemoteStore, cache: &Arc<MemoryCache>) -> Result<Vec<u8>> {
    let disk = open_through(store, cache).await?;
    let mut bytes = vec![0; usize::try_from(disk.size()).unwrap()];
    for (at, piece) in bytes.chunks_mut(1 << 20).enumerate() {
        disk.read((at << 20) as u64, piece).await?;
    }
    Ok(bytes)
}

/// Opens image `vm`, as far as to serve it.
pub(crate) async fn open(store: &RemoteStore) -> Result<Volume> {
    open_through(store, &Arc::new(MemoryCache::new(64 << 20))).await
}

async fn open_through(store: &RemoteStore, cache: &Arc<MemoryCache>) -> Result<Volume> {
    let Store { chunks, index } = store.clone().into_store();
    let store = Store { chunks: Arc::new(Cached::new(Arc::clone(cache), chunks)), index };
    let entry = resolve(&store, &vm().into()).await?;
    let maps = store.index.recall_image(&vm()).await?.map(|found| found.value.maps).unwrap_or_default();
    let nodes = Arc::new(NodeCache::new(Arc::clone(&store.chunks), 1 << 20));
    let (checkpoint, index) = open_checkpoint(&nodes, entry.checkpoint).await?;
    let base = Base::Index(IndexBase::new(index).with_maps(&maps));
    Ok(Volume::read_only("vm".to_owned(), base, checkpoint.size))
}
