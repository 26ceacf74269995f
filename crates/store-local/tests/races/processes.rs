//! Several handles on one store, as several processes have them, writing to one image.

use std::{collections::HashSet, path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    BlockDevice as _, CheckpointId, Result,
    chunking::{DiskSource, Next},
    clock::SystemClock,
    ops::{ImportOptions, Job, import},
    testing::Rng,
};
use gabion_store_local::fs::{Fs, MemFs, StdFs};

use super::rig::{Rig, image, seed, whole};

/// A disk in memory.
struct Disk(std::io::Cursor<Vec<u8>>);

impl DiskSource for Disk {
    fn size(&self) -> Option<u64> {
        Some(self.0.get_ref().len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let read = std::io::Read::read(&mut self.0, buf).expect("memory can be read");
        Ok(if read == 0 { Next::End } else { Next::Data(read) })
    }
}

async fn importer(rig: Rig, seed: u64) -> Vec<(CheckpointId, Vec<u8>)> {
    let store = rig.store();
    let mut rng = Rng::new(seed);
    // Mostly the same for all, so that each finds chunks of the others.
    let mut disk = Rng::new(1).bytes(600_007);
    let mut made = Vec::new();
    for _ in 0..6 {
        let at = rng.below(disk.len() - 5000);
        disk[at..at + 5000].copy_from_slice(&rng.bytes(5000));
        let source = Disk(std::io::Cursor::new(disk.clone()));
        let done =
            import(&store, &SystemClock, &image(), source, ImportOptions::default(), &Job::default()).await;
        made.push((done.unwrap().checkpoint, disk.clone()));
    }
    made
}

async fn checkpointer(rig: Rig, seed: u64) -> Vec<(CheckpointId, Vec<u8>)> {
    let opened = rig.open(rig.store()).await;
    let mut rng = Rng::new(seed);
    let mut made = Vec::new();
    for _ in 0..6 {
        let common = Rng::new(1).bytes(600_007);
        let at = rng.below(250_000) as u64;
        opened.volume.write(at, Bytes::copy_from_slice(&common[at as usize..][..40_000])).await.unwrap();
        let id = opened.checkpoint().await.unwrap();
        made.push((id, whole(&opened.volume).await));
    }
    made
}

async fn many(fs: Arc<dyn Fs>, root: &Path, seed: u64) {
    let rig = Rig::new(fs, root, 300_001);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(importer(rig.clone(), seed));
    tasks.spawn(importer(rig.clone(), seed + 1));
    tasks.spawn(checkpointer(rig.clone(), seed + 2));
    let made: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let history = rig.history().await;
    let named: HashSet<_> = history.iter().copied().collect();
    assert_eq!(named, made.iter().map(|(id, _)| *id).collect(), "the history is not what was made");
    assert_eq!(history.len(), made.len());
    for (id, disk) in made {
        assert!(rig.content(id).await == disk, "checkpoint {id} holds something else");
    }
    rig.assert_whole().await;
    assert!(rig.store().index.read_catalog().await.unwrap().value.pending.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_append_to_one_image_in_memory() {
    many(Arc::new(MemFs::new()), Path::new("/"), seed("many_writers_in_memory")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_append_to_one_image_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    many(Arc::new(StdFs), folder.path(), seed("many_writers_on_disk")).await;
}
