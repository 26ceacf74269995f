//! All layers in the order that the module's header gives.

use std::sync::Arc;

use super::*;
use crate::{
    ChunkKind, ChunkStore, ErrorKind,
    testing::{BadEntry, Call, Fault, FaultStore, FixedClock, conformance},
    types::id_of,
};

/// Memory over a near and a far store; the far one takes the writes.
fn layered() -> (Arc<FaultStore>, Arc<FaultStore>, Cached) {
    let tier = || FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 0);
    let (near, far) = (tier(), tier());
    let guarded = |store: &Arc<FaultStore>| {
        let limited = Limited::new(Metered::new(store.clone()), 2).unwrap();
        Arc::new(Verify::new(limited))
    };
    let stack = Stack::builder().tier("near", guarded(&near)).tier("far", guarded(&far));
    let stack = Arc::new(stack.write_to("far").unwrap());
    (near, far, Cached::new(Arc::new(MemoryCache::new(1 << 20)), stack))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_layers_together_conform() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || layered().2).await;
}

#[tokio::test]
async fn a_bad_near_entry_is_read_from_afar_and_kept_right() {
    let (near, far, store) = layered();
    let kind = ChunkKind::Data;
    let bytes = bytes::Bytes::from(vec![5; 8192]);
    let id = id_of(kind, &bytes);
    for tier in [&near, &far] {
        tier.put(kind, vec![(id, bytes.clone())]).await.unwrap();
    }
    near.break_entry(kind, id, BadEntry::Corrupt);
    assert_eq!(store.get(kind, &[id]).await[0].as_ref().unwrap(), &bytes);
    near.outage(Some(ErrorKind::Unavailable));
    far.outage(Some(ErrorKind::Unavailable));
    assert_eq!(store.try_get(kind, &id), Some(bytes), "memory needs no store");
    let other = store.get(kind, &[ChunkId::from_bytes([1; 32])]).await;
    assert_eq!(other[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    far.outage(None);
    far.script(Call::Sync, 0, Fault::After(ErrorKind::Unavailable));
    assert_eq!(store.sync().await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_oversized_entry_of_a_broken_store_is_corrupt_in_encoded_form() {
    /// Answers more bytes than an entry can have.
    #[derive(Debug)]
    struct Oversized;

    #[async_trait::async_trait]
    impl ChunkStore for Oversized {
        async fn get(&self, _: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bytes::Bytes>> {
            vec![Ok(vec![0; crate::format::codec::MAX_RAW_LEN + 1].into()); ids.len()]
        }

        async fn put(&self, _: ChunkKind, _: Vec<(ChunkId, bytes::Bytes)>) -> Result<()> {
            Ok(())
        }

        async fn contains(&self, _: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
            Ok(vec![true; ids.len()])
        }

        async fn sync(&self) -> Result<crate::store::Synced> {
            Ok(crate::store::Synced::default())
        }
    }
    let got = Oversized.get_encoded(ChunkKind::Data, &[ChunkId::from_bytes([1; 32])]).await;
    assert_eq!(got[0].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
}
