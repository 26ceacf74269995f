//! Which maps are folded, how much that costs, and that nothing a map told is lost.

use std::collections::BTreeMap;

use super::*;
use crate::{
    clock::Timestamp,
    format::{codec::Codec, image_map::decode_all, image_record::HistoryEntry},
    ops::tests::{memory, name},
    store::Placement,
    testing::{Call, FaultStore},
    types::{PackId, WriteId, chunk_id},
};

#[test]
fn what_is_folded() {
    for (lens, run) in [
        // The newest two, and what is not much larger.
        (&[1, 1, 100, 500, 9000][..], Some(0..2)),
        (&[1, 1, 8, 500, 9000], Some(0..3)),
        (&[1, 1, 8, 40, 200], Some(0..5)),
        (&[1, 50, 8000, 9000, 9000], Some(0..2)),
        // A large new one is left alone.
        (&[9000, 1, 1, 100, 500], Some(1..3)),
        (&[9000, 1, 1, 100, 300], Some(1..3)),
        // What would take too much memory is left alone.
        (&[1, 1, 1 << 30, 1 << 30, 1 << 30], Some(0..2)),
        (&[1 << 30, 1 << 30, 5, 6, 1 << 30], Some(2..4)),
        (&[1 << 30, 2 << 30, 1 << 30, 1 << 30, 1 << 30], None),
        (&[u64::MAX, u64::MAX, 0, u64::MAX, u64::MAX], None),
        (&[0, 0, 0, 0, 0], Some(0..5)),
    ] {
        assert_eq!(run_to_fold(lens), run, "{lens:?}");
    }
}

/// Publishes of one unit each on top of a large map: what is written is a small multiple of what is new, and
/// the large one is left alone.
#[test]
fn folding_costs_little() {
    let (mut maps, mut written) = (vec![1_000_000_u64], 0);
    for _ in 0..1000 {
        maps.insert(0, 100);
        if maps.len() > ImageRecord::MAX_MAPS {
            let run = run_to_fold(&maps).unwrap();
            let sum: u64 = maps[run.clone()].iter().sum();
            written += sum;
            maps.splice(run, [sum]);
        }
    }
    assert_eq!(maps.iter().sum::<u64>(), 1_100_000);
    assert!(written < 20 * 100_000, "{written}");
}

fn place(n: u64) -> Placement {
    let pack = PackId::from_bytes([(n % 250) as u8; 16]);
    Placement { pack, offset: 102 + n, stored_len: 10, raw_len: 20, codec: Codec::Zstd }
}

fn key(n: u64) -> EntryKey {
    EntryKey::new(ChunkKind::Node, chunk_id(&n.to_le_bytes()))
}

/// A map with some rows of a round's own; the model is what newest first gives.
fn one(
    round: u64,
    nodes: &mut BTreeMap<EntryKey, Placement>,
    chunks: &mut BTreeMap<u64, MappedChunk>,
) -> NewMap {
    let mut map = MapWriter::new(0);
    let mut keys: Vec<_> = (round..round + 3).map(key).collect();
    keys.sort_unstable();
    for key in keys {
        map.node(key, &place(round)).unwrap();
        nodes.insert(key, place(round));
    }
    for n in 0..100 {
        let first_block = n * (round % 3 + 1) + round;
        let id = chunk_id(&(round * 1000 + n).to_le_bytes());
        let row = MappedChunk { first_block, id, placement: place(round + n) };
        map.chunk(&row).unwrap();
        chunks.insert(first_block, row);
    }
    NewMap::new(map).unwrap()
}

fn record() -> ImageRecord {
    let checkpoint = CheckpointId::from_bytes([1; 32]);
    ImageRecord {
        name: name("vm"),
        history: vec![HistoryEntry { checkpoint, size: 0, created: Timestamp(1) }],
        maps: Vec::new(),
        boot_trace: None,
        writer_epoch: 0,
        write_id: WriteId::from_bytes([0; 16]),
    }
}

#[tokio::test]
async fn folding_loses_nothing_and_the_newer_counts() {
    let store = memory();
    let faults = FaultStore::new(store.clone(), 1);
    let mut record = record();
    let (mut nodes, mut chunks, mut gone) = (BTreeMap::new(), BTreeMap::new(), 0);
    for round in 0..40 {
        let mut map = one(round, &mut nodes, &mut chunks);
        gone += add(&faults.store(), &mut record, Some(&mut map)).await.unwrap().len();
        assert!((1..=ImageRecord::MAX_MAPS).contains(&record.maps.len()));
    }
    assert!(gone >= 30, "{gone}");
    let (mut found_nodes, mut found_chunks) = (BTreeMap::new(), BTreeMap::new());
    for id in record.maps.iter().rev() {
        let (_, (nodes, chunks)) = decode_all(&store.index.get_map(*id).await.unwrap()).unwrap();
        found_nodes.extend(nodes);
        found_chunks.extend(chunks.into_iter().map(|chunk| (chunk.first_block, chunk)));
    }
    assert!(found_nodes == nodes && found_chunks == chunks);
}

#[tokio::test]
async fn a_map_that_is_lost_or_damaged_goes() {
    let store = memory();
    let mut record = record();
    for round in 0..4 {
        let mut map = one(round, &mut BTreeMap::new(), &mut BTreeMap::new());
        add(&store, &mut record, Some(&mut map)).await.unwrap();
    }
    let (missing, bad) = (MapId::from_bytes([9; 16]), record.maps[1]);
    record.maps[0] = missing;
    store.index.put_map(bad, Bytes::from_static(b"no map")).await.unwrap();
    let (mut nodes, mut chunks) = (BTreeMap::new(), BTreeMap::new());
    let mut map = one(7, &mut nodes, &mut chunks);
    let gone = add(&store, &mut record, Some(&mut map)).await.unwrap();
    assert!(gone.contains(&missing), "{gone:?}");
    let (_, (found, _)) = decode_all(&store.index.get_map(record.maps[0]).await.unwrap()).unwrap();
    let found: BTreeMap<_, _> = found.into_iter().collect();
    assert!(nodes.iter().all(|(key, place)| found.get(key) == Some(place)));
}

/// What can't be had now is not taken for lost.
#[tokio::test]
async fn a_store_out_of_reach_drops_no_map() {
    let store = memory();
    let mut record = record();
    for round in 0..4 {
        let mut map = one(round, &mut BTreeMap::new(), &mut BTreeMap::new());
        add(&store, &mut record, Some(&mut map)).await.unwrap();
    }
    let mut map = one(5, &mut BTreeMap::new(), &mut BTreeMap::new());
    // Lengths of four, then the first that is folded.
    for number in 0..5 {
        let faults = FaultStore::new(store.clone(), 1);
        faults.script(Call::GetMap, number, crate::testing::Fault::Before(ErrorKind::Unavailable));
        let done = add(&faults.store(), &mut record.clone(), Some(&mut map)).await;
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unavailable, "{number}");
    }
}
