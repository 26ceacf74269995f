//! What is live is always a prefix of what was put, so that a node is never there before its children.

use std::{
    path::Path,
    sync::{Arc, mpsc},
};

use gabion_store_core::{ChunkStore as _, ErrorKind};

use super::{
    super::LocalStore,
    fixture::{Fixture, KIND, assert_holds, assert_lacks, entries, options},
};
use crate::fs::{FaultFs, FsFault, FsOp, On};

/// Entries that fill one pack exactly.
fn pack_full(seed: u64) -> Vec<(gabion_store_core::ChunkId, bytes::Bytes)> {
    entries(seed, 16, 1000)
}

fn hooked(f: &Fixture) -> (FaultFs, LocalStore) {
    let hook = FaultFs::new(Arc::new(f.mem.clone()));
    let store = LocalStore::open_with(Arc::new(hook.clone()), Path::new("/s"), options()).unwrap();
    (hook, store)
}

/// Waits until at most that many packs are being sealed.
async fn sealing(store: &LocalStore, most: usize) {
    while store.0.writer.running() > most {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_waits_for_an_earlier_one_that_is_slower() {
    let f = Fixture::new();
    let (hook, store) = hooked(&f);
    let (first, second) = (pack_full(1), pack_full(2));
    let (arrive, arrived) = mpsc::channel();
    let (go_on, held) = mpsc::channel::<()>();
    hook.on(move |op, path| {
        if op == FsOp::Sync && path.starts_with("/s/packs") {
            let _ = arrive.send(());
            let _ = held.recv();
        }
        Ok(())
    });
    store.put(KIND, first.clone()).await.unwrap();
    gabion_store_core::blocking::spawn_blocking(move || arrived.recv()).await.unwrap().unwrap();
    store.put(KIND, second.clone()).await.unwrap();
    sealing(&store, 1).await;
    assert_holds(&store, &second).await;
    assert_lacks(&f.other(), &second).await;
    go_on.send(()).unwrap();
    store.sync().await.unwrap();
    assert_holds(&f.other(), &first).await;
    assert_holds(&f.other(), &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_waits_for_an_earlier_one_that_failed() {
    let f = Fixture::new();
    let (hook, store) = hooked(&f);
    let (first, second) = (pack_full(1), pack_full(2));
    hook.fail(On::op(FsOp::SetLen).path("packs"), FsFault::ENOSPC);
    store.put(KIND, first.clone()).await.unwrap();
    sealing(&store, 0).await;
    store.put(KIND, second.clone()).await.unwrap();
    sealing(&store, 0).await;
    assert_lacks(&f.other(), &second).await;
    store.sync().await.unwrap();
    assert_holds(&f.other(), &first).await;
    assert_holds(&f.other(), &second).await;
}

/// What lies behind a pack that was lost becomes live together with what the pack held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_waits_until_what_was_lost_is_there_again() {
    let f = Fixture::new();
    let (hook, store) = hooked(&f);
    let (first, second) = (pack_full(1), pack_full(2));
    hook.fail(On::op(FsOp::Sync).path("packs"), FsFault::EIO);
    store.put(KIND, first.clone()).await.unwrap();
    sealing(&store, 0).await;
    store.put(KIND, second.clone()).await.unwrap();
    sealing(&store, 0).await;
    assert_eq!(store.sync().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_lacks(&f.other(), &second).await;

    // Half of it, then the rest: only with the last of it anything becomes live.
    store.put(KIND, first[..8].to_vec()).await.unwrap();
    store.sync().await.unwrap_err();
    assert_lacks(&f.other(), &second).await;
    assert_lacks(&f.other(), &first).await;
    store.put(KIND, first[8..].to_vec()).await.unwrap();
    assert_lacks(&f.other(), &second).await;
    store.sync().await.unwrap();
    assert_holds(&f.other(), &first).await;
    assert_holds(&f.other(), &second).await;
}
