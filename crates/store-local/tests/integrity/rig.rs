//! A small store with two images, and a volume, in memory; and what may be read of them.

use std::{io::Cursor, path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, BlockRange, CheckpointId, ChunkStore as _, Error, ImageName, Result, Store,
    chunking::{DiskSource, Next},
    clock::Timestamp,
    format::boot_trace::BootTrace,
    index::NodeCache,
    ops::{
        CheckOptions, Damage, Depth, ImportOptions, Job, check_with, import, open_checkpoint,
        publish_boot_trace, resolve,
    },
    testing::{FixedClock, Rng},
    types::VolumeId,
    volume::{Base, IndexBase, Volume},
};
use gabion_store_local::{
    fs::{Fs, FsFileExt as _, MemFs, OpenMode, read_whole},
    overlay::{LocalOverlay, record::VolumeInfo},
    store::{LocalStore, LocalStoreOptions},
};

pub(crate) const STORE: &str = "/store";
pub(crate) const VOLUME: &str = "/volume";

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

/// Blocks that differ, hold no zeros, and take little space once they are compressed.
pub(crate) fn blocks(count: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..count).flat_map(|_| rng.bytes(16).repeat(BLOCK_SIZE / 16)).map(|byte| byte | 1).collect()
}

pub(crate) fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// The images' names and disks.
pub(crate) fn images() -> Vec<(ImageName, Vec<u8>)> {
    let one = blocks(40, 1);
    // Shares most of its blocks, and has a hole.
    let mut two = one.clone();
    two[BLOCK_SIZE..3 * BLOCK_SIZE].copy_from_slice(&blocks(2, 2));
    two.extend(vec![0; 20 * BLOCK_SIZE]);
    two.extend(blocks(3, 3));
    vec![(name("one"), one), (name("two"), two)]
}

pub(crate) fn open(fs: &MemFs, dir: &str) -> Result<LocalStore> {
    let options =
        LocalStoreOptions { clock: Arc::new(FixedClock::default()), ..LocalStoreOptions::default() };
    LocalStore::open_with(Arc::new(fs.clone()), Path::new(dir), options)
}

/// Makes a store with the images in `dir`; the first has a boot trace.
pub(crate) async fn make_store(fs: &MemFs, dir: &str) {
    let clock = FixedClock::default();
    LocalStore::init(Arc::new(fs.clone()), Path::new(dir), &clock).unwrap();
    for (name, disk) in images() {
        let store = open(fs, dir).unwrap().into_store();
        let source = Disk(Cursor::new(disk));
        import(&store, &clock, &name, source, ImportOptions::default(), &Job::default()).await.unwrap();
    }
    let store = open(fs, dir).unwrap().into_store();
    let trace = BootTrace::new(vec![BlockRange::new(3, 7), BlockRange::new(0, 1)]).unwrap();
    publish_boot_trace(&store, &clock, &name("one"), &trace).await.unwrap();
    store.chunks.sync().await.unwrap();
}

/// All that an image holds.
pub(crate) async fn content(store: &Store, image: &ImageName) -> Result<Vec<u8>> {
    let entry = resolve(store, &image.clone().into()).await?;
    disk_of(store, entry.checkpoint).await
}

async fn disk_of(store: &Store, checkpoint: CheckpointId) -> Result<Vec<u8>> {
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let (checkpoint, index) = open_checkpoint(&nodes, checkpoint).await?;
    let disk = Volume::read_only("an image", Base::Index(IndexBase::new(index)), checkpoint.size);
    whole(&disk).await
}

/// All bytes of a disk.
pub(crate) async fn whole(disk: &Volume) -> Result<Vec<u8>> {
    let mut all = vec![0xEE; disk.size() as usize];
    match disk.try_read(0, &mut all) {
        Some(read) => read?,
        None => disk.read(0, &mut all).await?,
    }
    Ok(all)
}

/// What `check` at a depth says of a store: images first, then files.
pub(crate) async fn check_all(local: &LocalStore, depth: Depth) -> Result<Vec<Damage>> {
    let options = CheckOptions { depth, ..CheckOptions::default() };
    let report = check_with(&local.clone().into_store(), &options, &Job::default()).await?;
    let files = local.check_files(&options, &report.intact, &Job::default())?;
    Ok(report.damage.into_iter().chain(files.damage).collect())
}

/// Asserts that nothing is damaged, and that the images are what they were.
pub(crate) async fn assert_whole(fs: &MemFs, what: &str) {
    let local = open(fs, STORE).unwrap();
    let damage = check_all(&local, Depth::Hashes).await.unwrap();
    assert!(damage.is_empty(), "{what}: {damage:?}");
    let store = local.into_store();
    for (image, disk) in images() {
        assert!(content(&store, &image).await.unwrap() == disk, "{what}: image '{image}'");
    }
}

/// Whether an error names what it is about: a file, an image, or an entry by its id.
pub(crate) fn names_something(error: &Error) -> bool {
    let text = error.report();
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    text.contains(STORE)
        || text.contains(VOLUME)
        || text.contains("'one'")
        || text.contains("'two'")
        || words.any(|word| word.len() >= 32 && word.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

/// Makes a volume of eight blocks with three flushes behind it; gives what it holds.
pub(crate) async fn make_volume(fs: &MemFs) -> Vec<u8> {
    let info = VolumeInfo {
        id: VolumeId::from_bytes([7; 16]),
        name: name("vol"),
        size: 8 * BLOCK_SIZE as u64,
        base: None,
        home: "file:///store".into(),
        lazy_base: None,
        lineage: Some(name("one")),
        created: Timestamp(1),
    };
    drop(LocalOverlay::create(Arc::new(fs.clone()), Path::new(VOLUME), info).unwrap());
    let volume = open_volume(fs).unwrap();
    let mut disk = vec![0; 8 * BLOCK_SIZE];
    for (n, at) in [(1, 0), (2, 3), (2, 5)] {
        let part = blocks(n, at as u64);
        volume.write(at as u64 * BLOCK_SIZE as u64, part.clone().into()).await.unwrap();
        disk[at * BLOCK_SIZE..][..part.len()].copy_from_slice(&part);
        volume.flush().await.unwrap();
    }
    disk
}

pub(crate) fn open_volume(fs: &MemFs) -> Result<Volume> {
    let overlay = LocalOverlay::open(Arc::new(fs.clone()), Path::new(VOLUME), None)?;
    let size = overlay.record().info.size;
    Ok(Volume::writable("vol", Arc::new(overlay), Base::Empty, None, size))
}

/// Every file below a folder, sorted.
pub(crate) fn files(fs: &MemFs, dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in fs.read_dir(dir).unwrap() {
        let path = dir.join(name);
        if fs.stat(&path).unwrap().is_dir {
            found.extend(files(fs, &path));
        } else {
            let bytes = read_whole(fs, &path, 64 << 20).unwrap();
            found.push((path.to_str().unwrap().to_owned(), bytes));
        }
    }
    found.sort();
    found
}

/// Makes a file hold these bytes.
pub(crate) fn put(fs: &MemFs, path: &str, bytes: &[u8]) {
    let file = fs.open(Path::new(path), OpenMode::Create).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}
