//! Owners of images, pins, answers that were lost, and memories that are old.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::{
    IndexStore,
    format::descriptor::Descriptor,
    ops::tests::{clock, memory, name},
    testing::{Call, Fault, FaultStore, Gate},
};

fn entry(n: u8) -> HistoryEntry {
    HistoryEntry {
        checkpoint: CheckpointId::from_bytes([n; 32]),
        size: 4096,
        created: Timestamp(u64::from(n)),
    }
}

fn volume() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

async fn append(store: &Store, n: u8) -> Result<Published> {
    publish(store, &clock(), Publish::append(&name("vm"), entry(n))).await
}

async fn append_as(store: &Store, n: u8, epoch: u64, create: bool) -> Result<Published> {
    let vm = name("vm");
    let what = Publish { epoch: Some(epoch), create, ..Publish::append(&vm, entry(n)) };
    publish(store, &clock(), what).await
}

async fn append_for(store: &Store, n: u8, base: Option<u8>) -> Result<Published> {
    let base = base.map(|base| entry(base).checkpoint);
    let pin = Some(NewBase { volume: volume(), base });
    publish(store, &clock(), Publish { pin, ..Publish::append(&name("vm"), entry(n)) }).await
}

async fn history(store: &Store) -> Vec<u8> {
    let found = store.index.read_image(&name("vm")).await.unwrap();
    found.map_or_else(Vec::new, |found| {
        found.value.history.iter().map(|entry| entry.checkpoint.as_bytes()[0]).collect()
    })
}

async fn pins(store: &Store) -> Vec<u8> {
    let catalog = store.index.read_catalog().await.unwrap().value;
    catalog.encode().unwrap();
    catalog.pins.iter().map(|pin| pin.checkpoint.as_bytes()[0]).collect()
}

