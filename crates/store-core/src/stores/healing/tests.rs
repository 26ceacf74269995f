//! What is damaged near is read from afar, and whole near afterwards.

use super::*;
use crate::{
    stores::MemoryStore,
    testing::{BadEntry, FaultStore, FixedClock, conformance},
    types::id_of,
};

const KIND: ChunkKind = ChunkKind::Data;

fn tier() -> Arc<FaultStore> {
    FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 0)
}

fn two() -> (Arc<FaultStore>, Arc<FaultStore>, Healing) {
    let (near, far) = (tier(), tier());
    (near.clone(), far.clone(), Healing::new(near, far))
}

#[tokio::test]
async fn conforms() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || two().2).await;
}

#[tokio::test]
async fn damage_is_healed_and_nothing_else_is_asked_for() {
    let entry = |number: u8| {
        let bytes = Bytes::from(vec![number; 4096]);
        (id_of(KIND, &bytes), bytes)
    };
    let all: Vec<_> = (1..5).map(entry).collect();
    let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
    for encoded in [false, true] {
        let (near, far, store) = two();
        near.put(KIND, all[..3].to_vec()).await.unwrap();
        // The third is nowhere else, the fourth is not near.
        far.put(KIND, vec![all[0].clone(), all[1].clone(), all[3].clone()]).await.unwrap();
        for id in [ids[1], ids[2]] {
            near.break_entry(KIND, id, BadEntry::Corrupt);
        }
        let read = async |store: &dyn ChunkStore| -> Vec<Result<Bytes>> {
            match encoded {
                false => store.get(KIND, &ids).await,
                true => {
                    let found = store.get_encoded(KIND, &ids).await;
                    found.into_iter().map(|entry| entry.and_then(|entry| entry.decode())).collect()
                }
            }
        };
        let found = read(&store).await;
        for n in [0, 1] {
            assert_eq!(found[n].as_ref().unwrap(), &all[n].1);
        }
        assert_eq!(found[2].as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(found[3].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
        store.settle().await;

        far.outage(Some(ErrorKind::Unavailable));
        let found = read(&store).await;
        assert_eq!(found[1].as_ref().unwrap(), &all[1].1, "it is whole near by now");
        assert_eq!(found[2].as_ref().unwrap_err().kind(), ErrorKind::Corrupt, "the damage, not the outage");
    }
}
