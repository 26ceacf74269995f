//! What is counted, method by method.

use std::sync::Arc;

use super::*;
use crate::{
    stores::MemoryStore,
    testing::{BadEntry, Call, Fault, FaultStore, FixedClock, conformance},
    types::id_of,
};

const KIND: ChunkKind = ChunkKind::Data;

fn metered() -> (Arc<FaultStore>, Metered<Arc<FaultStore>>) {
    let store = FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 0);
    (store.clone(), Metered::new(store))
}

fn counts(calls: u64, entries: u64, bytes: u64, missing: u64, errors: u64) -> MethodMetrics {
    MethodMetrics { calls, entries, bytes, missing, errors }
}

#[tokio::test]
async fn conforms() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || metered().1).await;
}

#[tokio::test]
async fn each_method_counts_what_it_was_asked_and_answered() {
    let (faults, store) = metered();
    assert_eq!(store.metrics(), Metrics::default());
    let [a, b, c] = [1, 2, 3].map(|number| {
        let bytes = Bytes::from(vec![number; 4096]);
        (id_of(KIND, &bytes), bytes)
    });
    let absent = ChunkId::from_bytes([9; 32]);
    store.put(KIND, vec![a.clone(), b.clone()]).await.unwrap();
    store.put_encoded(KIND, vec![(c.0, Encoded::raw(c.1.clone()))]).await.unwrap();
    faults.break_entry(KIND, c.0, BadEntry::Failing(ErrorKind::Unavailable));
    store.get(KIND, &[a.0, absent, c.0]).await;
    store.get_encoded(KIND, &[a.0, absent, c.0]).await;
    store.contains(KIND, &[a.0, absent]).await.unwrap();
    store.get_range(KIND, &b.0, 0, 100).await.unwrap();
    store.get_range(KIND, &b.0, 0, 5000).await.unwrap_err();
    store.locate(KIND, &[a.0, b.0]).await.unwrap();
    assert_eq!(store.try_get(KIND, &a.0), None);
    store.sync().await.unwrap();
    for call in [Call::Put, Call::Sync, Call::Contains] {
        faults.script(call, 0, Fault::Before(ErrorKind::NoSpace));
    }
    store.put(KIND, vec![a.clone()]).await.unwrap_err();
    store.sync().await.unwrap_err();
    store.contains(KIND, &[a.0]).await.unwrap_err();
    let expected = Metrics {
        get: counts(1, 3, 4096, 1, 1),
        put: counts(2, 3, 3 * 4096, 0, 1),
        contains: counts(2, 3, 0, 1, 1),
        sync: counts(2, 0, 0, 0, 1),
        try_get: counts(1, 1, 0, 1, 0),
        get_range: counts(2, 2, 100, 0, 1),
        get_encoded: counts(1, 3, 4096, 1, 1),
        put_encoded: counts(1, 1, 4096, 0, 0),
        locate: counts(1, 2, 0, 2, 0),
    };
    assert_eq!(store.metrics(), expected);
}
