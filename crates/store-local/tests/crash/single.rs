//! Single faults, each in the smallest life that has it, with every image that can come of it.

use std::{io, path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, BlockRange, CheckpointId, ErrorKind, Result,
    chunking::{DiskSource, Next},
    ops::{ImportOptions, Job, import},
    overlay::{BlockState, Overlay as _},
    testing::FixedClock,
};
use gabion_store_local::{
    fs::{CrashFs, CrashImage, FaultFs, Fs, FsFault, FsOp, MemFs, On, exists, read_whole, replace},
    overlay::LocalOverlay,
};

use super::{
    budget::Budget,
    life::{Life, Process},
    rig,
    survive::{survive, survive_all},
};

const VOLUME: &str = "/volume";

fn new() -> (CrashFs, Arc<dyn Fs>) {
    let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), 1).unwrap();
    (crash.clone(), Arc::new(crash))
}

fn create(fs: &Arc<dyn Fs>, blocks: usize) -> LocalOverlay {
    LocalOverlay::create(fs.clone(), Path::new(VOLUME), rig::info(blocks * BLOCK_SIZE)).unwrap()
}

fn open(image: CrashImage) -> LocalOverlay {
    let what = image.to_string();
    LocalOverlay::open(image.into_fs(), Path::new(VOLUME), None)
        .unwrap_or_else(|e| panic!("{what}: {}", e.report()))
}

/// The first byte of a block of the topmost layer, if it is data.
fn block(overlay: &LocalOverlay, block: u64) -> Option<u8> {
    let layer = overlay.layers().remove(0);
    (layer.first_run(BlockRange::new(block, block + 1)).0 == BlockState::Data).then(|| {
        let mut bytes = [0; BLOCK_SIZE];
        layer.read(block * BLOCK_SIZE as u64, &mut bytes).unwrap();
        bytes[0]
    })
}

/// A record whose rename was not synced is old or new, never empty, and its name leads to a whole file at any time.
/// Row 3.
#[test]
fn a_record_is_old_or_new_and_never_empty() {
    let (crash, fs) = new();
    let record = Path::new("/record");
    let bytes = |n: u8| vec![n; 700 + 100 * usize::from(n)];
    replace(&*fs, record, &bytes(0)).unwrap();
    for n in 1..5 {
        let points = crash.record();
        replace(&*fs, record, &bytes(n)).unwrap();
        let mut found = Vec::new();
        for point in points.take() {
            for image in point.images(1, usize::MAX) {
                let content = read_whole(image.fs(), record, 4096).unwrap();
                assert!(content == bytes(n - 1) || content == bytes(n), "{image}");
                found.push(content[0]);
            }
        }
        assert!(found.contains(&n) && found.contains(&(n - 1)));
    }
}

/// The folder of a new file was not synced: the name is gone, or leads to the file. Row 2.
#[test]
fn a_name_in_a_folder_that_was_not_synced_is_gone_or_leads_to_its_file() {
    let (crash, fs) = new();
    let overlay = create(&fs, 10);
    drop(overlay);
    let points = crash.record();
    let overlay = LocalOverlay::open(fs.clone(), Path::new(VOLUME), None).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(overlay.push_layer()).unwrap();
    let mut layers = Vec::new();
    for point in points.take() {
        for image in point.images(1, 500) {
            layers.push(open(image).layers().len());
        }
    }
    assert!(layers.contains(&1) && layers.contains(&2));
}

/// A flush was cut off: of a batch of several sectors any may have arrived. It counts as a whole or not at all, and
/// what was flushed before is kept. Row 4.
#[tokio::test]
async fn a_torn_tail_of_the_journal_is_dropped_and_earlier_batches_are_kept() {
    let (crash, fs) = new();
    let overlay = create(&fs, 4000);
    let layer = overlay.layers().remove(0);
    for first in 0..300 {
        layer.zero(BlockRange::new(10 * first, 10 * first + 1)).unwrap();
    }
    overlay.flush().await.unwrap();
    let points = crash.record();
    // Some 900 runs: a batch of four sectors.
    for first in 0..900 {
        layer.zero(BlockRange::new(4 * first + 1, 4 * first + 2)).unwrap();
    }
    overlay.flush().await.unwrap();
    let (mut none, mut all) = (0, 0);
    for point in points.take() {
        for image in point.images(1, usize::MAX) {
            let overlay = open(image);
            let layer = overlay.layers().remove(0);
            let zero = |block| layer.first_run(BlockRange::new(block, block + 1)).0 == BlockState::Zero;
            assert!((0..300).all(|first| zero(10 * first)));
            let new = (0..900).map(|first| 4 * first + 1).filter(|block| block % 10 != 0);
            let shown: Vec<bool> = new.map(zero).collect();
            assert!(shown.iter().all(|&zero| zero == shown[0]), "part of a batch");
            *(if shown[0] { &mut all } else { &mut none }) += 1;
        }
    }
    assert!(none > 5 && all > 0, "{none} {all}");
}

