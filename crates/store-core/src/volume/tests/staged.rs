//! Checkpoints whose home store is out of reach.

use super::*;
use crate::{
    index::NodeCache,
    ops::{Side, TransferOptions, transfer},
    stores::{Cached, MemoryCache, MemoryStore, Stack},
    testing::{Call, FaultStore},
};

/// A home store behind a cache, and a store beside it that is read together with what the cache has.
struct Sites {
    faults: Arc<FaultStore>,
    home: Home,
    beside: Store,
    staging: Home,
}

fn sites() -> Sites {
    let faults = FaultStore::new(memory(), 1);
    let Store { chunks, index } = faults.store();
    let cached: Arc<dyn crate::ChunkStore> =
        Arc::new(Cached::new(Arc::new(MemoryCache::new(8 << 20)), chunks));
    let nodes = Arc::new(NodeCache::new(Arc::clone(&cached), 1 << 20));
    let home = Home { store: Store { chunks: Arc::clone(&cached), index }, nodes, clock: Arc::new(clock()) };
    let beside = Arc::new(MemoryStore::new(&clock()).unwrap()).store();
    let stack = Stack::builder().tier("beside", Arc::clone(&beside.chunks)).tier("home", cached);
    let store =
        Store { chunks: Arc::new(stack.write_to("beside").unwrap()), index: Arc::clone(&beside.index) };
    let nodes = Arc::new(home.nodes.over(Arc::clone(&store.chunks)));
    let staging = Home { store, nodes, clock: Arc::new(clock()) };
    Sites { faults, home, beside, staging }
}

async fn write(volume: &Volume, block: u64, byte: u8) {
    volume.write(block * BLOCK_SIZE as u64, vec![byte; BLOCK_SIZE].into()).await.unwrap();
}

/// The disk of a checkpoint as `home` reads it.
async fn disk_of(home: &Home, image: &str) -> Vec<u8> {
    let entry = resolve(&home.store, &image.parse().unwrap()).await.unwrap();
    let (checkpoint, index) = open_checkpoint(&home.nodes, entry.checkpoint).await.unwrap();
    content(&Volume::read_only("a checkpoint", Base::Index(IndexBase::new(index)), checkpoint.size)).await
}

#[tokio::test]
async fn what_is_staged_can_be_read_at_once_and_goes_home_later() {
    let Sites { faults, home, beside, staging } = sites();
    let (options, job) = (options(&name("vm")), Job::default());
    let volume =
        Volume::writable("volume 'vm'", Arc::new(MemoryOverlay::new(1 << 20)), Base::Empty, None, 1 << 20);
    for block in 0..16 {
        write(&volume, block, 1).await;
    }
    volume.checkpoint(&home, &options, &job).await.unwrap();
    // In the cache from now on.
    content(&volume).await;
    let base = volume.base();

    faults.outage(Some(ErrorKind::Unavailable));
    let mut models = Vec::new();
    for byte in 2..5 {
        write(&volume, u64::from(byte), byte).await;
        let frozen = volume.freeze(&home, &options, &job).await.unwrap();
        // Later writes are in no checkpoint that is made of what is frozen.
        models.push(content(&volume).await);
        write(&volume, 20, byte).await;
        assert_eq!(frozen.publish(&home, &options, &job).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(frozen.stage(&staging, &options, &job).await.unwrap().staged);
        // The volume rests on nothing that was staged.
        assert_eq!((volume.base(), volume.unfinished()), (base, usize::from(byte) - 1));
        assert!(disk_of(&staging, "vm").await == *models.last().unwrap());
    }
    assert!(disk_of(&staging, "vm~2").await == models[0]);

    faults.outage(None);
    let home_side = faults.store();
    let (from, to) =
        (Side { store: &staging.store, place: "beside" }, Side { store: &home_side, place: "home" });
    let all = TransferOptions { history: true, ..TransferOptions::default() };
    let sent = transfer(from, to, &"vm".parse().unwrap(), &name("vm"), &clock(), all, &job).await.unwrap();
    assert_eq!(sent.published, 3);
    for (back, model) in models.iter().rev().enumerate() {
        assert!(disk_of(&home, &format!("vm~{back}")).await == *model);
    }
    // With the store beside gone nothing is missing: the layers are still there, and the next checkpoint has them.
    drop((beside, staging));
    let now = content(&volume).await;
    let uploads = faults.calls(Call::PutEncoded);
    volume.checkpoint(&home, &options, &job).await.unwrap();
    assert_eq!(volume.unfinished(), 0);
    assert!(disk_of(&home, "vm").await == now && content(&volume).await == now);
    assert!(faults.calls(Call::PutEncoded) > uploads);
}

#[tokio::test]
async fn what_the_caches_lack_can_not_be_staged_and_is_kept() {
    let Sites { faults, home, staging, .. } = sites();
    let (options, job) = (options(&name("vm")), Job::default());
    import(&home.store, &clock(), &name("vm"), Disk::new(noise(8 << 20, 3)), ImportOptions::default(), &job)
        .await
        .unwrap();
    let volume = fork(&faults.store(), "vm").await;
    write(&volume, 0, 1).await;
    faults.outage(Some(ErrorKind::Unavailable));
    {
        let frozen = volume.freeze(&home, &options, &job).await.unwrap();
        assert_eq!(frozen.stage(&staging, &options, &job).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    // Nor can more layers be frozen than a volume may have; it goes on nevertheless.
    for round in 0..20 {
        write(&volume, round, 2).await;
        if let Ok(frozen) = volume.freeze(&home, &options, &job).await {
            drop(frozen);
        }
        assert!(volume.unfinished() < 8);
    }
    faults.outage(None);
    volume.checkpoint(&home, &options, &job).await.unwrap();
    assert_eq!(disk_of(&home, "vm").await[19 * BLOCK_SIZE], 2);
    assert_eq!(volume.unfinished(), 0);
}
