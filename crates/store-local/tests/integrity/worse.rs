//! What a repair, or whoever makes a store, must not make worse.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    CheckpointId, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, IndexStore as _,
    clock::Timestamp,
    format::{
        catalog::Pin,
        node::{Extent, Node},
        rows::EntryKey,
    },
    ops::{CheckOptions, Depth, Job, heal, pin},
    stores::Deferred,
    testing::{FixedClock, Rng},
    types::{VolumeId, id_of},
};
use gabion_store_local::{
    fs::{CrashFs, FaultFs, Fs, FsFault, FsOp, MemFs, On, exists, remove_tree},
    store::{LocalStore, RepairOptions, RepairReport},
};

use crate::rig::*;

const KIND: ChunkKind = ChunkKind::Data;
const VOLUME_ID: VolumeId = VolumeId::from_bytes([3; 16]);

fn repair_with(fs: &Arc<dyn Fs>, pins: Vec<Pin>) -> RepairReport {
    let options = RepairOptions { dry_run: false, pins, clock: Arc::new(FixedClock::new(Timestamp(77))) };
    LocalStore::repair(fs, Path::new(STORE), &options, &Job::default()).unwrap()
}

fn shared(fs: &MemFs) -> Arc<dyn Fs> {
    Arc::new(fs.clone())
}

fn repair(fs: &MemFs) -> RepairReport {
    repair_with(&shared(fs), Vec::new())
}

/// Changes every file of the store with `part` in its path.
fn change(fs: &MemFs, part: &str, change: impl Fn(&mut Vec<u8>)) {
    let mut any = false;
    for (path, mut bytes) in files(fs, Path::new(STORE)) {
        if path.contains(part) {
            any = true;
            change(&mut bytes);
            put(fs, &path, &bytes);
        }
    }
    assert!(any, "there is no {part}");
}

fn entries(count: usize, seed: u64) -> Vec<(ChunkId, Bytes)> {
    let mut rng = Rng::new(seed);
    let bytes = (0..count).map(|_| Bytes::from(rng.bytes(3000)));
    bytes.map(|bytes| (id_of(KIND, &bytes), bytes)).collect()
}

async fn newest(fs: &MemFs, image: &str) -> CheckpointId {
    let record = open(fs, STORE).unwrap().read_image(&name(image)).await.unwrap().unwrap();
    record.value.history[0].checkpoint
}

/// A store that lost its descriptor is not a place for a new one, whose empty catalog would hide all it holds.
#[tokio::test]
async fn a_store_is_not_made_over_what_is_left_of_one() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let checkpoint = newest(&fs, "one").await;
    let only_pins = |fs: &MemFs| {
        for (path, _) in files(fs, &Path::new(STORE).join("images")) {
            fs.remove_file(Path::new(&path)).unwrap();
        }
    };
    for no_images in [false, true] {
        if no_images {
            let store = open(&fs, STORE).unwrap().into_store();
            pin(&store, &FixedClock::default(), VOLUME_ID, checkpoint).await.unwrap();
            drop(store);
            only_pins(&fs);
        }
        fs.remove_file(&Path::new(STORE).join("gabion.json")).unwrap();
        let before = files(&fs, Path::new(STORE));
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let refused = LocalStore::init(shared, Path::new(STORE), &FixedClock::default()).unwrap_err();
        let not_opened = open(&fs, STORE).unwrap_err();
        for e in [refused, not_opened] {
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
            assert!(
                e.report().contains("gabion.json is missing") && e.report().contains("'repair'"),
                "{e:?}"
            );
        }
        assert!(files(&fs, Path::new(STORE)) == before, "something was changed");
        repair(&fs);
        if no_images {
            let pins = open(&fs, STORE).unwrap().read_catalog().await.unwrap().value.pins;
            assert_eq!(pins.len(), 1);
        } else {
            assert_whole(&fs, "repaired").await;
        }
    }
}

