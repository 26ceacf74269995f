//! Golden bytes, round trips, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::{
    CheckpointId, ErrorKind,
    clock::Timestamp,
    format::{image_record::HistoryEntry, layout},
};

fn sample() -> Tombstone {
    Tombstone { name: ImageName::new("team/vm1").unwrap(), write_id: WriteId::from_bytes([7; 16]) }
}

fn record() -> ImageRecord {
    ImageRecord {
        name: ImageName::new("team/vm1").unwrap(),
        history: vec![HistoryEntry {
            checkpoint: CheckpointId::from_bytes([1; 32]),
            size: 1 << 30,
            created: Timestamp(2),
        }],
        maps: Vec::new(),
        boot_trace: None,
        writer_epoch: 6,
        write_id: WriteId::from_bytes([7; 16]),
    }
}

/// The same object with a feature that a writer must understand.
fn with_write_feature(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len() - 4);
    bytes[18] = 1;
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn golden() {
    assert_eq!(
        hex::encode(sample().encode()),
        concat!(
            "47414249544f4d420100000000000000000000000000000000000000000000000000070707070707",
            "0707070707070707070708007465616d2f766d3100598e02"
        )
    );
}

#[test]
fn an_image_s_place_holds_one_or_the_other() {
    let (tombstone, record) = (sample(), record());
    let removed = ImageObject::decode(&tombstone.encode()).unwrap();
    assert_eq!((removed.name(), removed.clone().record()), (&tombstone.name, None));
    let image = ImageObject::decode(&record.encode().unwrap()).unwrap();
    assert_eq!((image.name(), image.clone().record()), (&record.name, Some(record.clone())));
    let key = layout::image_key(&record.name);
    for bytes in [tombstone.encode(), record.encode().unwrap()] {
        ImageObject::decode_at(&key, &bytes).unwrap();
        let elsewhere = layout::image_key(&ImageName::new("vm2").unwrap());
        assert_eq!(ImageObject::decode_at(&elsewhere, &bytes).unwrap_err().kind(), ErrorKind::Corrupt);
        ImageObject::check_write(&bytes).unwrap();
        let newer = with_write_feature(bytes);
        ImageObject::decode(&newer).unwrap();
        assert_eq!(ImageObject::check_write(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert_eq!(ImageObject::decode(b"").unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(ImageObject::decode(b"GABITOMB").unwrap_err().kind(), ErrorKind::Corrupt);
}

proptest! {
    #[test]
    fn round_trip(name in "[a-z]{1,20}", write_id in any::<[u8; 16]>()) {
        let tombstone = Tombstone { name: ImageName::new(&name).unwrap(), write_id: WriteId::from_bytes(write_id) };
        prop_assert_eq!(Tombstone::decode(&tombstone.encode()).unwrap(), tombstone);
    }

    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = sample().encode();
        let at = at.index(bytes.len());
        prop_assert!(ImageObject::decode(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(ImageObject::decode(&bytes).is_err());
    }
}
