//! A home store that fails while checkpoints are made, before and after the effect, and records that can't be
//! saved: the volume goes on, nothing is lost, and the next checkpoint has everything.

use std::{path::Path, sync::Arc};

use gabion_store_core::{
    BlockDevice as _, ErrorKind,
    testing::{Call, Fault, FaultStore, Rng},
};
use gabion_store_local::fs::{FaultFs, Fs, FsFault, FsFileExt as _, FsOp, MemFs, On, OpenMode};

use super::{
    rig::{Rig, seed, whole},
    stress::{SIZE, answered, assert_shows, reap, regions, start},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_store_loses_nothing() {
    let seed = seed("a_failing_store_loses_nothing");
    let mut rng = Rng::new(seed);
    let rig = Rig::new(Arc::new(MemFs::new()), Path::new("/"), SIZE as u64);
    let faults = FaultStore::new(rig.store(), seed);
    let opened = rig.open(faults.store()).await;
    let regions = regions();
    let mut writers = start(&opened, &regions, &mut rng, 250);
    let calls = [Call::Put, Call::PutEncoded, Call::Sync, Call::WriteCatalog, Call::WriteImage, Call::PutMap];
    let (mut failed, mut rounds) = (0, 0);
    while !writers.is_empty() || rounds < 30 {
        rounds += 1;
        let call = calls[rng.below(calls.len())];
        let kind = ErrorKind::Unavailable;
        let fault = if rng.below(2) == 0 { Fault::Before(kind) } else { Fault::After(kind) };
        faults.script(call, rng.below(3) as u64, fault);
        opened.overlay.fail((rng.below(3) == 0).then_some(2), rng.next());
        let least = answered(&regions);
        match opened.checkpoint().await {
            Ok(id) => assert_shows(&rig.content(id).await, &regions, &least, "a checkpoint"),
            Err(_) => failed += 1,
        }
        reap(&mut writers);
    }
    assert!(failed > 0, "no fault was met");
    opened.overlay.fail(None, 0);
    faults.heal();
    let all = answered(&regions);
    let shown = whole(&opened.volume).await;
    let id = opened.checkpoint().await.unwrap();
    assert!(rig.content(id).await == shown, "the next checkpoint lacks something");
    assert_shows(&shown, &regions, &all, "the volume");
    drop(opened);
    let opened = rig.open(rig.store()).await;
    assert!(whole(&opened.volume).await == shown);
    assert_eq!(opened.overlay.inner.record().layers.len(), 1);
    rig.assert_whole().await;
}

/// Every call of a checkpoint fails once, either way; then the process ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_fails_anywhere_is_made_up_for() {
    let calls = [
        Call::Put,
        Call::PutEncoded,
        Call::Contains,
        Call::Sync,
        Call::Locate,
        Call::ReadImage,
        Call::WriteImage,
        Call::ReadCatalog,
        Call::WriteCatalog,
        Call::PutMap,
    ];
    for call in calls {
        for nth in 0.. {
            let mut missed = 0;
            for after in [false, true] {
                let rig = Rig::new(Arc::new(MemFs::new()), Path::new("/"), 100_001);
                let faults = FaultStore::new(rig.store(), 1);
                let opened = rig.open(faults.store()).await;
                let mut disk = vec![0; 100_001];
                super::cancel::scribble(&opened.volume, &mut disk, 1).await;
                opened.checkpoint().await.unwrap();
                super::cancel::scribble(&opened.volume, &mut disk, 2).await;
                let kind = ErrorKind::Unavailable;
                let before = faults.calls(call);
                faults.script(call, nth, if after { Fault::After(kind) } else { Fault::Before(kind) });
                let made = opened.checkpoint().await;
                missed += usize::from(faults.calls(call) - before <= nth);
                if let Ok(id) = made {
                    assert!(rig.content(id).await == disk);
                }
                faults.heal();
                assert!(whole(&opened.volume).await == disk, "{call:?} number {nth}");
                super::cancel::scribble(&opened.volume, &mut disk, 3).await;
                opened.volume.flush().await.unwrap();
                drop(opened);
                let opened = rig.open(rig.store()).await;
                assert!(whole(&opened.volume).await == disk, "{call:?} number {nth}, opened again");
                let id = opened.checkpoint().await.unwrap();
                assert!(rig.content(id).await == disk);
                rig.assert_whole().await;
            }
            if missed == 2 {
                break;
            }
        }
    }
}

/// A write that comes after a checkpoint's flush and before its freeze; the disk fails to take it, and the page is dropped,
/// as the kernel does with one that it could not write. What is read of the layer then is not what was answered: it gets
/// no name, and a flush does not succeed either. Rows 7, 46.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_layer_is_on_the_disk_before_it_is_read() {
    let below: Arc<dyn Fs> = Arc::new(MemFs::new());
    let hook = FaultFs::new(Arc::clone(&below));
    let rig = Rig::new(Arc::new(hook.clone()), Path::new("/"), 1 << 20);
    let opened = rig.open(rig.store()).await;
    opened.volume.try_write(0, &[1; 4096]).unwrap().unwrap();
    opened.volume.flush().await.unwrap();
    let (volume, faults) = (opened.volume.clone(), hook.clone());
    let mut late = true;
    hook.on(move |op, path| {
        if op == FsOp::Create && path.ends_with("layer-3.data") && std::mem::take(&mut late) {
            volume.try_write(0, &[2; 4096]).unwrap().unwrap();
            let layer = below.open(Path::new("/volume/layer-1.data"), OpenMode::ReadWrite)?;
            layer.write_all_at(&[1; 4096], 0)?;
            faults.fail(On::op(FsOp::Sync).path("layer-1.data"), FsFault::EIO);
        }
        Ok(())
    });
    let made = opened.checkpoint().await;
    let flushed = opened.volume.flush().await;
    assert_eq!(made.map_err(|e| e.kind()), Err(ErrorKind::Poisoned));
    assert_eq!(flushed.map_err(|e| e.kind()), Err(ErrorKind::Poisoned));
    assert!(rig.history().await.is_empty(), "what the disk lost has a name");
}