/// A pack that is being written looks like one that a crash left behind.
#[tokio::test]
async fn what_is_being_stored_during_a_repair_is_kept() {
    for damaged in ["/locators/", "/packs/"] {
        let fs = MemFs::new();
        make_store(&fs, STORE).await;
        let writer = open(&fs, STORE).unwrap();
        let wanted = entries(20, 5);
        let ids: Vec<_> = wanted.iter().map(|(id, _)| *id).collect();
        writer.put(KIND, wanted[..10].to_vec()).await.unwrap();
        change(&fs, "/locators/", |bytes| bytes[5000] ^= 1);
        if damaged == "/packs/" {
            // Of those that are sealed.
            change(&fs, "/packs/", |bytes| {
                if bytes[bytes.len() - 44..].starts_with(b"GABITAIL") {
                    bytes.truncate(bytes.len() - 3);
                }
            });
        }
        assert!(!repair(&fs).done.is_empty());
        assert_whole(&fs, damaged).await;
        // Once more: it is named by what the first one wrote on its way.
        repair(&fs);
        writer.put(KIND, wanted[10..].to_vec()).await.unwrap();
        writer.sync().await.unwrap();
        drop(writer);
        let store = open(&fs, STORE).unwrap();
        for (found, (id, bytes)) in store.get(KIND, &ids).await.into_iter().zip(&wanted) {
            let found = found.unwrap_or_else(|e| panic!("{damaged}: {id} was stored and is lost: {e:?}"));
            assert!(found == *bytes);
        }
        drop(store);
        assert_whole(&fs, damaged).await;
    }
}

/// What a process that was killed had sealed and not synced is durable once a repair has named it.
#[tokio::test]
async fn what_a_repair_names_is_durable() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let crash = CrashFs::new(Arc::new(fs), Path::new("/"), 4).unwrap();
    let faults = FaultFs::new(Arc::new(crash.clone()));
    let killed = LocalStore::open(Arc::new(faults.clone()), Path::new(STORE)).unwrap();
    killed.put(KIND, entries(20, 6)).await.unwrap();
    faults.fail(On::op(FsOp::Sync).path("/packs/").always(), FsFault::EIO);
    faults.fail(On::op(FsOp::Remove).always(), FsFault::EIO);
    killed.sync().await.unwrap_err();
    drop(killed);
    crash.remove_file(&Path::new(STORE).join("catalog")).unwrap();
    crash.sync_dir(Path::new(STORE)).unwrap();
    let shared: Arc<dyn Fs> = Arc::new(crash.clone());
    let ids: Vec<_> = entries(20, 6).into_iter().map(|(id, _)| id).collect();
    repair_with(&shared, Vec::new());
    let named = LocalStore::open(shared, Path::new(STORE)).unwrap().contains(KIND, &ids).await.unwrap();
    assert!(named.iter().all(|named| *named), "nothing is at stake");
    for image in crash.crash().images(4, 64) {
        let what = image.to_string();
        let store = open(image.fs(), STORE).unwrap();
        let options = CheckOptions { depth: Depth::Checksums, ..CheckOptions::default() };
        let found = store.check_files(&options, &[].into(), &Job::default()).unwrap();
        assert!(found.damage.is_empty(), "{what}: {:?}", found.damage);
    }
}

/// A catalog that was restored from a copy tells nothing of what came after it.
#[tokio::test]
async fn an_old_catalog_is_made_good() {
    let fs = MemFs::new();
    LocalStore::init(Arc::new(fs.clone()), Path::new(STORE), &FixedClock::default()).unwrap();
    let catalog = Path::new(STORE).join("catalog").to_str().unwrap().to_owned();
    let old = files(&fs, Path::new(STORE)).into_iter().find(|(path, _)| *path == catalog).unwrap().1;
    fs.remove_file(&Path::new(STORE).join("gabion.json")).unwrap();
    make_store(&fs, STORE).await;
    put(&fs, &catalog, &old);
    let pin = Pin { owner: VOLUME_ID, checkpoint: newest(&fs, "one").await, since: Timestamp(3) };
    let done = repair_with(&shared(&fs), vec![pin.clone()]);
    assert!(!done.done.is_empty() && done.lost.is_empty(), "{done:?}");
    assert_whole(&fs, "repaired").await;
    assert_eq!(open(&fs, STORE).unwrap().read_catalog().await.unwrap().value.pins, [pin]);
    assert!(repair(&fs).done.is_empty());
}