/// Files of a dropped layer come back: they count for nothing, and the next start removes them. Row 6.
#[tokio::test]
async fn an_unlink_that_is_undone_leaves_nothing_but_an_orphan() {
    let (crash, fs) = new();
    let overlay = create(&fs, 10);
    overlay.layers()[0].write(3, &[3; BLOCK_SIZE]).unwrap();
    overlay.flush().await.unwrap();
    overlay.push_layer().await.unwrap();
    overlay.layers()[0].write(4, &[4; BLOCK_SIZE]).unwrap();
    overlay.flush().await.unwrap();
    overlay.rebase(CheckpointId::from_bytes([1; 32]), 1).await.unwrap();
    let mut revived = 0;
    for image in crash.crash().images(1, usize::MAX) {
        let fs: Arc<dyn Fs> = image.clone().into_fs();
        let orphan = Path::new("/volume/layer-1.data");
        revived += usize::from(exists(&*fs, orphan).unwrap());
        let overlay = open(image);
        assert_eq!((overlay.layers().len(), block(&overlay, 3), block(&overlay, 4)), (1, None, Some(4)));
        assert!(!exists(&*fs, orphan).unwrap());
    }
    assert!(revived > 0);
}

/// The machine failed with the volume in use. The file of the lock is there, with a note of whoever had it, and the lock
/// died with the process, whatever process has its number now. Row 18.
#[test]
fn a_lock_left_by_a_power_failure_keeps_nobody_out() {
    let (crash, fs) = new();
    let overlay = create(&fs, 10);
    overlay.set_lock_note("process 4711").unwrap();
    let refused = LocalOverlay::open(fs.clone(), Path::new(VOLUME), None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "two openers");
    let mut noted = 0;
    for image in crash.crash().images(1, usize::MAX) {
        let note = LocalOverlay::read_lock_note(image.fs(), Path::new(VOLUME)).unwrap();
        noted += usize::from(note.as_deref() == Some("process 4711"));
        open(image);
    }
    assert!(noted > 0);
}

/// A block was trimmed, the power failed, and part of the block is written: the rest is zeros, or what it was if the trim
/// is lost, and never stale bytes below a trim that is there. Row 45.
#[tokio::test]
async fn a_partial_write_after_a_trim_and_a_power_failure_is_filled_up_with_what_is_shown() {
    let mut budget = Budget::new("a_partial_write_after_a_trim_and_a_power_failure", 2);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, 3 * BLOCK_SIZE);
        let process = life.start().await;
        life.write(&process, 0, 3 * BLOCK_SIZE).await.unwrap();
        life.flush(&process).await.unwrap();
        life.trim(&process, BLOCK_SIZE, BLOCK_SIZE).await.unwrap();
        if life.rng.below(2) == 0 {
            life.flush(&process).await.unwrap();
        }
        drop(process);
        let model = life.model.lock().clone();
        let mut count = 0;
        for image in life.crash.crash().images(seed, 400) {
            count += 1;
            let what = image.to_string();
            let fs = image.into_fs();
            let (opened, mut shown) = survive(&fs, &model).await.unwrap();
            opened.volume.write(BLOCK_SIZE as u64 + 700, vec![9; 100].into()).await.unwrap();
            shown[BLOCK_SIZE + 700..BLOCK_SIZE + 800].fill(9);
            assert!(rig::whole(&opened.volume).await.unwrap() == shown, "{what}");
        }
        budget.point(count);
        survive_all(&mut life, &mut budget, 20).await;
    }
    budget.end();
}

/// Does writes and trims of whole blocks in the middle of an operation that `faults` sees, once, as another client would.
fn meanwhile(
    life: &Life,
    process: &Process,
    faults: &FaultFs,
    op: FsOp,
    blocks: &'static [(usize, Option<u8>)],
) {
    let (volume, model) = (process.opened.volume.clone(), life.model.clone());
    let mut done = false;
    faults.on(move |on, path| {
        if on == op && path.to_string_lossy().ends_with(".data") && !std::mem::replace(&mut done, true) {
            for &(block, fill) in blocks {
                let bytes = [fill.unwrap_or(0); BLOCK_SIZE];
                let offset = block * BLOCK_SIZE;
                model.lock().begin(offset, &bytes);
                match fill {
                    Some(_) => volume.try_write(offset as u64, &bytes).unwrap().unwrap(),
                    None => {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        runtime.block_on(volume.trim(offset as u64, BLOCK_SIZE as u64)).unwrap();
                    }
                }
                model.lock().disk.answer(offset, BLOCK_SIZE);
            }
        }
        Ok(())
    });
}