#[tokio::test]
async fn a_displaced_writer_is_told_and_changes_nothing() {
    let store = memory();
    assert_eq!(claim(&store, &name("vm")).await.unwrap_err().kind(), ErrorKind::NotFound);
    append_as(&store, 1, 1, true).await.unwrap();
    assert_eq!(append_as(&store, 2, 1, true).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    append_as(&store, 2, 1, false).await.unwrap();

    // From the claim on, before the new owner has published anything.
    let epoch = claim(&store, &name("vm")).await.unwrap();
    let displaced = append_as(&store, 3, 1, false).await.unwrap_err();
    assert_eq!(displaced.kind(), ErrorKind::Conflict);
    assert!(displaced.report().contains("displaced"), "{}", displaced.report());
    // Not even for what is the newest already.
    assert_eq!(append_as(&store, 2, 1, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(history(&store).await, [2, 1]);

    append_as(&store, 4, epoch, false).await.unwrap();
    append(&store, 5).await.unwrap();
    append_as(&store, 6, epoch, false).await.unwrap();
    assert_eq!(history(&store).await, [6, 5, 4, 2, 1]);
    assert!(store.index.read_catalog().await.unwrap().value.pending.is_empty());
}

/// An epoch is nobody else's, whatever becomes of the image in between. Row 38.
#[tokio::test]
async fn a_writer_of_an_image_that_was_made_anew_is_told() {
    let (store, vm) = (memory(), name("vm"));
    let old = new_epoch().unwrap();
    append_as(&store, 1, old, true).await.unwrap();
    let remove = async || {
        let found = store.index.read_image(&vm).await.unwrap().unwrap();
        store.index.remove_image(&vm, &found.version).await.unwrap();
    };
    for claims in 0..3 {
        remove().await;
        let mut new = new_epoch().unwrap();
        match claims {
            0 => drop(append_as(&store, 2, new, true).await.unwrap()),
            _ => drop(append(&store, 2).await.unwrap()),
        }
        for _ in 0..claims {
            new = claim(&store, &vm).await.unwrap();
        }
        assert_eq!(append_as(&store, 3, old, false).await.unwrap_err().kind(), ErrorKind::Conflict);
        append_as(&store, 4, new, false).await.unwrap();
        assert_eq!(history(&store).await, [4, 2]);
    }
    // Nobody has it: then it is his.
    remove().await;
    append_as(&store, 5, old, false).await.unwrap();
    append_as(&store, 6, old, false).await.unwrap();
    assert_eq!(history(&store).await, [6, 5]);
}

/// Its write is on the way when another takes over. Row 38.
#[tokio::test]
async fn a_zombie_that_wakes_up_cannot_publish() {
    for (call, after) in [(Call::Sync, false), (Call::WriteCatalog, true), (Call::WriteImage, false)] {
        let store = memory();
        append_as(&store, 1, 1, true).await.unwrap();
        let (faults, gate) = (FaultStore::new(store.clone(), 1), Arc::new(Gate::new()));
        let held = if after { Fault::HoldAfter(gate.clone()) } else { Fault::Hold(gate.clone()) };
        faults.script(call, 0, held);
        let old = faults.store();
        let (zombie, epoch) = futures::join!(append_as(&old, 2, 1, false), async {
            gate.arrived(1).await;
            let epoch = claim(&store, &name("vm")).await.unwrap();
            gate.open();
            epoch
        });
        assert_eq!(zombie.unwrap_err().kind(), ErrorKind::Conflict, "{call:?}");
        append_as(&store, 3, epoch, false).await.unwrap();
        assert_eq!(history(&store).await, [3, 1]);
    }
}

#[tokio::test]
async fn two_claims_are_two_epochs() {
    let store = memory();
    append(&store, 1).await.unwrap();
    let (vm, faults) = (name("vm"), FaultStore::new(store.clone(), 1));
    let gate = Arc::new(Gate::new());
    faults.script(Call::WriteImage, 0, Fault::Hold(gate.clone()));
    let slow = faults.store();
    let (late, first) = futures::join!(claim(&slow, &vm), async {
        gate.arrived(1).await;
        let first = claim(&store, &vm).await.unwrap();
        gate.open();
        first
    });
    let late = late.unwrap();
    assert_ne!(first, late);
    let found = store.index.read_image(&vm).await.unwrap().unwrap();
    assert_eq!(found.value.writer_epoch, late);
    // What was found before is not claimed any more.
    store.index.write_image(&found.value, Some(&found.version)).await.unwrap();
    assert_eq!(claim_as_found(&store, found).await.unwrap_err().kind(), ErrorKind::Conflict);
}

/// The record was written and the answer got lost: the write id says so.
#[tokio::test]
async fn a_lost_answer_is_read_back() {
    for create in [false, true] {
        let faults = FaultStore::new(memory(), 1);
        faults.script(Call::WriteImage, 0, Fault::After(ErrorKind::Unavailable));
        append_as(&faults.store(), 1, 1, create).await.unwrap();
        assert_eq!(history(&faults.store()).await, [1]);
        faults.script(Call::WriteImage, 0, Fault::After(ErrorKind::Unavailable));
        let epoch = claim(&faults.store(), &name("vm")).await.unwrap();
        faults.script(Call::WriteImage, 0, Fault::Before(ErrorKind::Unavailable));
        let lost = append_as(&faults.store(), 2, epoch, false).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Unavailable);
        assert_eq!(history(&faults.store()).await, [1]);
    }
}

#[tokio::test]
async fn only_on_top_of_what_is_expected() {
    let store = memory();
    append(&store, 1).await.unwrap();
    let onto = async |n: u8, after: u8| {
        let after = Some(entry(after).checkpoint);
        publish(&store, &clock(), Publish { after, ..Publish::append(&name("vm"), entry(n)) }).await
    };
    onto(2, 1).await.unwrap();
    assert_eq!(onto(3, 1).await.unwrap_err().kind(), ErrorKind::Conflict);
    onto(2, 1).await.unwrap();
    assert_eq!(history(&store).await, [2, 1]);
}

/// Whatever the volume's record names, at every moment, is pinned: its base and the one to come.
#[tokio::test]
async fn base_and_next_base_are_pinned() {
    let store = memory();
    let other = VolumeId::from_bytes([8; 16]);
    pin(&store, &clock(), other, entry(9).checkpoint).await.unwrap();
    append_for(&store, 1, None).await.unwrap();
    assert_eq!(pins(&store).await, [1, 9]);
    append_for(&store, 2, Some(1)).await.unwrap();
    assert_eq!(pins(&store).await, [1, 2, 9]);

    // A publish that fails behind its pin: one too many, until the next.
    let faults = FaultStore::new(store.clone(), 1);
    faults.script(Call::WriteImage, 0, Fault::Before(ErrorKind::Unavailable));
    append_for(&faults.store(), 3, Some(2)).await.unwrap_err();
    assert_eq!(pins(&store).await, [2, 3, 9]);
    append_for(&store, 4, Some(2)).await.unwrap();
    assert_eq!(pins(&store).await, [2, 4, 9]);
    unpin(&store, volume(), None).await.unwrap();
    assert_eq!(pins(&store).await, [9]);
}

/// A publish is two writes of the catalog, one of the record, and nothing is read twice.
#[tokio::test]
async fn a_publish_takes_few_requests() {
    let faults = FaultStore::new(memory(), 1);
    append_for(&faults.store(), 1, None).await.unwrap();
    let calls = [Call::Sync, Call::ReadCatalog, Call::WriteCatalog, Call::ReadImage, Call::WriteImage];
    let before = calls.map(|call| faults.calls(call));
    append_for(&faults.store(), 2, Some(1)).await.unwrap();
    let after = calls.map(|call| faults.calls(call));
    let each: Vec<_> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(each, [1, 2, 2, 1, 1]);
}

/// A store whose memory stopped at one moment.
#[derive(Debug)]
struct Stale {
    inner: Arc<dyn IndexStore>,
    image: Mutex<Option<Versioned<ImageRecord>>>,
    catalog: Mutex<Versioned<Catalog>>,
}

impl Stale {
    async fn of(store: &Store) -> Store {
        let inner = Arc::clone(&store.index);
        let image = Mutex::new(inner.read_image(&name("vm")).await.unwrap());
        let catalog = Mutex::new(inner.read_catalog().await.unwrap());
        Store { chunks: Arc::clone(&store.chunks), index: Arc::new(Self { inner, image, catalog }) }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl IndexStore for Stale {
    fn descriptor(&self) -> &Descriptor {
        self.inner.descriptor()
    }
    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        self.inner.read_image(name).await
    }
    async fn recall_image(&self, _: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        Ok(self.image.lock().clone())
    }
    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        self.inner.write_image(record, expected).await
    }
    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        self.inner.remove_image(name, expected).await
    }
    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        self.inner.list_images().await
    }
    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        self.inner.read_catalog().await
    }
    async fn recall_catalog(&self) -> Result<Versioned<Catalog>> {
        Ok(self.catalog.lock().clone())
    }
    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        self.inner.write_catalog(catalog, expected).await
    }
    async fn settle(&self) -> Result<()> {
        self.inner.settle().await
    }
    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.inner.put_map(id, map).await
    }
    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        self.inner.get_map(id).await
    }
    async fn map_len(&self, id: MapId) -> Result<u64> {
        self.inner.map_len(id).await
    }
}

