//! Failing syncs, full disks, and writes that race a flush.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use gabion_store_core::{CheckpointId, ErrorKind};

use super::*;
use crate::fs::{FaultFs, FsFault, FsOp, On};

const BLOCKS: u64 = 1000;

fn hooked() -> (FaultFs, Arc<dyn Fs>) {
    let fs = FaultFs::new(Arc::new(MemFs::new()));
    (fs.clone(), Arc::new(fs))
}

#[tokio::test]
async fn a_failed_sync_poisons_until_reopened() {
    for (file, survives) in [(".data", false), (".journal", true)] {
        let (hook, fs) = hooked();
        let overlay = create(&fs, BLOCKS);
        fill(&*top(&overlay), 1, 1, 1).unwrap();
        overlay.flush().await.unwrap();
        fill(&*top(&overlay), 2, 1, 2).unwrap();
        hook.fail(On::op(FsOp::Sync).path(file), FsFault::EIO);
        assert_eq!(overlay.flush().await.unwrap_err().kind(), ErrorKind::Poisoned);

        // The disk is well again, but what it lost is not known.
        assert_eq!(overlay.flush().await.unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(fill(&*top(&overlay), 3, 1, 3).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(top(&overlay).zero(BlockRange::new(0, 1)).unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(overlay.push_layer().await.unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(overlay.grow(BLOCKS * 8192).await.unwrap_err().kind(), ErrorKind::Poisoned);
        let base = CheckpointId::from_bytes([1; 32]);
        assert_eq!(overlay.rebase(base, 0).await.unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(overlay.clear_lazy_base().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(contents(&*top(&overlay), 3)[1], Content::Fill(1), "reads go on");

        drop(overlay);
        let overlay = open(&fs);
        let found = contents(&*top(&overlay), 4);
        assert_eq!(found[1], Content::Fill(1));
        assert_eq!(found[2], if survives { Content::Fill(2) } else { Content::Base });
        fill(&*top(&overlay), 2, 1, 9).unwrap();
        overlay.flush().await.unwrap();
        drop(overlay);
        assert_eq!(contents(&*top(&open(&fs)), 4)[2], Content::Fill(9));
    }
}

#[tokio::test]
async fn a_journal_that_has_no_space_after_all_owes_the_blocks() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 2, 1, 2).unwrap();
    top(&overlay).zero(BlockRange::new(9, 12)).unwrap();
    hook.fail(On::op(FsOp::Write).path(".journal"), FsFault::ENOSPC);
    assert_eq!(overlay.flush().await.unwrap_err().kind(), ErrorKind::NoSpace);
    top(&overlay).zero(BlockRange::new(2, 3)).unwrap();
    overlay.flush().await.unwrap();
    drop(overlay);
    let found = contents(&*top(&open(&fs)), 12);
    assert_eq!((found[2], found[9]), (Content::Zero, Content::Zero), "the newer mark won");
}

#[tokio::test]
async fn nothing_is_synced_when_nothing_changed() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = syncs.clone();
    hook.on(move |op, _| {
        counted.fetch_add(usize::from(op == FsOp::Sync), Ordering::Relaxed);
        Ok(())
    });
    let expect = async |more: usize, why: &str| {
        let before = syncs.load(Ordering::Relaxed);
        overlay.flush().await.unwrap();
        assert_eq!(syncs.load(Ordering::Relaxed) - before, more, "{why}");
    };
    expect(0, "new").await;
    fill(&*top(&overlay), 5, 4, 1).unwrap();
    expect(2, "data and journal").await;
    expect(0, "idle").await;
    fill(&*top(&overlay), 6, 1, 2).unwrap();
    expect(1, "data that was data before").await;
    top(&overlay).zero(BlockRange::new(6, 8)).unwrap();
    expect(1, "marks alone").await;
    top(&overlay).zero(BlockRange::new(6, 8)).unwrap();
    expect(0, "zero that was zero before").await;
}

#[tokio::test]
async fn a_write_between_capture_and_journal_waits_for_the_next_flush() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    let layer = top(&overlay);
    fill(&*layer, 1, 1, 1).unwrap();
    let mut first = true;
    let racing = layer.clone();
    hook.on(move |op, path| {
        if op == FsOp::Sync && path.to_str().is_some_and(|path| path.ends_with(".data")) && first {
            first = false;
            fill(&*racing, 2, 1, 2).unwrap();
            racing.zero(BlockRange::new(1, 2)).unwrap();
        }
        Ok(())
    });
    overlay.flush().await.unwrap();
    hook.on(|_, _| Ok(()));
    drop((layer, overlay));
    let overlay = open(&fs);
    let found = contents(&*top(&overlay), 3);
    assert_eq!(found[2], Content::Base, "its bytes were not synced, so nothing may say that they count");
    assert_eq!(found[1], Content::Fill(0), "captured as data; the hole is of the unflushed zeroing");
}

#[tokio::test]
async fn a_flush_that_comes_while_one_runs_is_not_answered_by_it() {
    let (hook, fs) = hooked();
    let overlay = Arc::new(create(&fs, BLOCKS));
    let layer = top(&overlay);
    fill(&*layer, 1, 1, 1).unwrap();
    let later = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut first = true;
    hook.on({
        let (later, overlay, runtime) = (later.clone(), overlay.clone(), tokio::runtime::Handle::current());
        move |op, path| {
            if op == FsOp::Sync && path.to_str().is_some_and(|path| path.ends_with(".journal")) && first {
                first = false;
                fill(&*top(&overlay), 2, 1, 2).unwrap();
                for _ in 0..3 {
                    let overlay = overlay.clone();
                    later.lock().push(runtime.spawn(async move { overlay.flush().await }));
                }
            }
            Ok(())
        }
    });
    overlay.flush().await.unwrap();
    let waiting = std::mem::take(&mut *later.lock());
    assert_eq!(waiting.len(), 3);
    for flush in waiting {
        flush.await.unwrap().unwrap();
    }
    hook.on(|_, _| Ok(()));
    drop((layer, overlay));
    assert_eq!(contents(&*top(&open(&fs)), 3)[2], Content::Fill(2));
}

#[tokio::test]
async fn a_dropped_flush_goes_on_and_the_next_one_works() {
    let (_, fs) = memory();
    let overlay = create(&fs, BLOCKS);
    for byte in 1..50 {
        fill(&*top(&overlay), u64::from(byte), 1, byte).unwrap();
        let mut flush = Box::pin(overlay.flush());
        assert!(futures_poll(&mut flush).await.is_none_or(|done| done.is_ok()));
        drop(flush);
    }
    overlay.flush().await.unwrap();
    drop(overlay);
    let overlay = open(&fs);
    assert_eq!(top(&overlay).data_blocks(), 49);
}

/// Flushes batches of one sector until the journal is nearly long enough to be compacted.
async fn lengthen(overlay: &LocalOverlay) {
    let files = overlay.record().layers[0];
    for _ in 0..4090 {
        fill(&*top(overlay), 3, 1, 3).unwrap();
        overlay.flush().await.unwrap();
        top(overlay).zero(BlockRange::new(3, 4)).unwrap();
        overlay.flush().await.unwrap();
    }
    assert_eq!(overlay.record().layers[0], files, "compacted too early for this test");
}

#[tokio::test]
async fn compaction_without_space_goes_on_with_the_long_journal() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 100, 9, 7).unwrap();
    lengthen(&overlay).await;
    let files = overlay.record().layers[0];
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = refused.clone();
    hook.on(move |op, path| {
        let new_journal = op == FsOp::Create && path.to_str().is_some_and(|path| path.ends_with(".journal"));
        counted.fetch_add(usize::from(new_journal), Ordering::Relaxed);
        if new_journal { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    for block in 0..20 {
        fill(&*top(&overlay), 200 + 2 * block, 1, 8).unwrap();
        overlay.flush().await.unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "compaction was tried");
    assert_eq!(overlay.record().layers[0], files);
    hook.on(|_, _| Ok(()));
    fill(&*top(&overlay), 300, 1, 9).unwrap();
    overlay.flush().await.unwrap();
    assert_ne!(overlay.record().layers[0], files, "with space it is done");
    let expected = contents(&*top(&overlay), BLOCKS);
    drop(overlay);
    assert_eq!(contents(&*top(&open(&fs)), BLOCKS), expected);
}

#[tokio::test]
async fn compaction_that_may_or_may_not_have_switched_poisons_and_loses_nothing() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 100, 9, 7).unwrap();
    lengthen(&overlay).await;
    let files = overlay.record().layers[0];
    let mut renamed = false;
    hook.on(move |op, _| {
        renamed |= op == FsOp::Rename;
        if renamed && op == FsOp::SyncDir { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    });
    let mut flushed = 0;
    let error = loop {
        fill(&*top(&overlay), 200 + 2 * flushed, 1, 8).unwrap();
        match overlay.flush().await {
            Ok(()) => flushed += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    hook.on(|_, _| Ok(()));
    drop(overlay);
    let overlay = open(&fs);
    assert_ne!(overlay.record().layers[0], files);
    assert_eq!(top(&overlay).data_blocks(), 9 + flushed + 1);
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test]
async fn full_disk() {
    let (space, fs) = memory();
    let overlay = create(&fs, 1 << 28);
    let layer = top(&overlay);
    fill(&*layer, 0, 8, 1).unwrap();
    space.set_capacity(space.used() + 4 * 4096);
    assert_eq!(fill(&*layer, 100, 8, 2).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(contents(&*layer, 108)[100], Content::Base, "not marked");
    fill(&*layer, 0, 8, 3).unwrap();
    space.set_capacity(space.used());
    overlay.flush().await.unwrap();

    // Marks need no space but the journal's: at some point that is refused, and never by a flush.
    let mut marked = Vec::new();
    let refused = loop {
        let block = 1000 + 2 * marked.len() as u64;
        match layer.zero(BlockRange::new(block, block + 1)) {
            Ok(()) if marked.len() < 70_000 => marked.push(block),
            Ok(()) => panic!("marks were let in for which the journal can't have room"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::NoSpace);
    assert!(marked.len() > 10_000);
    overlay.flush().await.unwrap();
    // The journal's space shrank by what the batch took; marks that need less than that fit again.
    layer.zero(BlockRange::new(1000, 1000 + 2 * marked.len() as u64)).unwrap();
    overlay.flush().await.unwrap();
    space.set_capacity(u64::MAX);
    fill(&*layer, 100, 8, 2).unwrap();
    overlay.flush().await.unwrap();
    drop((layer, overlay));
    let overlay = open(&fs);
    let layer = top(&overlay);
    assert_eq!(layer.data_blocks(), 16);
    assert_eq!(layer.first_run(BlockRange::new(1000, 1 << 28)).1, 1000 + 2 * marked.len() as u64);
}

#[tokio::test]
async fn a_record_that_finds_no_space_changes_nothing() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 1, 1, 1).unwrap();
    let files = fs.read_dir(Path::new("/vol")).unwrap();
    for (op, part) in [
        (FsOp::Write, "record.tmp"),
        (FsOp::Rename, "record"),
        (FsOp::Create, ".data"),
        (FsOp::Write, ".journal"),
    ] {
        hook.fail(On::op(op).path(part), FsFault::ENOSPC);
        assert_eq!(overlay.push_layer().await.unwrap_err().kind(), ErrorKind::NoSpace, "{op:?} {part}");
        assert_eq!(fs.read_dir(Path::new("/vol")).unwrap(), files);
    }
    overlay.push_layer().await.unwrap();
    overlay.flush().await.unwrap();
    drop(overlay);
    assert_eq!(contents(&*open(&fs).layers()[1], 2)[1], Content::Fill(1));
}

#[tokio::test]
async fn a_record_that_may_be_old_or_new_poisons() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 1, 1, 1).unwrap();
    overlay.flush().await.unwrap();
    let mut dir_syncs = 0;
    hook.on(move |op, _| {
        dir_syncs += usize::from(op == FsOp::SyncDir);
        // The first is for the new files, the second for the record.
        if op == FsOp::SyncDir && dir_syncs == 2 { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    });
    assert_eq!(overlay.push_layer().await.unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(fill(&*top(&overlay), 1, 1, 2).unwrap_err().kind(), ErrorKind::Poisoned);
    drop(overlay);
    let overlay = open(&fs);
    assert_eq!(overlay.layers().len(), 2, "the files of the new record are all there");
    assert_eq!(contents(&*overlay.layers()[1], 2)[1], Content::Fill(1));
}

#[tokio::test]
async fn a_write_that_failed_half_way_is_covered_by_the_next_flush() {
    let (hook, fs) = hooked();
    let overlay = create(&fs, BLOCKS);
    fill(&*top(&overlay), 1, 1, 1).unwrap();
    overlay.flush().await.unwrap();
    hook.fail(On::op(FsOp::Write).path(".data"), FsFault::EIO);
    assert!(fill(&*top(&overlay), 1, 2, 2).is_err());
    // Whatever the write left in block 1 is read from now on, so it may not change back in a crash.
    let synced = Arc::new(AtomicUsize::new(0));
    let counted = synced.clone();
    hook.on(move |op, path| {
        let data = op == FsOp::Sync && path.to_str().is_some_and(|path| path.contains(".data"));
        counted.fetch_add(usize::from(data), Ordering::Relaxed);
        Ok(())
    });
    overlay.flush().await.unwrap();
    assert_eq!(synced.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_volume_whose_making_failed_is_not_there() {
    let (hook, fs) = hooked();
    hook.on({
        let mut renamed = false;
        move |op, _| {
            renamed |= op == FsOp::Rename;
            if renamed && op == FsOp::SyncDir { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    });
    assert!(LocalOverlay::create(fs.clone(), Path::new("/vol"), info(4096)).is_err());
    hook.on(|_, _| Ok(()));
    let opened = LocalOverlay::open(fs.clone(), Path::new("/vol"), None);
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound);
    create(&fs, BLOCKS);
}
