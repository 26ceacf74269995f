//! The suites of the traits.

use gabion_store_core::testing::conformance::{self, Capabilities};

use super::{bucket::Bucket, support::init};
use crate::store::RemoteOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries() {
    let capabilities = Capabilities::FULL.with_placements(true);
    conformance::chunk_store(capabilities, async || init(&Bucket::new(), RemoteOptions::default()).await)
        .await;
}

/// Packs so small that every put fills some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_in_small_packs() {
    let capabilities = Capabilities::FULL.with_placements(true);
    let options = RemoteOptions { pack_target: 100_000, uploads: 2, ..RemoteOptions::default() };
    conformance::chunk_store(capabilities, async || init(&Bucket::new(), options.clone()).await).await;
}
