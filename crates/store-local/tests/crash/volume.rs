//! Random lives of a volume, disturbed in one way or another, with the power failing after each operation.

use gabion_store_core::{BLOCK_SIZE, ErrorKind};
use gabion_store_local::fs::{FsFault, FsOp, On};

use super::{
    budget::Budget,
    life::{Life, Process, kill},
    survive::survive_all,
};

/// Small ones, where most writes meet others, and larger ones. No multiple of a block or a sector.
fn size(seed: u64) -> usize {
    [6, 14, 40][(seed % 3) as usize] * BLOCK_SIZE + 700
}

const STEPS: usize = 24;
/// Images looked at for each point.
const IMAGES: usize = 8;

/// A volume of zeros, or one over a base that is written all over: its layers' holes are not what they show.
async fn begin(seed: u64) -> (Life, Process) {
    let mut life = Life::new(seed, size(seed));
    let process = life.start().await;
    if life.rng.below(2) == 0 {
        life.write(&process, 0, size(seed)).await.unwrap();
        life.checkpoint(&process).await.unwrap();
    }
    (life, process)
}

/// Nothing else goes wrong, but processes are killed between two requests. Rows 1, 5 and 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_loss_at_every_operation() {
    let mut budget = Budget::new("power_loss_at_every_operation", 35);
    while let Some(seed) = budget.round() {
        let (mut life, mut process) = begin(seed).await;
        for _ in 0..STEPS {
            match life.rng.below(12) {
                0 => process = life.restart(process).await,
                _ => life.step(&process).await.unwrap(),
            }
        }
        life.assert_shown(&process).await;
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// Processes are killed at any operation; the machine goes on with what they left in memory, until the power fails.
/// Row 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_killed_at_any_operation_and_power_loss_later() {
    let mut budget = Budget::new("processes_killed_at_any_operation_and_power_loss_later", 15);
    while let Some(seed) = budget.round() {
        let (mut life, mut process) = begin(seed).await;
        for _ in 0..STEPS {
            if life.rng.below(3) == 0 {
                let after = life.rng.below(20);
                kill(&process, after);
                // Whatever they say: nobody is there to hear it.
                while life.step(&process).await.is_ok() {}
                process = life.restart(process).await;
            } else {
                life.step(&process).await.unwrap();
            }
        }
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// A sync of a file or a folder fails, once: the flush fails and the volume is poisoned, with no later success; a
/// checkpoint or a growth is not reported. What was promised before is there after the next start, and later.
/// Rows 7 and 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_a_file_or_folder() {
    let mut budget = Budget::new("a_failed_sync_of_a_file_or_folder", 15);
    let (mut poisoned, mut other) = (0, 0);
    while let Some(seed) = budget.round_until(poisoned > 0 && other > 0) {
        let (mut life, mut process) = begin(seed).await;
        for _ in 0..STEPS {
            life.step(&process).await.unwrap();
            if life.rng.below(4) > 0 {
                continue;
            }
            let op = if life.rng.below(2) == 0 { FsOp::Sync } else { FsOp::SyncDir };
            life.below.fail(On::op(op).skip(life.rng.below(4) as u64), FsFault::EIO);
            for _ in 0..8 {
                let Err(e) = life.step(&process).await else { continue };
                if e.kind() != ErrorKind::Poisoned {
                    // The store's: its checkpoint failed, and the volume goes on.
                    other += 1;
                    break;
                }
                poisoned += 1;
                for _ in 0..3 {
                    assert_eq!(life.flush(&process).await.unwrap_err().kind(), ErrorKind::Poisoned);
                    assert!(life.write(&process, 700, 5000).await.is_err());
                }
                break;
            }
            life.below.heal();
            process = life.restart(process).await;
        }
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// The disk is full at any byte: the request fails and says so, what is there stays readable, nothing is poisoned,
/// and with space again everything goes on. Row 9.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_at_any_byte() {
    let mut budget = Budget::new("a_full_disk_at_any_byte", 10);
    let mut refused = 0;
    while let Some(seed) = budget.round_until(refused > 0) {
        let (mut life, process) = begin(seed).await;
        for _ in 0..STEPS {
            life.step(&process).await.unwrap();
            if life.rng.below(3) > 0 {
                continue;
            }
            let space = [600, 6000, 60_000, 3 << 20][life.rng.below(4)];
            process.faults.set_space(Some(life.rng.below(space) as u64));
            for _ in 0..4 {
                if let Err(e) = life.step(&process).await {
                    assert_eq!(e.kind(), ErrorKind::NoSpace, "{}", e.report());
                    refused += 1;
                }
            }
            process.faults.set_space(None);
            life.flush(&process).await.unwrap();
            life.settle(&process).await;
        }
        life.assert_shown(&process).await;
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// Every read and write is short, and many are interrupted: all the same, everything is as asked for. Row 10.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_and_interrupted_reads_and_writes() {
    let mut budget = Budget::new("short_and_interrupted_reads_and_writes", 5);
    while let Some(seed) = budget.round() {
        let (mut life, mut process) = begin(seed).await;
        for (n, op) in [FsOp::Read, FsOp::Write].into_iter().cycle().take(200).enumerate() {
            process.faults.fail(On::op(op).skip(5 * n as u64), FsFault::EINTR);
        }
        process.faults.fail(On::op(FsOp::Read).always(), FsFault::Short(3000));
        process.faults.fail(On::op(FsOp::Write).path(".data").always(), FsFault::Short(1536));
        // A journal's space is reserved by the megabyte.
        process.faults.fail(On::op(FsOp::Write).always(), FsFault::Short(200 << 10));
        for _ in 0..STEPS {
            life.step(&process).await.unwrap();
            life.assert_shown(&process).await;
        }
        process = life.restart(process).await;
        life.assert_shown(&process).await;
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// The name of a checkpoint is in its place, but the sync of its folder fails: who looks again makes it durable first,
/// or is told of the failure, too. Otherwise a power failure would take back what was reported. Row 8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_name_is_not_durable_is_not_reported() {
    let mut budget = Budget::new("a_record_whose_name_is_not_durable_is_not_reported", 1);
    while let Some(seed) = budget.round() {
        for failures in [1, 2] {
            let (mut life, process) = begin(seed).await;
            life.request(&process).await.unwrap();
            life.below.fail(On::op(FsOp::SyncDir).path("/images").times(failures), FsFault::EIO);
            let done = life.checkpoint(&process).await;
            assert_eq!(done.is_ok(), failures == 1, "{done:?}");
            assert!(life.below.heal());
            drop(process);
            survive_all(&mut life, &mut budget, IMAGES).await;
        }
    }
    budget.end();
}