/// A checkpoint that is lost is no reason to take up what was left behind by a crash, again and again.
#[tokio::test]
async fn what_nothing_leads_to_stays_where_it_is() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let writer = open(&fs, STORE).unwrap();
    writer.put(KIND, entries(10, 8)).await.unwrap();
    let lost = Pin { owner: VOLUME_ID, checkpoint: CheckpointId::from_bytes([9; 32]), since: Timestamp(3) };
    let before = files(&fs, Path::new(STORE));
    // Nobody holds its lock any more, as after a kill.
    drop(writer);
    let done = repair_with(&shared(&fs), vec![lost]);
    assert!(done.done.is_empty(), "{done:?}");
    assert!(files(&fs, Path::new(STORE)) == before);
}

/// An image whose record is damaged, too, keeps what is whole of it where a chunk of it is lost.
#[tokio::test]
async fn a_damaged_record_keeps_its_index() {
    // The write id, which the rest can be told without; and the name, without which nothing can.
    for at in [40, 63] {
        let fs = MemFs::new();
        make_store(&fs, STORE).await;
        let roots = [newest(&fs, "one").await, newest(&fs, "two").await];
        fs.remove_file(&Path::new(STORE).join("catalog")).unwrap();
        change(&fs, "/images/", |bytes| bytes[at] ^= 1);
        // The first entry of each pack.
        change(&fs, "/packs/", |bytes| bytes[54 + 48 + 3] ^= 1);
        repair(&fs);
        let store = open(&fs, STORE).unwrap();
        for root in roots {
            let held = store.contains(ChunkKind::Checkpoint, &[root.as_chunk()]).await.unwrap();
            assert_eq!(held, [true], "the checkpoint is gone with a chunk of it");
        }
        let damage = check_all(&store, Depth::Hashes).await.unwrap();
        let lost = damage.iter().filter_map(|damage| damage.entry);
        let above: Vec<EntryKey> = lost.filter(|key| key.kind != KIND).collect();
        assert!(above.is_empty(), "{above:?}");
    }
}

/// A node that lacks something counts as absent, also where the pack it is in has to be stored again.
#[tokio::test]
async fn a_node_that_lacks_something_is_no_obstacle() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let extent = Extent { first: 0, blocks: 1, chunk: ChunkId::from_bytes([5; 32]), chunk_first: 0 };
    let bytes = Node::Leaf(vec![extent]).encode();
    let id = id_of(ChunkKind::Node, &bytes);
    let store = open(&fs, STORE).unwrap();
    store.put(ChunkKind::Node, vec![(id, bytes.into())]).await.unwrap();
    store.put(KIND, entries(3, 9)).await.unwrap();
    store.sync().await.unwrap();
    drop(store);
    fs.remove_file(&Path::new(STORE).join("catalog")).unwrap();
    change(&fs, "/packs/", |bytes| bytes.truncate(bytes.len() - 3));
    repair(&fs);
    assert_whole(&fs, "repaired").await;
    let store = open(&fs, STORE).unwrap();
    assert_eq!(store.contains(ChunkKind::Node, &[id]).await.unwrap(), [false]);
    let kept: Vec<_> = entries(3, 9).into_iter().map(|(id, _)| id).collect();
    assert_eq!(store.contains(KIND, &kept).await.unwrap(), [true; 3]);
}

/// A disk that became read-only, as file systems do after an error, is read all the same.
#[tokio::test]
async fn a_store_that_can_only_be_read_is_read() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let faults = FaultFs::new(Arc::new(fs));
    for on in [On::change(), On::op(FsOp::Lock)] {
        faults.fail(on.always(), FsFault::EIO);
    }
    let shared: Arc<dyn Fs> = Arc::new(faults);
    // As the host does with its own store.
    let made = LocalStore::init(shared.clone(), Path::new(STORE), &FixedClock::default());
    assert_eq!(made.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let local = LocalStore::open(shared, Path::new(STORE)).unwrap();
    assert!(check_all(&local, Depth::Hashes).await.unwrap().is_empty());
    let store = local.into_store();
    for (image, disk) in images() {
        assert!(content(&store, &image).await.unwrap() == disk, "image '{image}'");
    }
}

