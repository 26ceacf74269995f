//! A disk that lies: one read of a process gives bytes with a flipped bit, or those of another place.

use std::sync::Arc;

use gabion_store_core::{BLOCK_SIZE, ErrorKind};
use gabion_store_local::fs::{FaultFs, Fs, FsFault, FsOp, On};

use super::{
    budget::Budget,
    life::{Life, Process},
    rig::{self, whole},
    survive::survive_all,
};

const STEPS: usize = 12;
const IMAGES: usize = 4;
const SIZE: usize = 40 * BLOCK_SIZE + 700;

/// What holds checksums: all but a layer's blocks.
const CHECKED: [&str; 7] =
    ["/store", "/packs", "/locators", "/catalog", "/images", "/volume/record", ".journal"];

fn lie(life: &mut Life) -> (On, FsFault) {
    let fault = match life.rng.below(2) {
        0 => FsFault::Rot(life.rng.below(1 << 20)),
        _ => FsFault::Misdirected([-4096, -512, -72, 72, 512, 4096, 20_000][life.rng.below(7)]),
    };
    let path = CHECKED[life.rng.below(CHECKED.len())];
    (On::op(FsOp::Read).path(path).skip(life.rng.below(12) as u64), fault)
}

/// Whatever it is that was misread: a start or a request fails as damaged, or has the right bytes; nothing wrong is
/// stored because of it, and the next process finds everything that was promised. Rows 11 and 12.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misread_is_an_error_and_leaves_nothing_wrong_behind() {
    let mut budget = Budget::new("a_misread_is_an_error_and_leaves_nothing_wrong_behind", 5);
    let (mut starts, mut requests) = (0, 0);
    while let Some(seed) = budget.round_until(starts > 0 && requests > 0) {
        let mut life = Life::new(seed, SIZE);
        let mut process = life.start().await;
        life.write(&process, 0, SIZE).await.unwrap();
        life.checkpoint(&process).await.unwrap();
        for _ in 0..STEPS {
            life.step(&process).await.unwrap();
            if life.rng.below(2) == 0 {
                continue;
            }
            process = life.restart(process).await;
            life.flush(&process).await.unwrap();
            // Else the end of a misread journal would look like a torn flush.
            process.opened.overlay.record_journals().unwrap();
            drop(process);
            let faults = FaultFs::new(Arc::new(life.crash.clone()));
            let (on, fault) = lie(&mut life);
            faults.fail(on, fault);
            match rig::open(&(Arc::new(faults.clone()) as Arc<dyn Fs>)).await {
                Ok(opened) => requests += work(&mut life, &Process { faults, opened }).await,
                Err(e) => {
                    // A store's descriptor is text, and might be that of something else.
                    let foreign = e.kind() == ErrorKind::Invalid && e.report().contains("gabion.json");
                    assert!(e.kind() == ErrorKind::Corrupt || foreign, "{}", e.report());
                    starts += 1;
                }
            }
            process = life.start().await;
            life.settle(&process).await;
            process.opened.check().await.unwrap();
        }
        drop(process);
        survive_all(&mut life, &mut budget, IMAGES).await;
    }
    budget.end();
}

/// Reads everything and takes some steps; how many of them met the lie.
async fn work(life: &mut Life, process: &Process) -> usize {
    let mut met = 0;
    for _ in 0..4 {
        match whole(&process.opened.volume).await {
            Ok(shown) => life.model.lock().disk.check(&shown).unwrap(),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Corrupt, "{}", e.report());
                met += 1;
            }
        }
        if let Err(e) = life.step(process).await {
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{}", e.report());
            met += 1;
        }
    }
    met
}
