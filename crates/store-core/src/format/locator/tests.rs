//! Golden bytes, round trips against a sorted map, and what damage is noticed.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{ChunkId, ChunkKind, format::codec::Codec};

fn place(pack: u8, at: u64) -> Placement {
    Placement {
        pack: PackId::from_bytes([pack; 16]),
        offset: 102 + at,
        stored_len: 10,
        raw_len: 20,
        codec: Codec::Zstd,
    }
}

fn entries(count: u64) -> Vec<(EntryKey, Placement)> {
    let ids: BTreeMap<_, _> = (0..count)
        .map(|n| {
            let id = crate::types::chunk_id(&n.to_le_bytes());
            (EntryKey::new(ChunkKind::Data, id), place(n as u8 % 5, n))
        })
        .collect();
    ids.into_iter().collect()
}

/// Looks an entry up the way a store does: by pages.
fn find(locator: &Locator, bytes: &[u8], key: &EntryKey) -> Result<Option<Placement>> {
    for page in locator.pages_of(key) {
        let at = locator.page_offset(page) as usize;
        let rows = locator.check_page(page, &bytes[at..at + PAGE_LEN])?;
        if let Some(found) = locator.search(rows, key)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[test]
fn golden() {
    let id = LocatorId::from_bytes([3; 16]);
    let key = |id: u8, kind| EntryKey::new(kind, ChunkId::from_bytes([id; 32]));
    let entries = [
        (key(1, ChunkKind::Data), place(9, 0)),
        (key(1, ChunkKind::Node), place(8, 77)),
        (key(200, ChunkKind::Checkpoint), place(9, 1000)),
    ];
    let bytes = encode(id, &entries).unwrap();
    assert_eq!(bytes.len(), 2 * PAGE_LEN);
    assert_eq!(
        hex::encode(&bytes[..LocatorHeader::LEN + 2 * 16]),
        concat!(
            "474142494c4f435401000000000000000000000000000000000000000000000000000303030303030303030303030303",
            "0303020000000300000072f40074313e6e67080808080808080808080808080808080909090909090909090909090909",
            "0909"
        )
    );
    assert_eq!(
        hex::encode(&bytes[PAGE_LEN..PAGE_LEN + 4 + 3 * EntryRow::LEN]),
        concat!(
            "09bf98c8010101010101010101010101010101010101010101010101010101010101010101000000660000000a000000",
            "1400000000010000010101010101010101010101010101010101010101010101010101010101010100000000b3000000",
            "0a0000001400000001010000c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c801000000",
            "4e0400000a0000001400000002010000"
        )
    );
    assert_eq!(crc32c::crc32c(&bytes), 0xb2f89f74);
}

#[test]
fn finds_what_it_holds_and_nothing_else() {
    for count in [0, 1, 78, 79, 5_000, 40_000] {
        let entries = entries(count);
        let bytes = encode(LocatorId::from_bytes([3; 16]), &entries).unwrap();
        let (locator, all) = decode_all(&bytes).unwrap();
        assert_eq!(all, entries);
        for (key, placement) in entries.iter().step_by(7) {
            assert_eq!(find(&locator, &bytes, key).unwrap(), Some(*placement));
            assert!(locator.pages_of(key).len() <= 3, "{:?} of {count}", locator.pages_of(key));
            let other = EntryKey::new(ChunkKind::Node, key.id);
            assert_eq!(find(&locator, &bytes, &other).unwrap(), None);
        }
        for n in 0..100u64 {
            let absent = EntryKey::new(ChunkKind::Data, crate::types::chunk_id(&(n << 40).to_be_bytes()));
            assert_eq!(
                find(&locator, &bytes, &absent).unwrap().is_some(),
                entries.iter().any(|e| e.0 == absent)
            );
        }
    }
}

#[test]
fn unsorted_entries_and_impossible_places_are_refused() {
    let id = LocatorId::from_bytes([3; 16]);
    let mut two = entries(2);
    two.swap(0, 1);
    assert!(encode(id, &two).is_err());
    let one = two[0];
    assert!(encode(id, &[one, one]).is_err());
    for offset in [0, 101, 1 << 30, u64::MAX] {
        assert!(encode(id, &[(one.0, Placement { offset, ..one.1 })]).is_err(), "{offset}");
    }
}

proptest! {
    #[test]
    fn every_flipped_bit_is_noticed(count in 0u64..200, at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = encode(LocatorId::from_bytes([3; 16]), &entries(count)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode_all(&bytes).is_err());
    }

    #[test]
    fn cut_or_arbitrary_bytes_never_panic(
        cut in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let whole = encode(LocatorId::from_bytes([3; 16]), &entries(100)).unwrap();
        prop_assert!(decode_all(&whole[..cut.index(whole.len())]).is_err());
        prop_assert!(decode_all(&bytes).is_err());
    }
}
