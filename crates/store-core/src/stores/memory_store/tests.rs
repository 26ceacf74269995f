//! Conformance, and what is this store's own.

use super::*;
use crate::{
    clock::Timestamp,
    testing::{FixedClock, conformance},
    types::id_of,
};

fn fresh() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(&FixedClock::new(Timestamp(1))).unwrap())
}

#[tokio::test]
async fn conforms_as_a_chunk_store() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || fresh()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_as_an_index_store() {
    conformance::index_store(conformance::Capabilities::FULL, async || fresh()).await;
}

#[tokio::test]
async fn an_oversized_entry_stores_nothing_of_its_batch() {
    let store = fresh();
    let entries = [10, MAX_RAW_LEN + 1].map(|len| {
        let bytes = Bytes::from(vec![7; len]);
        (id_of(ChunkKind::Node, &bytes), bytes)
    });
    let refused = store.put(ChunkKind::Node, entries.to_vec()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(store.is_empty());
}

#[tokio::test]
async fn putting_again_heals_wrong_bytes() {
    let store = fresh();
    let right = Bytes::from_static(b"right");
    let id = id_of(ChunkKind::Node, &right);
    store.put(ChunkKind::Node, vec![(id, Bytes::from_static(b"wrong"))]).await.unwrap();
    store.put(ChunkKind::Node, vec![(id, right.clone())]).await.unwrap();
    assert_eq!(store.get(ChunkKind::Node, &[id]).await[0].as_ref().unwrap(), &right);
    assert_eq!(store.len(), 1);
}
