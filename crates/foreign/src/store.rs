//! A store in a folder one of whose files was changed where no checksum tells.

use std::{collections::BTreeMap, io::Cursor, path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, BlockRange, CheckpointId, ChunkStore as _, ImageName, Result, Store,
    chunking::{DiskSource, Next},
    format::boot_trace::BootTrace,
    index::NodeCache,
    ops::{
        CheckOptions, Depth, ImportOptions, Job, check_with, import, load_boot_trace, open_checkpoint,
        publish_boot_trace,
    },
    testing::{FixedClock, Rng},
    volume::{Base, IndexBase, Volume},
};
use gabion_store_local::{
    fs::{Fs, FsFileExt as _, MemFs, OpenMode, read_whole},
    store::{LocalStore, LocalStoreOptions, RepairOptions},
};

use crate::nbd::block_on;

const STORE: &str = "/store";
/// Largest disk that is read whole: a checkpoint has its hash, so no other than those that were imported are met.
const LONGEST: u64 = 1 << 20;

/// The first byte picks a file and says whether the store is repaired; then come changes of a byte, each an offset
/// of two bytes and the value. Two bytes that are left say where the file is cut.
///
/// What is read is one of the disks that were imported, or an error; `check` and `repair` come to their end.
pub(crate) fn store(bytes: &[u8]) {
    let Some((choice, changes)) = bytes.split_first() else { return };
    RIG.with(|rig| rig.judge(*choice, changes));
}

thread_local! {
    static RIG: Rig = Rig::new();
}

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

/// The files of a store with two images, and the disks in it.
struct Rig {
    folders: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    disks: BTreeMap<CheckpointId, Vec<u8>>,
}

impl Rig {
    fn new() -> Self {
        let fs = MemFs::new();
        let clock = FixedClock::default();
        LocalStore::init(Arc::new(fs.clone()), Path::new(STORE), &clock).expect("a store in memory");
        let one = blocks(6, 1);
        let two = [one[BLOCK_SIZE..].to_vec(), vec![0; 3 * BLOCK_SIZE], blocks(2, 2)].concat();
        let mut disks = BTreeMap::new();
        for (name, disk) in [("one", one), ("two", two)] {
            let store = open(&fs).expect("a sound store").into_store();
            let name: ImageName = name.parse().expect("a name");
            let source = Disk(Cursor::new(disk.clone()));
            let imported = async {
                import(&store, &clock, &name, source, ImportOptions::default(), &Job::default()).await?;
                let trace = BootTrace::new(vec![BlockRange::new(3, 5), BlockRange::new(0, 1)])?;
                publish_boot_trace(&store, &clock, &name, &trace).await?;
                store.chunks.sync().await?;
                store.index.read_image(&name).await
            };
            let record = block_on(imported).expect("write to memory").expect("an image").value;
            disks.insert(record.history[0].checkpoint, disk);
        }
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        walk(&fs, STORE, &mut folders, &mut files);
        // Names are random: by folder and length, a file has the same number in every process.
        files.sort_by_key(|(path, bytes)| (path.rsplit_once('/').map(|(at, _)| at.to_owned()), bytes.len()));
        Self { folders, files, disks }
    }

    /// The store as it was, but for one file.
    fn changed(&self, file: usize, changes: &[u8]) -> MemFs {
        let fs = MemFs::new();
        for folder in &self.folders {
            fs.create_dir(Path::new(folder)).expect("a folder in memory");
        }
        for (number, (path, bytes)) in self.files.iter().enumerate() {
            let mut bytes = bytes.clone();
            if number == file && !bytes.is_empty() {
                let (changes, cut) = changes.as_chunks::<3>();
                for [a, b, value] in changes {
                    let at = usize::from(u16::from_le_bytes([*a, *b])) % bytes.len();
                    bytes[at] = *value;
                }
                if let [a, b] = cut {
                    bytes.truncate(usize::from(u16::from_le_bytes([*a, *b])));
                }
            }
            let file = fs.open(Path::new(path), OpenMode::CreateNew).expect("a file in memory");
            file.write_all_at(&bytes, 0).expect("write to memory");
        }
        fs
    }

    fn judge(&self, choice: u8, changes: &[u8]) {
        let fs = self.changed(usize::from(choice & 0x7f) % self.files.len(), changes);
        self.look(&fs);
        if choice & 0x80 != 0 {
            let shared: Arc<dyn Fs> = Arc::new(fs.clone());
            let options =
                RepairOptions { dry_run: false, pins: Vec::new(), clock: Arc::new(FixedClock::default()) };
            if LocalStore::repair(&shared, Path::new(STORE), &options, &Job::default()).is_ok() {
                self.look(&fs);
            }
        }
    }

    /// Reads and checks everything.
    fn look(&self, fs: &MemFs) {
        let Ok(local) = open(fs) else { return };
        let store = local.clone().into_store();
        block_on(async {
            for name in store.index.list_images().await.unwrap_or_default().into_iter().flatten() {
                let Ok(Some(record)) = store.index.read_image(&name).await else { continue };
                let _ = load_boot_trace(&store, &record.value).await;
                for entry in &record.value.history {
                    if let Ok(disk) = whole(&store, entry.checkpoint).await {
                        assert!(
                            self.disks.get(&entry.checkpoint) == Some(&disk),
                            "a disk that nobody imported"
                        );
                    }
                }
            }
            let options = CheckOptions { depth: Depth::Hashes, ..CheckOptions::default() };
            if let Ok(report) = check_with(&store, &options, &Job::default()).await {
                let _ = local.check_files(&options, &report.intact, &Job::default());
            }
        });
    }
}

/// Blocks that differ and take little space.
fn blocks(count: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..count).flat_map(|_| rng.bytes(16).repeat(BLOCK_SIZE / 16)).map(|byte| byte | 1).collect()
}

fn open(fs: &MemFs) -> Result<LocalStore> {
    let clock = Arc::new(FixedClock::default());
    let options = LocalStoreOptions { clock, ..LocalStoreOptions::default() };
    LocalStore::open_with(Arc::new(fs.clone()), Path::new(STORE), options)
}

/// All bytes of a disk.
async fn whole(store: &Store, checkpoint: CheckpointId) -> Result<Vec<u8>> {
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let (checkpoint, index) = open_checkpoint(&nodes, checkpoint).await?;
    assert!(checkpoint.size <= LONGEST);
    let disk = Volume::read_only("an image", Base::Index(IndexBase::new(index)), checkpoint.size);
    let mut all = vec![0xEE; checkpoint.size as usize];
    match disk.try_read(0, &mut all) {
        Some(read) => read?,
        None => disk.read(0, &mut all).await?,
    }
    Ok(all)
}

/// Every folder, those above first, and every file.
fn walk(fs: &MemFs, folder: &str, folders: &mut Vec<String>, files: &mut Vec<(String, Vec<u8>)>) {
    folders.push(folder.to_owned());
    for name in fs.read_dir(Path::new(folder)).expect("a folder") {
        let path = format!("{folder}/{}", name.display());
        if fs.stat(Path::new(&path)).expect("it is there").is_dir {
            walk(fs, &path, folders, files);
        } else {
            let bytes = read_whole(fs, Path::new(&path), u64::MAX).expect("a file in memory");
            files.push((path, bytes));
        }
    }
}
