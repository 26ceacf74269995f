//! Golden bytes, round trips, and what is refused.

use proptest::prelude::*;

use super::*;

fn sample() -> Catalog {
    Catalog {
        condemn_generation: 5,
        locators: vec![
            LocatorRef { id: LocatorId::from_bytes([9; 16]), entries: 1000 },
            LocatorRef { id: LocatorId::from_bytes([1; 16]), entries: 7 },
        ],
        pending: vec![PendingRoot {
            checkpoint: CheckpointId::from_bytes([2; 32]),
            image: ImageName::new("vm1").unwrap(),
            since: Timestamp(3),
        }],
        pins: vec![Pin {
            owner: VolumeId::from_bytes([4; 16]),
            checkpoint: CheckpointId::from_bytes([5; 32]),
            since: Timestamp(6),
        }],
        replaced: vec![
            Replaced::Locator(LocatorId::from_bytes([7; 16]), Timestamp(8)),
            Replaced::Map(MapId::from_bytes([1; 16]), Timestamp(9)),
        ],
        write_id: WriteId::from_bytes([10; 16]),
    }
}

#[test]
fn golden() {
    assert_eq!(
        hex::encode(sample().encode().unwrap()),
        concat!(
            "474142494341544c01000000000000000000000000000000000000000000000000000a0a0a0a0a0a0a0a0a0a0a0a0a0a",
            "0a0a05000000000000000200000009090909090909090909090909090909e80300000000000001010101010101010101",
            "0101010101010700000000000000010000000300766d3102020202020202020202020202020202020202020202020202",
            "020202020202020300000000000000010000000404040404040404040404040404040405050505050505050505050505",
            "050505050505050505050505050505050505050600000000000000020000000007070707070707070707070707070707",
            "080000000000000001010101010101010101010101010101010900000000000000dc3d6394"
        )
    );
}

#[test]
fn lists_are_sorted_on_the_way_out_but_locators_keep_their_order() {
    let mut catalog = sample();
    catalog.replaced.reverse();
    assert_eq!(Catalog::decode(&catalog.encode().unwrap()).unwrap(), sample());
}

#[test]
fn duplicates_and_newer_versions_are_refused() {
    let twice = |change: fn(&mut Catalog)| {
        let mut catalog = sample();
        change(&mut catalog);
        assert_eq!(catalog.encode().unwrap_err().kind(), crate::ErrorKind::Invalid);
    };
    twice(|c| c.locators.push(c.locators[0]));
    twice(|c| c.pending.push(c.pending[0].clone()));
    twice(|c| c.pins.push(c.pins[0].clone()));
    twice(|c| c.replaced.push(Replaced::Map(MapId::from_bytes([1; 16]), Timestamp(99))));

    let mut newer = sample().encode().unwrap();
    newer.truncate(newer.len() - 4);
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer);
    newer.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(Catalog::decode(&newer).unwrap_err().kind(), crate::ErrorKind::Unsupported);
}

#[test]
fn locators_are_added_once() {
    let mut catalog = sample();
    let new = LocatorRef { id: LocatorId::from_bytes([0; 16]), entries: 1 };
    catalog.add_locators(&[new, catalog.locators[0], new]);
    assert_eq!(catalog.locators.len(), 3);
    assert_eq!(catalog.locators.last(), Some(&new));
}

proptest! {
    #[test]
    fn round_trip(locators in prop::collection::btree_map(any::<[u8; 16]>(), any::<u64>(), 0..9), generation in any::<u64>()) {
        let mut catalog = sample();
        catalog.condemn_generation = generation;
        catalog.locators = locators.into_iter()
            .map(|(id, entries)| LocatorRef { id: LocatorId::from_bytes(id), entries }).collect();
        prop_assert_eq!(Catalog::decode(&catalog.encode().unwrap()).unwrap(), catalog);
    }

    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = sample().encode().unwrap();
        let at = at.index(bytes.len());
        prop_assert!(Catalog::decode(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(Catalog::decode(&bytes).is_err());
    }

    #[test]
    fn bytes_with_a_right_checksum_are_canonical_or_refused(at in 0usize..1000, value in any::<u8>()) {
        let mut bytes = sample().encode().unwrap();
        bytes.truncate(bytes.len() - 4);
        // Bytes 10 to 34 are feature sets, which a newer writer may use.
        let at = 34 + at % (bytes.len() - 34);
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(catalog) = Catalog::decode(&bytes) {
            prop_assert_eq!(catalog.encode().unwrap(), bytes);
        }
    }
}