/// A folder that is away, as one on a disk that is not mounted, is not an empty one.
#[tokio::test]
async fn a_folder_that_is_away_is_damage() {
    for folder in ["packs", "images", "locators", "maps"] {
        let fs = MemFs::new();
        make_store(&fs, STORE).await;
        let folder = Path::new(STORE).join(folder);
        remove_tree(&fs, &folder).unwrap();
        let found = check_all(&open(&fs, STORE).unwrap(), Depth::Structure).await.unwrap();
        let said = format!("{} is missing", folder.display());
        assert!(found.iter().any(|damage| damage.error.report().contains(&said)), "{said}: {found:?}");
        let before = files(&fs, Path::new(STORE));
        let options =
            RepairOptions { dry_run: false, pins: Vec::new(), clock: Arc::new(FixedClock::default()) };
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        match LocalStore::repair(&shared, Path::new(STORE), &options, &Job::default()) {
            Err(e) => {
                assert!(e.kind() == ErrorKind::Corrupt && e.report().contains(&said), "{e:?}");
                assert!(files(&fs, Path::new(STORE)) == before, "{said}: something was changed");
                assert!(said.contains("packs") || said.contains("images"));
            }
            Ok(_) => assert_whole(&fs, &said).await,
        }
    }
}

/// What a locator that is damaged may hold is not said to be absent by who has to know.
#[tokio::test]
async fn what_cannot_be_told_is_not_absent() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    let checkpoint = newest(&fs, "one").await.as_chunk();
    change(&fs, "/locators/", |bytes| bytes[5000] ^= 1);
    let store = open(&fs, STORE).unwrap();
    let held = store.holds(ChunkKind::Checkpoint, &[checkpoint]).await.remove(0);
    let error = held.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.report().contains("locator"), "{error:?}");
    assert_eq!(store.contains(ChunkKind::Checkpoint, &[checkpoint]).await.unwrap(), [false]);
    let found = check_all(&store, Depth::Structure).await.unwrap();
    assert!(found.iter().all(|damage| damage.error.report().contains("locator")), "{found:?}");
}

/// A checkpoint that an image has and its store has lost is no image that is not there.
#[tokio::test]
async fn a_lost_checkpoint_is_damage() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    for (path, _) in files(&fs, &Path::new(STORE).join("packs")) {
        fs.remove_file(Path::new(&path)).unwrap();
    }
    repair(&fs);
    let store = open(&fs, STORE).unwrap().into_store();
    assert_eq!(content(&store, &name("one")).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// What can't be asked is not lost: who asked is told so.
#[tokio::test]
async fn a_store_that_is_away_is_not_one_that_lacks() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    change(&fs, "/packs/", |bytes| bytes[54 + 48 + 3] ^= 1);
    repair(&fs);
    let store = open(&fs, STORE).unwrap().into_store();
    let away = || Err(Error::new(ErrorKind::Unavailable, "away"));
    let far: Arc<dyn ChunkStore> =
        Arc::new(Deferred::<Arc<dyn ChunkStore>>::new(move || Box::pin(async move { away() })));
    let healed = heal(&store, &far, Depth::Structure, &Job::default()).await.unwrap();
    assert!(healed.entries == 0 && !healed.left.damage.is_empty());
    assert_eq!(healed.unasked.unwrap().kind(), ErrorKind::Unavailable);

    let other = MemFs::new();
    LocalStore::init(Arc::new(other.clone()), Path::new(STORE), &FixedClock::default()).unwrap();
    let far: Arc<dyn ChunkStore> = Arc::new(open(&other, STORE).unwrap());
    let healed = heal(&store, &far, Depth::Structure, &Job::default()).await.unwrap();
    assert!(!healed.left.damage.is_empty() && healed.unasked.is_none());
}

/// What is stored again is no damage to be remembered.
#[tokio::test]
async fn a_rescue_notes_no_damage() {
    let fs = MemFs::new();
    make_store(&fs, STORE).await;
    change(&fs, "/packs/", |bytes| bytes.truncate(bytes.len() - 3));
    repair(&fs);
    assert_whole(&fs, "repaired").await;
    assert!(!exists(&fs, &Path::new(STORE).join("damaged")).unwrap());
}
