//! Reads: what they cost, and what becomes of damage.

use std::sync::Arc;

use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore as _, ErrorKind, IndexStore as _, Result,
    clock::Timestamp,
    format::codec::Codec,
    format::{
        checkpoint::Checkpoint,
        image_map::{self, MappedChunk},
        image_record::{HistoryEntry, ImageRecord},
        layout, locator,
        rows::EntryKey,
    },
    index::NodeCache,
    ops::{open_checkpoint, store_checkpoint},
    store::Placement,
    types::{BLOCK_SIZE, LocatorId, MapId, PackId, WriteId},
    volume::IndexBase,
};
use object_store::{ObjectStoreExt as _, path::Path};

use super::{
    bucket::{Bucket, Fate, Request},
    support::{Disk, chunk, import_disk, init, name, open, packs_of, publish},
};

const DATA: ChunkKind = ChunkKind::Data;

fn bytes_of(requests: &[Request]) -> u64 {
    requests.iter().map(|request| request.bytes).sum()
}

/// What there would be to read in a place that no test reads.
fn somewhere(pack: u8) -> Placement {
    let pack = PackId::from_bytes([pack; 16]);
    Placement { pack, offset: 4096, stored_len: 1000, raw_len: 1000, codec: Codec::None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neighbours_are_read_by_one_request() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(16 << 20)).await;
    let chunks: Vec<_> = (0..60).map(|seed| chunk(seed, 16384)).collect();
    store.put(DATA, chunks.clone()).await.expect("put");
    publish(&store).await;
    bucket.requests();
    let ids: Vec<ChunkId> = chunks.iter().step_by(3).map(|(id, _)| *id).collect();
    let got = store.get(DATA, &ids).await;
    for (got, (_, bytes)) in got.into_iter().zip(chunks.iter().step_by(3)) {
        assert_eq!(&got.expect("it is there"), bytes);
    }
    assert_eq!(bucket.requests().len(), 1);
}

/// A disk with one image, read by another host: descriptor, record, map, checkpoint with nodes, data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_open_takes_few_requests_and_no_locator() {
    let bucket = Bucket::new();
    let bytes = Disk::random(7, 8 << 20).0;
    let imported = {
        let store = init(&bucket, packs_of(16 << 20)).await.into_store();
        import_disk(&store, "vm1", Disk::new(bytes.clone())).await
    };
    bucket.requests();
    let store = open(&bucket).await.into_store();
    let record = store.index.read_image(&name("vm1")).await.expect("a record").expect("an image").value;
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    let (_, index) = open_checkpoint(&nodes, imported.checkpoint).await.expect("a checkpoint");
    let base = IndexBase::new(index).with_maps(&record.maps);
    let mut buf = vec![0; 1 << 20];
    base.read(3 << 20, &mut buf).await.expect("a read");
    assert_eq!(buf, bytes[3 << 20..4 << 20]);
    let requests = bucket.requests();
    assert!(requests.len() <= 6, "{requests:#?}");
    assert!(
        requests.iter().all(|r| !r.key.starts_with("locators/") && r.key != "catalog" && r.key != "LIST")
    );
    assert!(bytes_of(&requests) < (1 << 20) + (400 << 10), "{requests:#?}");
}

