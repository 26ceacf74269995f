//! The suites of the traits, on every kind of object store and below every layer.

use std::sync::Arc;

use gabion_store_core::{
    stores::{Cached, Limited, MemoryCache, Metered, Stack, Verify},
    testing::conformance::{self, Capabilities},
};
use gabion_testcloud::{
    Cloud, Conditions,
    servers::{Azurite, Moto},
};

use super::support::{Place, in_process_with};

async fn conforms(place: &Place) {
    let capabilities = Capabilities::FULL.with_placements(true);
    conformance::chunk_store(capabilities, async || place.init().await).await;
    conformance::index_store(capabilities, async || place.init().await).await;
}

/// Where only one process may write.
async fn conforms_alone(place: &Place) {
    let capabilities = Capabilities::FULL.with_placements(true).with_atomic_cas(false);
    conformance::chunk_store(capabilities, async || place.init().await).await;
    conformance::index_store(capabilities, async || place.init().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_s3_of_testcloud() {
    let cloud = Cloud::new();
    conforms(&Place::s3(&cloud)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_gcs_of_testcloud() {
    let cloud = Cloud::new();
    conforms(&Place::gcs(&cloud)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_moto() {
    if in_process_with(&Moto::VARIABLES) {
        let moto = Moto::start();
        let base = format!("s3://{}", moto.new_bucket());
        conforms(&Place::new(base, format!("?endpoint={}", moto.endpoint()))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_azurite() {
    let variables =
        [("AZURE_STORAGE_ACCOUNT_NAME", Azurite::ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", Azurite::KEY)];
    if in_process_with(&variables) {
        let azurite = Azurite::start();
        let base = format!("az://{}", azurite.new_container());
        conforms(&Place::new(base, format!("?endpoint={}", azurite.endpoint()))).await;
    }
}

/// Folders have no conditional replacement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    conforms_alone(&Place::new(format!("file://{}", folder.path().display()), "?single_writer=true")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    conforms(&Place::new("memory://conformance", "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_single_writer() {
    let cloud = Cloud::new();
    cloud.set_conditions(Conditions::Ignored);
    let query = format!("?endpoint={}&anonymous=true&single_writer=true", cloud.s3_endpoint());
    conforms_alone(&Place::new("s3://bucket", query)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_every_layer() {
    let cloud = Cloud::new();
    let place = Place::s3(&cloud);
    let bare = Capabilities::FULL;
    conformance::chunk_store(bare, async || Verify::new(place.init().await)).await;
    conformance::chunk_store(bare, async || Metered::new(place.init().await)).await;
    conformance::chunk_store(bare, async || Limited::new(place.init().await, 2).unwrap()).await;
    let cached = async || Cached::new(Arc::new(MemoryCache::new(1 << 20)), Arc::new(place.init().await));
    conformance::chunk_store(bare, cached).await;
    let stack = async || {
        let tiers = Stack::builder().tier("near", Arc::new(place.init().await));
        tiers.tier("far", Arc::new(place.init().await)).write_to("far").unwrap()
    };
    conformance::chunk_store(bare, stack).await;
}
