//! The table in the module's header, line by line and in every combination of two tiers.

use super::*;
use crate::{
    stores::{MemoryStore, Verify},
    testing::{BadEntry, Call, FaultStore, FixedClock, conformance},
    types::id_of,
};

const KIND: ChunkKind = ChunkKind::Data;

fn tier() -> Arc<FaultStore> {
    FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 0)
}

/// Two tiers behind a verifying layer each; the second takes the writes.
fn two() -> (Arc<FaultStore>, Arc<FaultStore>, Stack) {
    let (near, far) = (tier(), tier());
    let stack = Stack::builder()
        .tier("near", Arc::new(Verify::new(near.clone())))
        .tier("far", Arc::new(Verify::new(far.clone())))
        .write_to("far")
        .unwrap();
    (near, far, stack)
}

fn entry(number: u8) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(vec![number; 4096]);
    (id_of(KIND, &bytes), bytes)
}

#[tokio::test]
async fn conforms() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || two().2).await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Has {
    Yes,
    No,
    Bad(BadEntry),
}

const STATES: [Has; 5] = [
    Has::Yes,
    Has::No,
    Has::Bad(BadEntry::Corrupt),
    Has::Bad(BadEntry::Failing(ErrorKind::Unavailable)),
    Has::Bad(BadEntry::Failing(ErrorKind::PermissionDenied)),
];

async fn set(tier: &FaultStore, (id, bytes): (ChunkId, Bytes), state: Has) {
    if state != Has::No {
        tier.put(KIND, vec![(id, bytes)]).await.unwrap();
    }
    if let Has::Bad(bad) = state {
        tier.break_entry(KIND, id, bad);
    }
}

/// What two tiers together answer, spelled out.
fn expected(near: Has, far: Has) -> Option<ErrorKind> {
    let has = |state| near == state || far == state;
    let failing = |kind| Has::Bad(BadEntry::Failing(kind));
    if has(Has::Yes) {
        None
    } else if has(failing(ErrorKind::Unavailable)) {
        Some(ErrorKind::Unavailable)
    } else if has(failing(ErrorKind::PermissionDenied)) {
        Some(ErrorKind::PermissionDenied)
    } else if has(Has::Bad(BadEntry::Corrupt)) {
        Some(ErrorKind::Corrupt)
    } else {
        Some(ErrorKind::NotFound)
    }
}

#[tokio::test]
async fn every_pair_of_answers_in_one_batch() {
    let (near, far, stack) = two();
    let pairs: Vec<_> =
        STATES.into_iter().flat_map(|near| STATES.into_iter().map(move |far| (near, far))).collect();
    let entries: Vec<_> = (0..).map(entry).take(pairs.len()).collect();
    for (entry, (in_near, in_far)) in entries.iter().zip(&pairs) {
        set(&near, entry.clone(), *in_near).await;
        set(&far, entry.clone(), *in_far).await;
    }
    let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
    let got = stack.get(KIND, &ids).await;
    let encoded = stack.get_encoded(KIND, &ids).await;
    for (number, pair @ (in_near, in_far)) in pairs.into_iter().enumerate() {
        let (id, bytes) = &entries[number];
        let should = expected(in_near, in_far).map_or(Ok(bytes), Err);
        let names_it = |e: &Error| assert!(e.to_string().contains(&id.to_string()), "{e}");
        assert_eq!(
            got[number].as_ref().inspect_err(|e| names_it(e)).map_err(Error::kind),
            should,
            "{pair:?}"
        );
        let decoded = encoded[number].clone().map(|entry| entry.decode().unwrap());
        assert_eq!(decoded.as_ref().map_err(Error::kind), should, "encoded, {pair:?}");
        let range = stack.get_range(KIND, id, 5, 10).await;
        let part = bytes.slice(5..15);
        assert_eq!(range.as_ref().map_err(Error::kind), should.map(|_| &part), "a range, {pair:?}");
        if in_near == Has::Yes {
            let outside = stack.get_range(KIND, id, 4096, 1).await.unwrap_err();
            assert_eq!(outside.kind(), ErrorKind::Invalid, "{pair:?}");
        }
    }
}

#[tokio::test]
async fn later_tiers_are_asked_only_for_what_is_missing() {
    let (near, far, stack) = two();
    near.put(KIND, vec![entry(1), entry(3)]).await.unwrap();
    far.put(KIND, vec![entry(2)]).await.unwrap();
    let got = stack.get(KIND, &[entry(1).0, entry(2).0, entry(3).0]).await;
    assert!(got.iter().all(Result::is_ok));
    assert_eq!((near.calls(Call::Get), far.calls(Call::Get)), (1, 1));
    stack.get(KIND, &[entry(1).0]).await;
    assert_eq!((near.calls(Call::Get), far.calls(Call::Get)), (2, 1));
}

#[tokio::test]
async fn an_unavailable_tier_is_no_absence() {
    let (near, far, stack) = two();
    far.put(KIND, vec![entry(1)]).await.unwrap();
    near.outage(Some(ErrorKind::Unavailable));
    let got = stack.get(KIND, &[entry(1).0, entry(2).0]).await;
    assert_eq!(got[0].as_ref().unwrap(), &entry(1).1);
    let error = got[1].as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("'near'"), "names the store that failed: {error}");
}

#[tokio::test]
async fn an_absent_entry_names_all_stores_that_were_asked() {
    let error = two().2.get(KIND, &[entry(1).0]).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().ends_with("near, far"), "{error}");
}

#[tokio::test]
async fn writes_and_presence_concern_the_target_alone() {
    let (near, far, stack) = two();
    near.put(KIND, vec![entry(1)]).await.unwrap();
    assert_eq!(stack.contains(KIND, &[entry(1).0]).await.unwrap(), [false], "only the cache has it");
    stack.put(KIND, vec![entry(1), entry(2)]).await.unwrap();
    stack.sync().await.unwrap();
    assert_eq!(far.contains(KIND, &[entry(1).0, entry(2).0]).await.unwrap(), [true, true]);
    assert_eq!(near.contains(KIND, &[entry(2).0]).await.unwrap(), [false]);
    assert_eq!((near.calls(Call::Sync), far.calls(Call::Sync)), (0, 1));
    far.outage(Some(ErrorKind::Unavailable));
    assert_eq!(stack.contains(KIND, &[entry(1).0]).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn the_target_is_one_tier() {
    let one = || Stack::builder().tier("a", tier());
    assert!(one().write_to("a").is_ok());
    for bad in [one().write_to("b"), one().tier("a", tier()).write_to("a"), Stack::builder().write_to("")] {
        assert_eq!(bad.unwrap_err().kind(), ErrorKind::Invalid);
    }
}
