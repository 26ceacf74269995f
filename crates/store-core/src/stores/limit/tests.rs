//! Never more calls inside than the limit, and a dropped call frees its place.

use std::sync::Arc;

use futures::poll;

use super::*;
use crate::{
    ErrorKind,
    stores::MemoryStore,
    testing::{Call, Fault, FaultStore, FixedClock, Gate, conformance},
};

const KIND: ChunkKind = ChunkKind::Data;

fn limited(calls: usize) -> (Arc<FaultStore>, Limited<Arc<FaultStore>>) {
    let store = FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), 0);
    (store.clone(), Limited::new(store, calls).unwrap())
}

#[tokio::test]
async fn conforms() {
    for calls in [1, 3] {
        conformance::chunk_store(conformance::Capabilities::FULL, async || limited(calls).1).await;
    }
}

#[tokio::test]
async fn only_so_many_calls_are_inside() {
    let (store, limited) = limited(2);
    let gates = [(); 3].map(|()| Arc::new(Gate::new()));
    for (skip, gate) in (0..).zip(&gates) {
        store.script(Call::Sync, skip, Fault::Hold(gate.clone()));
    }
    let mut calls: Vec<_> = (0..3).map(|_| limited.sync()).collect();
    for call in &mut calls {
        assert!(poll!(call).is_pending());
    }
    assert_eq!(store.calls(Call::Sync), 2, "the third waits outside");
    let mut get = limited.get(KIND, &[]);
    assert!(poll!(&mut get).is_pending(), "the limit is over all methods");
    drop(calls.remove(0));
    assert!(poll!(&mut calls[1]).is_pending());
    assert_eq!(store.calls(Call::Sync), 3, "a dropped call freed its place for the next in line");
    assert_eq!(store.calls(Call::Get), 0);
    for gate in &gates {
        gate.open();
    }
    for call in calls {
        call.await.unwrap();
    }
    assert!(get.await.is_empty());
}

#[test]
fn a_limit_of_none_is_refused() {
    let (store, _) = limited(1);
    assert_eq!(Limited::new(store.clone(), 0).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(Limited::new(store, usize::MAX).unwrap_err().kind(), ErrorKind::Invalid);
}
