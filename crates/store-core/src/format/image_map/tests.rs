//! Golden bytes, round trips, lookups by page, and what damage is noticed.

use proptest::prelude::*;

use super::*;
use crate::{format::codec::Codec, types::chunk_id};

fn place(n: u64) -> Placement {
    Placement {
        pack: PackId::from_bytes([n as u8 % 3; 16]),
        offset: 102 + n,
        stored_len: 10,
        raw_len: 20,
        codec: Codec::Zstd,
    }
}

fn sample(nodes: u64, chunks: u64) -> MapRows {
    let mut node_rows: Vec<_> =
        (0..nodes).map(|n| (EntryKey::new(ChunkKind::Node, chunk_id(&n.to_le_bytes())), place(n))).collect();
    node_rows.sort_by_key(|row| row.0);
    let chunk =
        |n: u64| MappedChunk { first_block: 10 + n * 8, id: chunk_id(&n.to_be_bytes()), placement: place(n) };
    (node_rows, (0..chunks).map(chunk).collect())
}

fn encoded(nodes: u64, chunks: u64) -> Vec<u8> {
    let (nodes, chunks) = sample(nodes, chunks);
    encode(MapId::from_bytes([4; 16]), &nodes, &chunks).unwrap()
}

#[test]
fn golden() {
    let id = |byte| ChunkId::from_bytes([byte; 32]);
    let nodes = [(EntryKey::new(ChunkKind::Node, id(0xaa)), place(0))];
    let chunks = [(10, 0xbb, 0), (18, 0xcc, 1)].map(|(first_block, chunk, n)| MappedChunk {
        first_block,
        id: id(chunk),
        placement: place(n),
    });
    let bytes = encode(MapId::from_bytes([4; 16]), &nodes, &chunks).unwrap();
    assert_eq!(bytes.len(), 3 * PAGE_LEN);
    assert_eq!(
        hex::encode(&bytes[..MapHeader::LEN + 2 * 16]),
        concat!(
            "474142494d41505301000000000000000000000000000000000000000000000000000404040404040404040404040404",
            "0404020000000100000002000000d16c4871b36378720000000000000000000000000000000001010101010101010101",
            "010101010101"
        )
    );
    assert_eq!(
        hex::encode(&bytes[PAGE_LEN..PAGE_LEN + 4 + EntryRow::LEN]),
        concat!(
            "4688bf12aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa00000000660000000a000000",
            "1400000001010000"
        )
    );
    assert_eq!(
        hex::encode(&bytes[2 * PAGE_LEN..2 * PAGE_LEN + 4 + 2 * CHUNK_ROW_LEN]),
        concat!(
            "654e50870a00000000000000bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb00000000",
            "660000000a00000014000000000100001200000000000000cccccccccccccccccccccccccccccccccccccccccccccccc",
            "cccccccccccccccc01000000670000000a0000001400000000010000"
        )
    );
    assert_eq!(crc32c::crc32c(&bytes), 0xbe5516c1);
}

#[test]
fn pages_hold_what_they_are_asked_for() {
    let (nodes, chunks) = sample(500, 1000);
    let bytes = encoded(500, 1000);
    let (map, rows) = decode_all(&bytes).unwrap();
    assert_eq!(rows, (nodes.clone(), chunks.clone()));
    let page = |at: u64| &bytes[at as usize..at as usize + PAGE_LEN];
    for (key, placement) in &nodes {
        let found =
            map.node_pages(key).find_map(|n| map.find_node(n, page(map.node_page_offset(n)), key).unwrap());
        assert_eq!(found, Some(*placement));
    }
    for (start, end) in
        [(0, 5), (0, 11), (10, 11), (17, 18), (18, 19), (500, 4000), (554, 555), (9000, 1 << 40)]
    {
        let mut found = Vec::new();
        for n in map.chunk_pages(start, end) {
            found.extend(map.chunks(n, page(map.chunk_page_offset(n))).unwrap());
        }
        let inside = |chunk: &&MappedChunk| (start..end).contains(&chunk.first_block);
        let expected: Vec<_> = chunks.iter().filter(inside).collect();
        assert_eq!(found.iter().filter(inside).collect::<Vec<_>>(), expected, "{start}..{end}");
    }
}

#[test]
fn wrong_rows_are_refused() {
    let id = MapId::from_bytes([4; 16]);
    let (nodes, chunks) = sample(2, 2);
    assert!(encode(id, &[nodes[1], nodes[0]], &[]).is_err());
    assert!(encode(id, &[], &[chunks[1], chunks[0]]).is_err());
    assert!(encode(id, &[], &[chunks[0], chunks[0]]).is_err());
    assert!(encode(id, &[(EntryKey::new(ChunkKind::Data, nodes[0].0.id), nodes[0].1)], &[]).is_err());
    assert!(encode(id, &[], &[MappedChunk { first_block: u64::MAX, ..chunks[0] }]).is_err());
}

proptest! {
    #[test]
    fn every_flipped_bit_is_noticed(
        nodes in 0u64..100, chunks in 0u64..100, at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let mut bytes = encoded(nodes, chunks);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_all(&bytes).is_err());
    }

    #[test]
    fn cut_or_arbitrary_bytes_never_panic(
        cut in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let whole = encoded(100, 100);
        prop_assert!(decode_all(&whole[..cut.index(whole.len())]).is_err());
        prop_assert!(decode_all(&bytes).is_err());
    }
}
