use super::*;
use crate::{
    BlockRange,
    format::image_map,
    ops::{
        ImportOptions, Job, import,
        tests::{Disk, clock, memory, name, noise},
    },
    testing::{Call, Fault, FaultStore},
};

fn trace(first: u64) -> BootTrace {
    BootTrace::new(vec![BlockRange::new(first, first + 3), BlockRange::new(0, 2)]).unwrap()
}

async fn store() -> std::sync::Arc<FaultStore> {
    let store = memory();
    import(
        &store,
        &clock(),
        &name("vm"),
        Disk::new(noise(100_000, 1)),
        ImportOptions::default(),
        &Job::default(),
    )
    .await
    .unwrap();
    FaultStore::new(store, 1)
}

async fn record(store: &Store) -> ImageRecord {
    store.index.read_image(&name("vm")).await.unwrap().unwrap().value
}

#[tokio::test]
async fn a_trace_is_named_by_the_record_and_nothing_else_changes() {
    let store = store().await.store();
    let before = record(&store).await;
    assert_eq!(load_boot_trace(&store, &before).await.unwrap(), None);
    let id = publish_boot_trace(&store, &clock(), &name("vm"), &trace(9)).await.unwrap();
    let after = record(&store).await;
    assert_ne!(after.write_id, before.write_id);
    assert_eq!(ImageRecord { boot_trace: None, write_id: before.write_id, ..after.clone() }, before);
    assert_eq!(load_boot_trace(&store, &after).await.unwrap(), Some(trace(9)));
    assert!(store.index.read_catalog().await.unwrap().value.replaced.is_empty());
    // Another takes its place, and is one a collection may take.
    publish_boot_trace(&store, &clock(), &name("vm"), &trace(20)).await.unwrap();
    assert_eq!(load_boot_trace(&store, &record(&store).await).await.unwrap(), Some(trace(20)));
    let replaced = store.index.read_catalog().await.unwrap().value.replaced;
    assert_eq!(replaced, [Replaced::Map(id, clock().now())]);
    // An image that gets a checkpoint keeps it.
    let disk = Disk::new(noise(50_000, 2));
    import(&store, &clock(), &name("vm"), disk, ImportOptions::default(), &Job::default()).await.unwrap();
    assert_eq!(record(&store).await.history.len(), 2);
    assert_eq!(load_boot_trace(&store, &record(&store).await).await.unwrap(), Some(trace(20)));
}

#[tokio::test]
async fn a_lost_race_is_run_again() {
    let faults = store().await;
    let store = faults.store();
    faults.script(Call::WriteImage, 0, Fault::Before(ErrorKind::Conflict));
    publish_boot_trace(&store, &clock(), &name("vm"), &trace(9)).await.unwrap();
    assert_eq!(load_boot_trace(&store, &record(&store).await).await.unwrap(), Some(trace(9)));
    faults.outage(Some(ErrorKind::Unavailable));
    let refused = publish_boot_trace(&store, &clock(), &name("vm"), &trace(30)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    faults.heal();
    assert_eq!(load_boot_trace(&store, &record(&store).await).await.unwrap(), Some(trace(9)));
}

#[tokio::test]
async fn what_is_no_trace_is_refused() {
    let faults = store().await;
    let store = faults.store();
    let missing = publish_boot_trace(&store, &clock(), &name("other"), &trace(9)).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    publish_boot_trace(&store, &clock(), &name("vm"), &trace(9)).await.unwrap();
    let record = record(&store).await;
    for (fault, kind) in [
        (Fault::Corrupt, ErrorKind::Corrupt),
        (Fault::Cut, ErrorKind::Corrupt),
        (Fault::Missing, ErrorKind::NotFound),
    ] {
        faults.script(Call::GetMap, 0, fault);
        let refused = load_boot_trace(&store, &record).await.unwrap_err();
        assert_eq!(refused.kind(), kind);
        assert!(refused.report().contains("image 'vm'"), "{}", refused.report());
    }
    // An image map is none.
    let id = MapId::from_bytes([5; 16]);
    store.index.put_map(id, image_map::encode(id, &[], &[]).unwrap().into()).await.unwrap();
    let wrong = ImageRecord { boot_trace: Some(id), ..record };
    assert_eq!(load_boot_trace(&store, &wrong).await.unwrap_err().kind(), ErrorKind::Corrupt);
}
