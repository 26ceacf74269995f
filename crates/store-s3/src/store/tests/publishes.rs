//! What a publish costs a writer that goes on publishing, and one that has just begun.

use std::sync::Arc;

use gabion_store_core::{
    ChunkKind, ChunkStore as _, IndexStore as _, NodeId,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry},
    ops::{NewBase, Publish, publish, store_checkpoint},
    types::VolumeId,
};
use object_store::{ObjectStore, path::Path};

use super::support::{chunk, clock, name};
use crate::{
    scripted::Scripted,
    store::{RemoteOptions, RemoteStore},
};
use gabion_store_core::clock::Timestamp;

async fn open(bucket: &Arc<Scripted>, fresh: bool) -> RemoteStore {
    let bucket: Arc<dyn ObjectStore> = bucket.clone();
    let (prefix, place, options) = (Path::from("p"), "memory://test", RemoteOptions::default());
    let store = if fresh {
        RemoteStore::init_in(bucket, prefix, place, options).await
    } else {
        RemoteStore::open_in(bucket, prefix, place, options).await
    };
    store.expect("a store")
}

/// Publishes a chunk of its own, for a volume that stands on what was published before.
async fn append(store: &RemoteStore, n: u64, base: &mut Option<gabion_store_core::CheckpointId>) {
    let (id, bytes) = chunk(n, 4096);
    store.put(ChunkKind::Data, vec![(id, bytes)]).await.expect("put");
    let checkpoint = Checkpoint::new(4096, None, Timestamp(n)).expect("small");
    let both = store.clone().into_store();
    let made = store_checkpoint(&both, &checkpoint).await.expect("put");
    let entry = HistoryEntry { checkpoint: made, size: 4096, created: Timestamp(n) };
    let (image, nodes): (_, [NodeId; 0]) = (name("vm"), []);
    let pin = Some(NewBase { volume: VolumeId::from_bytes([1; 16]), base: *base });
    let what = Publish { nodes: &nodes, chunks: &[(n, id)], pin, ..Publish::append(&image, entry) };
    publish(&both, &clock(), what).await.expect("published");
    *base = Some(made);
}

fn kinds(requests: &[String]) -> Vec<&str> {
    requests
        .iter()
        .map(|request| {
            let rest = request.strip_prefix("PUT p/").unwrap_or(request);
            rest.split_once('/').map_or(rest, |(kind, _)| kind)
        })
        .collect()
}

/// Pack, locator, catalog, map, record, catalog: maps that it wrote itself it folds from memory.
#[tokio::test]
async fn a_running_writer_publishes_with_five_requests_beside_its_packs() {
    let bucket = Scripted::new();
    let store = open(&bucket, true).await;
    let mut base = None;
    append(&store, 0, &mut base).await;
    bucket.requests();
    for n in 1..7 {
        append(&store, n, &mut base).await;
        let requests = bucket.requests();
        let expected = ["packs", "locators", "catalog", "maps", "images", "catalog"];
        assert_eq!(kinds(&requests), expected, "{n}: {requests:#?}");
    }
    let record = store.read_image(&name("vm")).await.expect("read").expect("is there").value;
    assert_eq!(record.history.len(), 7);
    assert!(record.maps.len() <= 4);
}

/// It folds maps of another process: of each a length, and those that become one.
#[tokio::test]
async fn a_fresh_writer_publishes_with_few_requests() {
    let bucket = Scripted::new();
    let mut base = None;
    append(&open(&bucket, true).await, 0, &mut base).await;
    for n in 1..8 {
        let store = open(&bucket, false).await;
        bucket.requests();
        append(&store, n, &mut base).await;
        let requests = bucket.requests();
        let packs = requests.iter().filter(|request| request.starts_with("PUT p/packs/")).count();
        assert!(requests.len() - packs <= 14, "{requests:#?}");
        assert!(!requests.iter().any(|request| request.starts_with("LIST")), "{requests:#?}");
    }
}
