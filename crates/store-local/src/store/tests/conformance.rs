//! The conformance suites, over memory and over real files, with small packs and with ordinary ones.

use std::{path::Path, sync::Arc};

use gabion_store_core::testing::{
    FixedClock,
    conformance::{self, Capabilities},
};

use super::{
    super::LocalStore,
    fixture::{init, on_disk},
};
use crate::fs::MemFs;

const CAPABILITIES: Capabilities = Capabilities::FULL.with_placements(true);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chunks_in_memory() {
    conformance::chunk_store(CAPABILITIES, async || init(Arc::new(MemFs::new()), Path::new("/s"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chunks_with_default_options() {
    conformance::chunk_store(CAPABILITIES, async || {
        LocalStore::init(Arc::new(MemFs::new()), Path::new("/s"), &FixedClock::default()).unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_in_memory() {
    conformance::index_store(CAPABILITIES, async || init(Arc::new(MemFs::new()), Path::new("/s"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_on_disk() {
    let folders = std::sync::Mutex::new(Vec::new());
    let fresh = async || {
        let (folder, store) = on_disk();
        folders.lock().unwrap().push(folder);
        store
    };
    conformance::chunk_store(CAPABILITIES, fresh).await;
    conformance::index_store(CAPABILITIES, fresh).await;
}
