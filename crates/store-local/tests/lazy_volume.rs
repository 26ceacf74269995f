//! A volume on a file that is served at once, while somebody changes that file.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "tests make the files of others, and fail by panicking"
)]

use std::{
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, ErrorKind, ImageName, Result, Store,
    clock::Timestamp,
    index::NodeCache,
    ops::{IngestOptions, Job},
    stores::MemoryStore,
    testing::{FixedClock, Rng},
    types::VolumeId,
    volume::{Append, Base, BaseSource, CheckpointOptions, Home, Volume},
};
use gabion_store_local::{
    disk_file::LazyFile,
    fs::MemFs,
    overlay::{LocalOverlay, record::VolumeInfo},
};
use tempfile::TempDir;

const SIZE: usize = 4 << 20;
/// A block that the guest writes.
const OWN: usize = 7;

/// A file that is changed once it was read so many times.
#[derive(Debug)]
struct Changing {
    file: LazyFile,
    path: PathBuf,
    left: AtomicUsize,
}

fn change(path: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(b"changed", (SIZE - BLOCK_SIZE) as u64).unwrap();
}

impl BaseSource for Changing {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        self.file.try_read(offset, buf)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let read = self.file.read(offset, buf);
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            change(&self.path);
        }
        read
    }

    fn first_run(&self, start: u64, end: u64) -> Result<(bool, u64)> {
        self.file.first_run(start, end)
    }

    fn check(&self) -> Result<()> {
        self.file.check()
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

/// Row 51: what was not ingested is an error from then on, a checkpoint is a conflict and gets no name, and what the
/// guest wrote and flushed is there.
#[tokio::test]
async fn a_file_changed_by_another_makes_no_checkpoint() {
    // By the ingest's first read, or before it begins.
    for left in [1, usize::MAX] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("disk.raw");
        std::fs::write(&path, Rng::new(5).bytes(SIZE)).unwrap();
        let file = LazyFile::open(&path, &folder.path().join("copy")).unwrap();
        if file.is_private() {
            // A copy by reflink, which nobody else changes.
            return;
        }
        let base = Changing { file, path: path.clone(), left: AtomicUsize::new(left) };
        let info = VolumeInfo {
            id: VolumeId::from_bytes([7; 16]),
            name: name("disk"),
            size: SIZE as u64,
            base: None,
            home: String::new(),
            lazy_base: None,
            lineage: None,
            created: Timestamp(1),
        };
        let overlay = LocalOverlay::create(Arc::new(MemFs::new()), Path::new("/volume"), info).unwrap();
        let volume =
            Volume::writable("disk", Arc::new(overlay), Base::Source(Arc::new(base)), None, SIZE as u64);
        let own = vec![9; BLOCK_SIZE];
        volume.write((OWN * BLOCK_SIZE) as u64, own.clone().into()).await.unwrap();
        volume.flush().await.unwrap();
        if left == usize::MAX {
            change(&path);
        }

        let store: Store = MemoryStore::new(&FixedClock::default()).unwrap().into();
        let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
        let home = Home { store, nodes, clock: Arc::new(FixedClock::default()) };
        let options = CheckpointOptions {
            owner: VolumeId::from_bytes([7; 16]),
            image: name("disk"),
            lineage: None,
            labels: Default::default(),
            ingest: IngestOptions::default(),
            append: Append::Any,
        };
        for _ in 0..2 {
            let error = volume.checkpoint(&home, &options, &Job::default()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
            assert!(error.report().contains("disk.raw"), "{error:?}");
            assert!(home.store.index.list_images().await.unwrap().is_empty());
        }
        let mut buf = vec![0; BLOCK_SIZE];
        let error = volume.read(0, &mut buf).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        volume.read((OWN * BLOCK_SIZE) as u64, &mut buf).await.unwrap();
        assert!(buf == own);
        volume.flush().await.unwrap();
    }
}
