//! Boot traces go along.

use super::*;
use crate::{
    BlockRange, ErrorKind,
    format::boot_trace::BootTrace,
    ops::{load_boot_trace, publish_boot_trace},
    testing::Fault,
};

fn trace(first: u64) -> BootTrace {
    BootTrace::new(vec![BlockRange::new(first, first + 3), BlockRange::new(0, 2)]).unwrap()
}

async fn record(store: &Store) -> Result<Option<BootTrace>> {
    let found = store.index.read_image(&name("vm")).await.unwrap().unwrap();
    load_boot_trace(store, &found.value).await
}

#[tokio::test]
async fn a_trace_goes_along_both_ways_where_there_is_none() {
    let (here, there, third) = (memory(), memory(), memory());
    let mut content = disk(3, 1);
    add(&here, "vm", &content).await;
    run(&here, &there, "vm", "vm").await.unwrap();
    assert_eq!(record(&there).await.unwrap(), None);
    // Recorded over there, it comes back with the next checkpoint, and goes on to another store with a first one.
    publish_boot_trace(&there, &clock(), &name("vm"), &trace(9)).await.unwrap();
    content[0] ^= 1;
    add(&there, "vm", &content).await;
    run(&there, &here, "vm", "vm").await.unwrap();
    assert_eq!(record(&here).await.unwrap(), Some(trace(9)));
    run(&here, &third, "vm", "vm").await.unwrap();
    assert_eq!(record(&third).await.unwrap(), Some(trace(9)));
    // What the target has stays, even if another was recorded at the source.
    publish_boot_trace(&here, &clock(), &name("vm"), &trace(30)).await.unwrap();
    content[1] ^= 1;
    add(&here, "vm", &content).await;
    run(&here, &third, "vm", "vm").await.unwrap();
    assert_eq!(record(&third).await.unwrap(), Some(trace(9)));
    assert_whole(&third).await;
}

#[tokio::test]
async fn a_trace_that_can_not_travel_holds_nothing_up() {
    let here = memory();
    add(&here, "vm", &disk(2, 1)).await;
    publish_boot_trace(&here, &clock(), &name("vm"), &trace(9)).await.unwrap();
    for (at_source, call, fault) in [
        (true, Call::GetMap, Fault::Before(ErrorKind::NotFound)),
        (true, Call::GetMap, Fault::Corrupt),
        (false, Call::PutMap, Fault::Before(ErrorKind::PermissionDenied)),
    ] {
        let (source, target) = (FaultStore::new(here.clone(), 1), FaultStore::new(memory(), 1));
        if at_source { &source } else { &target }.script(call, 0, fault);
        run(&source.store(), &target.store(), "vm", "vm").await.unwrap();
        assert_eq!(record(&target.store()).await.unwrap(), None);
    }
    // One request more to the target, for what is a hint.
    let target = FaultStore::new(memory(), 1);
    run(&here, &target.store(), "vm", "vm").await.unwrap();
    // Stores in memory have no image maps.
    assert_eq!((target.calls(Call::PutMap), record(&target.store()).await.unwrap()), (1, Some(trace(9))));
}
