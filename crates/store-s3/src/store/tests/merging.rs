//! Merging locators, beside a model.

use std::collections::HashMap;

use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore as _, IndexStore as _,
    clock::Timestamp,
    format::catalog::{Catalog, Replaced},
    testing::Rng,
    types::LocatorId,
};

use super::{
    bucket::{Bucket, Fate},
    support::{chunk, init, open, packs_of, publish},
};

const DATA: ChunkKind = ChunkKind::Data;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_become_few_and_hold_what_they_held() {
    for seed in 0..3 {
        let bucket = Bucket::new();
        let mut rng = Rng::new(seed);
        let mut model: HashMap<ChunkId, bytes::Bytes> = HashMap::new();
        let stores = [init(&bucket, packs_of(1 << 20)).await, open(&bucket).await];
        for round in 0..40_u64 {
            // Either of two hosts, neither of which knows what the other put unless it looks.
            let store = &stores[rng.below(2)];
            let count = 1 + rng.below(40);
            let chunks: Vec<_> = (0..count).map(|_| chunk(rng.below(600) as u64, 500)).collect();
            store.put(DATA, chunks.clone()).await.unwrap_or_else(|e| panic!("seed {seed}, {round}: {e:?}"));
            publish(store).await;
            store.settle().await;
            model.extend(chunks);
        }
        let other = open(&bucket).await;
        let catalog = other.read_catalog().await.expect("the catalog").value;
        assert!(catalog.locators.len() <= 17, "{}", catalog.locators.len());
        assert!(catalog.replaced.len() >= 20, "the sources wait for their deletion");
        let ids: Vec<_> = model.keys().copied().collect();
        for (id, got) in ids.iter().zip(other.get(DATA, &ids).await) {
            assert_eq!(got.unwrap_or_else(|e| panic!("seed {seed}: {e:?}")), model[id]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_that_fails_harms_no_publish() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let broken = |on: bool| {
        let mut locators = 0;
        bucket.rule(move |request| {
            locators += u32::from(request.write && request.key.starts_with("locators/"));
            // The first one of each round is the publish's.
            match on && locators > 1 && request.key.starts_with("locators/") {
                true => Fate::Refused,
                false => Fate::Done,
            }
        });
    };
    for seed in 0..20 {
        broken(true);
        store.put(DATA, vec![chunk(seed, 500)]).await.expect("put");
        publish(&store).await;
        store.settle().await;
    }
    let count = |store: crate::store::RemoteStore| async move {
        store.read_catalog().await.expect("the catalog").value.locators.len()
    };
    assert_eq!(count(store.clone()).await, 20);
    broken(false);
    store.put(DATA, vec![chunk(20, 500)]).await.expect("put");
    publish(&store).await;
    store.settle().await;
    assert!(count(store.clone()).await <= 16);
    let ids: Vec<_> = (0..=20).map(|seed| chunk(seed, 500).0).collect();
    assert!(open(&bucket).await.get(DATA, &ids).await.iter().all(Result::is_ok));
}

/// A store that has lived long without a collection goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_list_of_what_was_replaced_ends_no_merging() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let mut full = store.read_catalog().await.expect("the catalog");
    let old = |n: usize| LocatorId::from_bytes((n as u128).to_le_bytes());
    let old = (0..Catalog::MAX_LIST).map(|n| Replaced::Locator(old(n), Timestamp(1)));
    full.value.replaced = old.collect();
    store.write_catalog(&full.value, &full.version).await.expect("the catalog");
    for seed in 0..20 {
        store.put(DATA, vec![chunk(seed, 500)]).await.expect("put");
        publish(&store).await;
        store.settle().await;
    }
    let locators = store.read_catalog().await.expect("the catalog").value.locators;
    assert!(locators.len() <= 16, "{}", locators.len());
    let ids: Vec<_> = (0..20).map(|seed| chunk(seed, 500).0).collect();
    assert!(open(&bucket).await.get(DATA, &ids).await.iter().all(Result::is_ok));
}
