//! Handles that go away, and disks that are full.

use std::{io, path::Path, sync::Arc};

use gabion_store_core::{ChunkStore as _, ErrorKind};

use super::{
    super::LocalStore,
    fixture::{Fixture, KIND, assert_holds, assert_lacks, entries, ids, options},
};
use crate::fs::{CrashFs, FaultFs, Fs, FsFault, FsOp, On};

#[tokio::test]
async fn a_handle_dropped_before_sync_leaves_only_orphans() {
    let f = Fixture::new();
    let (kept, dropped) = (entries(1, 10, 300), entries(2, 10, 300));
    f.store.put(KIND, kept.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let killed = f.other();
    killed.put(KIND, dropped.clone()).await.unwrap();
    drop(killed);
    let after = f.other();
    assert_holds(&after, &kept).await;
    assert_lacks(&after, &dropped).await;
    let unsealed: Vec<_> = after
        .packs()
        .unwrap()
        .into_iter()
        .map(|pack| after.verify_pack(pack, true).unwrap())
        .filter(|report| !report.sealed)
        .collect();
    assert_eq!(unsealed.len(), 1);
    assert_eq!(unsealed[0].entries.len(), 10);
    after.put(KIND, dropped.clone()).await.unwrap();
    after.sync().await.unwrap();
    assert_holds(&f.other(), &dropped).await;
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_accepted() {
    let f = Fixture::new();
    let (old, more) = (entries(3, 10, 1000), entries(4, 200, 1000));
    f.store.put(KIND, old.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    let first = more[..5].to_vec();
    f.store.put(KIND, first.clone()).await.unwrap();

    f.mem.set_capacity(f.mem.used() + 32 * 1024);
    let e = f.store.put(KIND, more.clone()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
    f.mem.set_capacity(f.mem.used());
    let e = f.store.sync().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
    // Everything old is readable, and what was accepted is, here.
    assert_holds(&f.store, &old).await;
    assert_holds(&f.store, &first).await;
    assert_holds(&f.other(), &old).await;

    f.mem.set_capacity(u64::MAX);
    f.store.sync().await.unwrap();
    assert_holds(&f.other(), &first).await;
    f.store.put(KIND, more.clone()).await.unwrap();
    f.store.sync().await.unwrap();
    assert_holds(&f.other(), &more).await;
    for pack in f.store.packs().unwrap() {
        let report = f.store.verify_pack(pack, true).unwrap();
        assert!(report.damaged.is_empty());
        assert!(report.sealed || report.entries.is_empty(), "{report:?}");
    }
}

/// Every amount of space left, page by page: errors, never a panic or a loss. Row 9.
#[tokio::test]
async fn space_runs_out_at_every_step() {
    for pages in 0..24 {
        let f = Fixture::new();
        let all = entries(5, 40, 900);
        f.mem.set_capacity(f.mem.used() + pages * 4096);
        let put = f.store.put(KIND, all.clone()).await;
        let sync = f.store.sync().await;
        for e in [put.clone().err(), sync.clone().err()].into_iter().flatten() {
            assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
        }
        if put.is_ok() && sync.is_ok() {
            assert_holds(&f.other(), &all).await;
        }
        f.mem.set_capacity(u64::MAX);
        f.store.put(KIND, all.clone()).await.unwrap();
        f.store.sync().await.unwrap();
        assert_holds(&f.other(), &all).await;
        assert_eq!(f.other().contains(KIND, &ids(&all)).await.unwrap(), vec![true; 40]);
    }
}

/// Each change to the folder in turn fails once. A sync that succeeds kept its promise; one that fails is
/// made good by putting again; and what was durable before stays readable throughout.
#[tokio::test]
async fn every_single_failure_is_survived() {
    let mut steps = 0;
    loop {
        let f = Fixture::new();
        let (old, new) = (entries(6, 5, 900), entries(7, 30, 900));
        f.store.put(KIND, old.clone()).await.unwrap();
        f.store.sync().await.unwrap();

        let failing = FaultFs::new(Arc::new(f.mem.clone()));
        let store = LocalStore::open_with(Arc::new(failing.clone()), Path::new("/s"), options()).unwrap();
        failing.fail(On::change().skip(steps), FsFault::Torn(5));
        let put = store.put(KIND, new.clone()).await;
        let sync = store.sync().await;
        drop(store.0.merging.lock());
        if !failing.heal() {
            put.unwrap();
            sync.unwrap();
            break;
        }
        assert_holds(&f.other(), &old).await;
        if put.is_ok() && sync.is_ok() {
            assert_holds(&f.other(), &new).await;
        } else {
            store.put(KIND, new.clone()).await.unwrap();
            store.sync().await.unwrap();
            assert_holds(&store, &new).await;
            assert_holds(&f.other(), &new).await;
            assert_holds(&f.other(), &old).await;
        }
        steps += 1;
    }
    assert!(steps > 30, "{steps}");
}

/// A process is killed after it renamed the catalog and before it synced the folder. What another one then reports
/// present, its sync makes durable.
#[tokio::test]
async fn what_was_reported_present_is_durable_after_a_sync() {
    let f = Fixture::new();
    let crash = CrashFs::new(Arc::new(f.mem.clone()), Path::new("/"), 1).unwrap();
    let dies = FaultFs::new(Arc::new(crash.clone()));
    let open = |fs: Arc<dyn Fs>| LocalStore::open_with(fs, Path::new("/s"), options()).unwrap();
    let killed = open(Arc::new(dies.clone()));
    let store = open(Arc::new(crash.clone()));
    let some = entries(1, 5, 100);
    killed.put(KIND, some.clone()).await.unwrap();
    dies.on(|op, path| match (op, path == Path::new("/s")) {
        (FsOp::SyncDir, true) => Err(io::ErrorKind::Other.into()),
        _ => Ok(()),
    });
    assert!(killed.sync().await.is_err());
    drop(killed);
    assert_eq!(store.contains(KIND, &ids(&some)).await.unwrap(), [true; 5]);
    store.sync().await.unwrap();
    for image in crash.crash().images(1, usize::MAX) {
        assert_holds(&open(image.into_fs()), &some).await;
    }
}

/// A failed sync of a pack's file loses its entries: no later sync covers that up.
#[tokio::test]
async fn what_a_failed_sync_lost_stays_told_until_it_is_put_again() {
    let mut told = 0;
    for step in 0..20 {
        let f = Fixture::new();
        let (some, more) = (entries(8, 5, 100), entries(9, 5, 100));
        let failing = FaultFs::new(Arc::new(f.mem.clone()));
        let store = LocalStore::open_with(Arc::new(failing.clone()), Path::new("/s"), options()).unwrap();
        store.put(KIND, some.clone()).await.unwrap();
        failing.fail(On::change().skip(step), FsFault::Torn(5));
        if store.sync().await.is_ok() {
            continue;
        }
        failing.heal();
        store.put(KIND, more.clone()).await.unwrap();
        if let Err(e) = store.sync().await {
            told += 1;
            assert!(e.to_string().contains("lost"), "{e}");
            // Behind what was lost nothing becomes live: it may need what was lost.
            assert_holds(&store, &more).await;
            assert_lacks(&f.other(), &more).await;
            assert_lacks(&store, &some).await;
            assert!(store.sync().await.is_err());
            store.put(KIND, some.clone()).await.unwrap();
            store.sync().await.unwrap();
        }
        assert_holds(&f.other(), &some).await;
        assert_holds(&f.other(), &more).await;
    }
    // The pack's own sync, and those of the two folders above it.
    assert_eq!(told, 3);
}
