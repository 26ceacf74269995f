//! Requests in flight together: writers that share blocks, trims, flushes and checkpoints, until the power fails.

use std::sync::Arc;

use bytes::Bytes;
use gabion_store_core::{BLOCK_SIZE, BlockDevice as _, testing::Rng, volume::Volume};
use parking_lot::Mutex;

use super::{
    budget::Budget,
    disk::SECTOR,
    life::{Life, Model, Process},
    survive::survive_all,
};

const WRITERS: usize = 4;
/// Blocks whose sectors belong to the writers in turns of three: no writer has a block of its own.
const SHARED: usize = 12;
/// Blocks that belong to one writer each, who writes, trims and zeroes them whole.
const OWN: usize = 4;
const SIZE: usize = (SHARED + WRITERS * OWN) * BLOCK_SIZE;
const REQUESTS: usize = 14;

type Shared = Arc<Mutex<Model>>;

async fn write(volume: &Volume, model: &Shared, offset: usize, bytes: Vec<u8>) {
    let len = bytes.len();
    model.lock().begin(offset, &bytes);
    volume.write(offset as u64, Bytes::from(bytes)).await.unwrap();
    model.lock().disk.answer(offset, len);
}

/// Parts of blocks that others write to, and whole blocks of its own.
async fn writer(volume: Volume, model: Shared, number: usize, mut rng: Rng) {
    for _ in 0..REQUESTS {
        if rng.below(3) > 0 {
            let turn = rng.below(SHARED * BLOCK_SIZE / SECTOR / 3 / WRITERS) * WRITERS + number;
            let (from, len) = (rng.below(3), 1 + rng.below(3));
            let bytes = rng.bytes(len.min(3 - from) * SECTOR);
            write(&volume, &model, (turn * 3 + from) * SECTOR, bytes).await;
            continue;
        }
        let block = SHARED + number * OWN + rng.below(OWN);
        let (offset, len) = (block * BLOCK_SIZE, BLOCK_SIZE);
        if rng.below(2) == 0 {
            let bytes = rng.bytes(len);
            write(&volume, &model, offset, bytes).await;
        } else {
            model.lock().begin(offset, &vec![0; len]);
            volume.trim(offset as u64, len as u64).await.unwrap();
            model.lock().disk.answer(offset, len);
        }
    }
}

async fn flusher(volume: Volume, model: Shared) {
    for _ in 0..REQUESTS {
        let mark = model.lock().disk.mark();
        volume.flush().await.unwrap();
        model.lock().disk.promise(&mark);
    }
}

/// Checkpoints while everybody writes: each sector is as at one moment between the question and the answer.
async fn checkpointer(process: &Process, model: Shared) {
    for _ in 0..2 {
        let mark = {
            let model = &mut *model.lock();
            let mark = model.disk.mark();
            let mut asking = model.disk.clone();
            asking.promise(&mark);
            model.asking = Some(asking);
            mark
        };
        let id = process.opened.checkpoint().await.unwrap();
        let content = process.opened.content(id).await.unwrap();
        let model = &mut *model.lock();
        model.asking.take().unwrap().check(&content).unwrap();
        model.disk.promise(&mark);
        model.asked.push(Arc::new(content));
        model.reported.push(id);
    }
}

/// Parts of one block written by several clients all land; what a flush covers is decided when it begins, and a
/// checkpoint holds what was answered before it. Row 5.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn clients_that_share_blocks_and_flush_and_checkpoint_at_once() {
    let mut budget = Budget::new("clients_that_share_blocks_and_flush_and_checkpoint_at_once", 10);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, SIZE);
        let process = life.start().await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..WRITERS {
            let rng = Rng::new(life.rng.next());
            tasks.spawn(writer(process.opened.volume.clone(), life.model.clone(), number, rng));
        }
        tasks.spawn(flusher(process.opened.volume.clone(), life.model.clone()));
        checkpointer(&process, life.model.clone()).await;
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        life.assert_shown(&process).await;
        drop(process);
        survive_all(&mut life, &mut budget, 10).await;
    }
    budget.end();
}