/// A block is written, and ones that are being flushed are trimmed and written, between the moment in which a flush
/// takes what it is about and its journal: what is journalled is what was synced. Row 43.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_races_a_flush_is_left_to_the_next_one() {
    let mut budget = Budget::new("a_write_that_races_a_flush_is_left_to_the_next_one", 1);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, 8 * BLOCK_SIZE);
        let process = life.start().await;
        // What is below the layer is not zero, as its holes are.
        life.write(&process, 0, 8 * BLOCK_SIZE).await.unwrap();
        life.checkpoint(&process).await.unwrap();
        life.write(&process, 0, 4 * BLOCK_SIZE).await.unwrap();
        // Below: the sync has begun, and is not about them.
        let blocks = &[(5, Some(5)), (1, None), (2, None), (2, Some(6))];
        meanwhile(&life, &process, &life.below, FsOp::Sync, blocks);
        life.flush(&process).await.unwrap();
        let model = life.model.lock().clone();
        assert!(model.disk.is_new(5 * BLOCK_SIZE) && model.disk.is_new(BLOCK_SIZE), "nothing raced");
        life.flush(&process).await.unwrap();
        drop(process);
        survive_all(&mut life, &mut budget, 40).await;
    }
    budget.end();
}

/// A write is answered after the flush with which a checkpoint begins, and before the layer it went to is frozen: the
/// next flush makes it durable, whatever becomes of the checkpoint. Row 46.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_before_the_layer_is_frozen_is_covered_by_the_next_flush() {
    let mut budget = Budget::new("a_write_before_the_layer_is_frozen_is_covered_by_the_next_flush", 1);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, 8 * BLOCK_SIZE);
        let process = life.start().await;
        life.write(&process, 0, 4 * BLOCK_SIZE).await.unwrap();
        meanwhile(&life, &process, &process.faults, FsOp::Create, &[(3, Some(5)), (6, Some(6))]);
        let (home, options) = (&process.opened.home, rig::options());
        let frozen = process.opened.volume.freeze(home, &options, &Job::default()).await.unwrap();
        assert!(life.model.lock().disk.is_new(6 * BLOCK_SIZE), "nothing came between");
        life.flush(&process).await.unwrap();
        assert!(!life.model.lock().disk.is_new(6 * BLOCK_SIZE));
        // The checkpoint comes to nothing.
        drop(frozen);
        drop(process);
        survive_all(&mut life, &mut budget, 40).await;
    }
    budget.end();
}