#[tokio::test]
async fn an_old_memory_decides_nothing() {
    let store = memory();
    let nothing = Stale::of(&store).await;
    append_as(&store, 1, 1, true).await.unwrap();
    let first = Stale::of(&store).await;
    append_as(&store, 2, 1, false).await.unwrap();
    let epoch = claim(&store, &name("vm")).await.unwrap();

    // It says there is no image, that the newest is another, that the epoch is.
    assert_eq!(append_as(&nothing, 3, 1, true).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(append_as(&first, 3, 1, false).await.unwrap_err().kind(), ErrorKind::Conflict);
    append_as(&first, 3, epoch, false).await.unwrap();
    append(&first, 1).await.unwrap();
    assert_eq!(history(&store).await, [1, 3, 2, 1]);
    assert_ne!(claim(&nothing, &name("vm")).await.unwrap(), epoch);

    // It says there is an image.
    let found = store.index.read_image(&name("vm")).await.unwrap().unwrap();
    store.index.remove_image(&name("vm"), &found.version).await.unwrap();
    append_as(&first, 4, 1, true).await.unwrap();
    assert_eq!(history(&store).await, [4]);

    // It says that nothing was pinned, and that something is.
    pin(&nothing, &clock(), volume(), entry(1).checkpoint).await.unwrap();
    assert_eq!(pins(&store).await, [1]);
    let pinned = Stale::of(&store).await;
    unpin(&nothing, volume(), None).await.unwrap();
    assert!(pins(&store).await.is_empty());
    pin(&pinned, &clock(), volume(), entry(1).checkpoint).await.unwrap();
    assert_eq!(pins(&store).await, [1]);
    assert!(store.index.read_catalog().await.unwrap().value.pending.is_empty());
}

/// A new image that goes on from another has its maps; one that is there has its own.
#[tokio::test]
async fn a_new_image_has_the_maps_of_what_it_goes_on_from() {
    let store = memory();
    append(&store, 1).await.unwrap();
    let vm = name("vm");
    let found = store.index.read_image(&vm).await.unwrap().unwrap();
    let maps = vec![MapId::from_bytes([1; 16]), MapId::from_bytes([2; 16])];
    let record = ImageRecord { maps: maps.clone(), ..found.value };
    store.index.write_image(&record, Some(&found.version)).await.unwrap();

    let (next, gone) = (name("next"), name("gone"));
    for (image, from, expected) in [(&next, &vm, &maps), (&vm, &next, &maps), (&gone, &name("none"), &vec![])]
    {
        let what = Publish { maps_of: Some(from), ..Publish::append(image, entry(2)) };
        let published = publish(&store, &clock(), what).await.unwrap();
        assert_eq!(&published.record.maps, expected, "{image}");
    }
    let what = Publish { maps_of: Some(&next), ..Publish::append(&gone, entry(3)) };
    assert!(publish(&store, &clock(), what).await.unwrap().record.maps.is_empty());
}

/// A publish that died behind its record leaves a root, which the next one takes away; one that died before its record
/// leaves its own, since it may be on the way still.
#[tokio::test]
async fn roots_that_were_left_behind_go_once_the_record_has_them() {
    let store = memory();
    let faults = FaultStore::new(store.clone(), 1);
    let pending = async || {
        let catalog = store.index.read_catalog().await.unwrap().value;
        catalog.pending.iter().map(|root| root.checkpoint.as_bytes()[0]).collect::<Vec<_>>()
    };
    faults.script(Call::WriteCatalog, 1, Fault::Before(ErrorKind::Unavailable));
    append(&faults.store(), 1).await.unwrap();
    faults.script(Call::WriteImage, 0, Fault::Before(ErrorKind::Unavailable));
    append(&faults.store(), 2).await.unwrap_err();
    assert_eq!(pending().await, [1, 2]);
    append(&store, 3).await.unwrap();
    assert_eq!(pending().await, [2]);
    append(&store, 2).await.unwrap();
    assert!(pending().await.is_empty());
}

/// Two publish one checkpoint to one image; the one that is refused leaves the other's root alone.
#[tokio::test]
async fn a_publish_that_fails_takes_no_root_of_another() {
    let store = memory();
    let faults = FaultStore::new(store.clone(), 1);
    append(&store, 1).await.unwrap();
    faults.script(Call::WriteImage, 0, Fault::Before(ErrorKind::Unavailable));
    append(&faults.store(), 2).await.unwrap_err();
    let vm = name("vm");
    let what = Publish { create: true, ..Publish::append(&vm, entry(2)) };
    assert_eq!(publish(&store, &clock(), what).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let roots = store.index.read_catalog().await.unwrap().value.pending;
    assert_eq!(roots.iter().map(|root| root.checkpoint).collect::<Vec<_>>(), [entry(2).checkpoint]);
}

/// Images that went on from one another name the same objects, and each replaces them: the catalog takes that.
#[tokio::test]
async fn what_two_images_replace_is_listed_once() {
    let store = memory();
    let boot_trace = Some(MapId::from_bytes([9; 16]));
    for (image, first) in [("vm", 1), ("fork", 3)] {
        for n in [first, first + 1] {
            let image = name(image);
            let what = Publish { boot_trace, ..Publish::append(&image, entry(n)) };
            publish(&store, &clock(), what).await.unwrap();
        }
    }
    let catalog = store.index.read_catalog().await.unwrap().value;
    assert_eq!((catalog.pending.len(), catalog.replaced.len()), (0, 1));
}

/// A server that replicates for long goes on when its image's history is full.
#[tokio::test]
async fn the_oldest_leaves_a_full_history() {
    let store = memory();
    append(&store, 1).await.unwrap();
    let found = store.index.read_image(&name("vm")).await.unwrap().unwrap();
    let mut record = found.value;
    let number = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        HistoryEntry { checkpoint: CheckpointId::from_bytes(id), ..entry(1) }
    };
    record.history = (0..ImageRecord::MAX_HISTORY).map(number).collect();
    store.index.write_image(&record, Some(&found.version)).await.unwrap();
    append(&store, 7).await.unwrap();
    let after = store.index.read_image(&name("vm")).await.unwrap().unwrap().value.history;
    assert_eq!(after.len(), ImageRecord::MAX_HISTORY);
    assert_eq!((after[0], after[1]), (entry(7), record.history[0]));
    assert_eq!(after.last(), record.history.get(ImageRecord::MAX_HISTORY - 2));
}