/// The same out of a store with millions of chunks, whose map, locators and catalog are large.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_open_of_a_large_image_stays_small() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(16 << 20)).await.into_store();
    let checkpoint = Checkpoint::new(1 << 40, None, Timestamp(5)).expect("a checkpoint");
    let id = store_checkpoint(&store, &checkpoint).await.expect("put");
    store.chunks.sync().await.expect("sync");
    let place = store.chunks.locate(ChunkKind::Checkpoint, &[id.as_chunk()]).await.expect("locate")[0];
    let of = |n: u64| {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
        ChunkId::from_bytes(bytes)
    };
    let node = |n: u64| (EntryKey::new(ChunkKind::Node, of(n)), somewhere((n % 200) as u8));
    let mut nodes: Vec<_> = (0..20_000).map(node).collect();
    nodes.push((EntryKey::new(ChunkKind::Checkpoint, id.as_chunk()), place.expect("it was synced")));
    nodes.sort_unstable_by_key(|(key, _)| *key);
    let mapped =
        |n: u64| MappedChunk { first_block: n * 8, id: of(n), placement: somewhere((n % 200) as u8) };
    let chunks: Vec<_> = (0..400_000).map(mapped).collect();
    let map = MapId::random().expect("randomness");
    let encoded = image_map::encode(map, &nodes, &chunks).expect("a map");
    assert!(encoded.len() > 20 << 20);
    store.index.put_map(map, encoded.into()).await.expect("put");
    let record = ImageRecord {
        name: name("vm1"),
        history: vec![HistoryEntry { checkpoint: id, size: 1 << 40, created: Timestamp(5) }],
        maps: vec![map],
        boot_trace: None,
        writer_epoch: 0,
        write_id: WriteId::random().expect("randomness"),
    };
    store.index.write_image(&record, None).await.expect("a new image");

    bucket.requests();
    let store = open(&bucket).await.into_store();
    let record = store.index.read_image(&name("vm1")).await.expect("a record").expect("an image").value;
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    open_checkpoint(&nodes, record.history[0].checkpoint).await.expect("the checkpoint");
    let requests = bucket.requests();
    assert!(requests.len() <= 6 && bytes_of(&requests) < 4_000_000, "{requests:#?}");

    // A chunk that is looked for: one piece of the map, then its pack, which is not there.
    let maps: Arc<[MapId]> = record.maps.into();
    store.chunks.expect(&maps, &[(123_456 * 8 + 3, of(123_456))]);
    let lost = store.chunks.get(DATA, &[of(123_456)]).await.remove(0).expect_err("there is no such pack");
    assert_eq!(lost.kind(), ErrorKind::Corrupt, "{lost:?}");
    let requests = bucket.requests();
    assert!(requests[0].key.starts_with("maps/") && requests[0].bytes <= 256 << 10, "{requests:#?}");
    assert!(requests[1].key.starts_with("packs/"), "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_publish_take_few_requests() {
    let bucket = Bucket::new();
    let imported = {
        let store = init(&bucket, packs_of(4 << 20)).await.into_store();
        import_disk(&store, "vm1", Disk::random(3, 96 << 20)).await
    };
    let store = open(&bucket).await.into_store();
    store.index.read_image(&name("vm1")).await.expect("a record");
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 4 << 20));
    let (_, index) = open_checkpoint(&nodes, imported.checkpoint).await.expect("a checkpoint");
    bucket.requests();
    for leaf in 0..48 {
        index.find(gabion_store_core::BlockRange::new(leaf * 512, leaf * 512 + 1)).await.expect("a leaf");
    }
    let requests = bucket.requests();
    assert!(requests.len() <= 2, "{requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_damaged_on_the_way_are_fetched_again() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let chunks: Vec<_> = (0..5).map(|seed| chunk(seed, 20_000)).collect();
    store.put(DATA, chunks.clone()).await.expect("put");
    publish(&store).await;
    let mut damaged = 0;
    bucket.rule(move |request| {
        damaged += u32::from(request.key.starts_with("packs/"));
        if damaged == 1 && request.key.starts_with("packs/") { Fate::Changed } else { Fate::Done }
    });
    let ids: Vec<_> = chunks.iter().map(|(id, _)| *id).collect();
    for (got, (_, bytes)) in store.get(DATA, &ids).await.into_iter().zip(&chunks) {
        assert_eq!(&got.expect("the second answer is right"), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_names_entry_pack_and_store_and_is_healed_by_a_put() {
    let bucket = Bucket::new();
    let (id, bytes) = chunk(1, 20_000);
    {
        let store = init(&bucket, packs_of(1 << 20)).await;
        store.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
        publish(&store).await;
    }
    let store = open(&bucket).await;
    bucket.rule(|request| if request.key.starts_with("packs/") { Fate::Changed } else { Fate::Done });
    let damaged = store.get(DATA, &[id]).await.remove(0).expect_err("the pack is damaged");
    assert_eq!(damaged.kind(), ErrorKind::Corrupt);
    let report = damaged.report();
    assert!(report.contains(&id.to_string()) && report.contains("memory://test"), "{report}");
    bucket.rule(|_| Fate::Done);
    assert_eq!(store.contains(DATA, &[id]).await.expect("contains"), [false], "it counts as absent");
    bucket.requests();
    store.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
    publish(&store).await;
    assert!(bucket.requests().iter().any(|request| request.write && request.key.starts_with("packs/")));
    assert_eq!(open(&bucket).await.get(DATA, &[id]).await.remove(0).expect("the newer place"), bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_that_points_nowhere_is_passed_by() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let (id, bytes) = chunk(1, 20_000);
    store.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
    publish(&store).await;
    let [map, damaged, gone] = [(); 3].map(|()| MapId::random().expect("randomness"));
    let row = MappedChunk { first_block: 0, id, placement: somewhere(1) };
    let encoded = image_map::encode(map, &[], &[row]).expect("a map");
    store.put_map(map, encoded.into()).await.expect("put");
    store.put_map(damaged, vec![1; 5000].into()).await.expect("put");
    for maps in [vec![map], vec![damaged], vec![gone], vec![gone, damaged, map]] {
        let other = open(&bucket).await;
        other.expect(&maps.into(), &[(1, id)]);
        assert_eq!(other.get(DATA, &[id]).await.remove(0).expect("the locators know"), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_gone_is_corrupt_and_a_locator_that_is_gone_hides_nothing() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let (id, bytes) = chunk(1, 20_000);
    store.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
    publish(&store).await;
    let place = store.locate(DATA, &[id]).await.expect("locate")[0].expect("it was synced");
    let path = Path::from(format!("a/prefix/{}", layout::pack_key(&place.pack)));
    bucket.delete(&path).await.expect("removed");
    let other = open(&bucket).await;
    let lost = other.get(DATA, &[id]).await.remove(0).expect_err("its pack is gone");
    assert_eq!(lost.kind(), ErrorKind::Corrupt);
    assert!(lost.report().contains(&place.pack.to_string()), "{lost:?}");

    let catalog = store.read_catalog().await.expect("the catalog").value;
    let path = Path::from(format!("a/prefix/{}", layout::locator_key(&catalog.locators[0].id)));
    bucket.delete(&path).await.expect("removed");
    let (absent, _) = chunk(2, 100);
    let unknown = open(&bucket).await.get(DATA, &[absent]).await.remove(0).expect_err("nobody can tell");
    assert_eq!(unknown.kind(), ErrorKind::Corrupt, "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_found_in_a_large_locator_by_pages() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let (id, bytes) = chunk(1, 20_000);
    store.put(DATA, vec![(id, bytes.clone())]).await.expect("put");
    store.sync().await.expect("sync");
    let place = store.locate(DATA, &[id]).await.expect("locate")[0].expect("it was synced");
    let mut rows: Vec<_> = (0..100_000)
        .map(|n: u64| (EntryKey::new(DATA, ChunkId::from_bytes(*blake3_like(n))), somewhere(1)))
        .collect();
    rows.push((EntryKey::new(DATA, id), place));
    rows.sort_unstable_by_key(|(key, _)| *key);
    let (absent, _) = chunk(2, 100);
    let large = LocatorId::random().expect("randomness");
    let encoded = locator::encode(large, &rows).expect("a locator");
    let path = Path::from(format!("a/prefix/{}", layout::locator_key(&large)));
    bucket.put(&path, encoded.into()).await.expect("put");
    let mut catalog = store.read_catalog().await.expect("the catalog");
    catalog
        .value
        .locators
        .push(gabion_store_core::format::catalog::LocatorRef { id: large, entries: rows.len() as u64 });
    catalog.value.write_id = WriteId::random().expect("randomness");
    store.write_catalog(&catalog.value, &catalog.version).await.expect("a catalog of one writer");

    let other = open(&bucket).await;
    bucket.requests();
    assert_eq!(other.contains(DATA, &[id]).await.expect("contains"), [false], "not worth five mebibytes");
    assert_eq!(bucket.requests().len(), 1, "the catalog alone");
    let held: Vec<bool> =
        other.holds(DATA, &[id, absent]).await.into_iter().collect::<Result<_>>().expect("holds");
    assert_eq!(held, [true, false], "whatever it costs");
    let other = open(&bucket).await;
    other.read_catalog().await.expect("the catalog");
    bucket.requests();
    assert_eq!(other.get(DATA, &[id]).await.remove(0).expect("it is there"), bytes);
    let requests = bucket.requests();
    assert!(requests.len() <= 3 && bytes_of(&requests) < 1 << 21, "head, page, pack: {requests:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_side_by_side_are_allowed_a_locator_once() {
    let bucket = Bucket::new();
    let mut entries = Vec::new();
    for seed in 1..=4 {
        let store = init_or_open(&bucket, seed == 1).await;
        entries.push(chunk(seed, 20_000));
        store.put(DATA, vec![entries[entries.len() - 1].clone()]).await.expect("put");
        publish(&store).await;
    }
    let other = open(&bucket).await;
    let ids: Vec<ChunkId> = entries.iter().map(|(id, _)| *id).collect();
    let questions = (0..16).map(|_| other.contains(DATA, &ids));
    for answer in futures::future::join_all(questions).await {
        assert_eq!(answer.expect("contains"), [true; 4], "four small locators are worth their requests");
    }
}

async fn init_or_open(bucket: &Arc<Bucket>, first: bool) -> crate::RemoteStore {
    if first { init(bucket, packs_of(1 << 20)).await } else { open(bucket).await }
}

/// Ids that are spread as hashes are.
fn blake3_like(n: u64) -> Box<[u8; 32]> {
    let mut rng = gabion_store_core::testing::Rng::new(n);
    Box::new(rng.bytes(32).try_into().expect("32 bytes"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_side_by_side_share_requests() -> Result<()> {
    let bucket = Bucket::new();
    {
        let store = init(&bucket, packs_of(16 << 20)).await.into_store();
        import_disk(&store, "vm1", Disk::random(9, 4 << 20)).await;
    }
    let store = open(&bucket).await.into_store();
    let record = store.index.read_image(&name("vm1")).await?.expect("an image").value;
    let nodes = Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20));
    bucket.requests();
    bucket.rule(|request| if request.key.starts_with("maps/") { Fate::Held } else { Fate::Done });
    let (_, opened) = tokio::join!(
        async { bucket.open_gate() },
        futures::future::join_all((0..8).map(|_| open_checkpoint(&nodes, record.history[0].checkpoint))),
    );
    let index = opened.into_iter().next().expect("eight of them")?.1;
    let base = IndexBase::new(index).with_maps(&record.maps);
    let mut buf = vec![0; BLOCK_SIZE];
    base.read(0, &mut buf).await?;
    let requests = bucket.requests();
    assert_eq!(
        requests.iter().filter(|request| request.key.starts_with("maps/")).count(),
        1,
        "{requests:#?}"
    );
    Ok(())
}

/// A replicator folds the maps that it wrote without reading them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_map_that_was_written_or_read_is_not_fetched_again() {
    let bucket = Bucket::new();
    let store = init(&bucket, packs_of(1 << 20)).await;
    let map = MapId::random().expect("randomness");
    let row = |n: u64| MappedChunk { first_block: n, id: chunk(n, 10).0, placement: somewhere(1) };
    let encoded = image_map::encode(map, &[], &(0..9000).map(row).collect::<Vec<_>>()).expect("a map");
    store.put_map(map, encoded.clone().into()).await.expect("put");
    bucket.requests();
    assert_eq!(store.get_map(map).await.expect("it was written"), encoded);
    assert_eq!(bucket.requests(), []);
    let other = open(&bucket).await;
    let maps: Arc<[MapId]> = [map].into();
    other.expect(&maps, &[(5, row(5).id)]);
    assert!(other.get(DATA, &[row(5).id]).await[0].is_err(), "there is no such pack");
    bucket.requests();
    assert_eq!(other.get_map(map).await.expect("it was read"), encoded);
    assert_eq!(bucket.requests(), []);
}