/// The journal is replaced by a short one when it is long; the power fails at each step of that, and a process dies.
/// Row 15.
#[tokio::test]
async fn compaction_of_the_journal() {
    let (crash, fs) = new();
    let overlay = create(&fs, 100);
    let layer = overlay.layers().remove(0);
    layer.write(50, &[50; BLOCK_SIZE]).unwrap();
    let first = overlay.record().layers;
    let mut flips = 0_u32;
    let mut flip = || {
        flips += 1;
        match flips % 2 {
            1 => layer.write(3, &[3; BLOCK_SIZE]).unwrap(),
            _ => layer.zero(BlockRange::new(3, 4)).unwrap(),
        }
    };
    // Each flush takes a sector of the 4 MiB from which on it is looked into.
    for _ in 0..8188 {
        flip();
        overlay.flush().await.unwrap();
    }
    assert_eq!(overlay.record().layers, first);
    let points = crash.record();
    let (mut shown, mut before) = (Vec::new(), points.take().len());
    while overlay.record().layers == first {
        flip();
        layer.write(60 + shown.len() as u64, &[60; BLOCK_SIZE]).unwrap();
        overlay.flush().await.unwrap();
        shown.push(points.take());
        before += 1;
        assert!(before < 20, "never compacted");
    }
    let last = shown.pop().unwrap();
    assert!(last.len() > 10, "{last:?}");
    let (mut old, mut new) = (0, 0);
    for point in last {
        for image in point.images(1, 12) {
            let overlay = open(image);
            *(if overlay.record().layers == first { &mut old } else { &mut new }) += 1;
            assert_eq!(block(&overlay, 50), Some(50));
            for flushed in 0..shown.len() as u64 {
                assert_eq!(block(&overlay, 60 + flushed), Some(60));
            }
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}

/// The sync of a block that was written over fails: memory shows the new bytes, and the disk may have any of both. What
/// the next start shows, and a flush then promises, is what the disk has. Row 7.
#[tokio::test]
async fn after_a_failed_sync_the_next_start_shows_what_the_disk_has() {
    let mut shown = Vec::new();
    for seed in 0..12 {
        let below = FaultFs::new(Arc::new(MemFs::new()));
        let crash = CrashFs::new(Arc::new(below.clone()), Path::new("/"), seed).unwrap();
        let fs: Arc<dyn Fs> = Arc::new(crash.clone());
        let overlay = create(&fs, 10);
        overlay.layers()[0].write(3, &[1; BLOCK_SIZE]).unwrap();
        overlay.flush().await.unwrap();
        overlay.layers()[0].write(3, &[2; BLOCK_SIZE]).unwrap();
        below.fail(On::op(FsOp::Sync).path(".data"), FsFault::EIO);
        assert_eq!(overlay.flush().await.unwrap_err().kind(), ErrorKind::Poisoned);
        drop(overlay);
        let overlay = LocalOverlay::open(fs.clone(), Path::new(VOLUME), None).unwrap();
        let now = block(&overlay, 3);
        overlay.flush().await.unwrap();
        for image in crash.crash().images(seed, usize::MAX) {
            let what = image.to_string();
            assert_eq!(block(&open(image), 3), now, "{what}");
        }
        shown.push(now);
    }
    assert!(shown.contains(&Some(1)) && shown.contains(&Some(2)));
}

/// A folder's sync fails after a record was renamed: nothing is reported, and nothing more is taken. Row 8.
#[tokio::test]
async fn a_commit_whose_folder_was_not_synced_is_not_reported() {
    let below = FaultFs::new(Arc::new(MemFs::new()));
    let crash = CrashFs::new(Arc::new(below.clone()), Path::new("/"), 1).unwrap();
    let fs: Arc<dyn Fs> = Arc::new(crash.clone());
    let overlay = create(&fs, 10);
    below.fail(On::op(FsOp::SyncDir).skip(1), FsFault::EIO);
    assert!(overlay.push_layer().await.is_err());
    assert!(overlay.flush().await.is_err() && overlay.layers()[0].write(1, &[1; BLOCK_SIZE]).is_err());
    let mut layers = Vec::new();
    for image in crash.crash().images(1, usize::MAX) {
        layers.push(open(image).layers().len());
    }
    assert!(layers.contains(&1) && layers.contains(&2), "either may be found");
    let replaced = FaultFs::new(Arc::new(MemFs::new()));
    replaced.fail(On::op(FsOp::SyncDir), FsFault::EIO);
    assert_eq!(
        replace(&replaced, Path::new("/record"), b"x").unwrap_err().kind(),
        io::Error::from_raw_os_error(5).kind()
    );
}

/// Row 49: an import is cancelled while a checkpoint relies on the chunks that it stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_relied_on_a_cancelled_import_is_whole() {
    let mut budget = Budget::new("a_checkpoint_that_relied_on_a_cancelled_import_is_whole", 1);
    while let Some(seed) = budget.round() {
        let size = 300 * BLOCK_SIZE;
        let mut life = Life::new(seed, size);
        let process = life.start().await;
        life.write(&process, 0, size).await.unwrap();
        // It gives the same disk and waits at its end, until it is cancelled in the midst of the checkpoint.
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (given, all_given) = tokio::sync::oneshot::channel();
        let disk = Waiting { disk: life.model.lock().disk.bytes(), at: 0, given: Some(given), ended };
        let (store, job) = (process.opened.home.store.clone(), Job::default());
        let importing = tokio::spawn({
            let job = job.clone();
            async move {
                let name = "other".parse().unwrap();
                import(&store, &FixedClock::default(), &name, disk, ImportOptions::default(), &job).await
            }
        });
        all_given.await.unwrap();
        process.faults.on(move |op, path| {
            if op == FsOp::Sync && path.to_string_lossy().contains("/packs/") {
                job.cancel.cancel();
                // Nobody listens any more if this is not the first sync.
                let _ = end.send(());
            }
            Ok(())
        });
        life.checkpoint(&process).await.unwrap();
        let cancelled = importing.await.unwrap().unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled, "{}", cancelled.report());
        drop(process);
        survive_all(&mut life, &mut budget, 8).await;
    }
    budget.end();
}

/// A disk that is given whole, and whose end is told later.
struct Waiting {
    disk: Vec<u8>,
    at: usize,
    given: Option<tokio::sync::oneshot::Sender<()>>,
    ended: std::sync::mpsc::Receiver<()>,
}

impl DiskSource for Waiting {
    fn size(&self) -> Option<u64> {
        Some(self.disk.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let len = buf.len().min(self.disk.len() - self.at);
        if len > 0 {
            buf[..len].copy_from_slice(&self.disk[self.at..][..len]);
            self.at += len;
            return Ok(Next::Data(len));
        }
        self.given.take().map(|given| given.send(()));
        let _ = self.ended.recv();
        Ok(Next::End)
    }
}
