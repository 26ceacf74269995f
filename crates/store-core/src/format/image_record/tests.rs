//! Golden bytes, round trips, and what is refused.

use proptest::prelude::*;

use super::*;

fn sample() -> ImageRecord {
    ImageRecord {
        name: ImageName::new("team/vm1").unwrap(),
        history: vec![
            HistoryEntry {
                checkpoint: CheckpointId::from_bytes([1; 32]),
                size: 1 << 30,
                created: Timestamp(2),
            },
            HistoryEntry {
                checkpoint: CheckpointId::from_bytes([3; 32]),
                size: 1 << 20,
                created: Timestamp(1),
            },
        ],
        maps: vec![MapId::from_bytes([9; 16]), MapId::from_bytes([4; 16])],
        boot_trace: Some(MapId::from_bytes([5; 16])),
        writer_epoch: 6,
        write_id: WriteId::from_bytes([7; 16]),
    }
}

#[test]
fn golden() {
    assert_eq!(
        hex::encode(sample().encode().unwrap()),
        concat!(
            "47414249494d414701000000000000000000000000000000000000000000000000000707070707070707070707070707",
            "0707060000000000000008007465616d2f766d3102000000010101010101010101010101010101010101010101010101",
            "010101010101010100000040000000000200000000000000030303030303030303030303030303030303030303030303",
            "030303030303030300001000000000000100000000000000020000000909090909090909090909090909090904040404",
            "0404040404040404040404040100000005050505050505050505050505050505dfda85ff"
        )
    );
}

#[test]
fn out_of_bounds_is_refused() {
    let refused = |change: fn(&mut ImageRecord)| {
        let mut record = sample();
        change(&mut record);
        assert_eq!(record.encode().unwrap_err().kind(), crate::ErrorKind::Invalid);
    };
    refused(|r| r.history.clear());
    refused(|r| r.history = vec![r.history[0]; ImageRecord::MAX_HISTORY + 1]);
    refused(|r| r.history[0].size = u64::MAX);
    refused(|r| r.maps = (0..5).map(|n| MapId::from_bytes([n; 16])).collect());
    refused(|r| r.maps[1] = r.maps[0]);
}

#[test]
fn features_that_a_writer_must_know_hinder_writing_only() {
    let mut bytes = sample().encode().unwrap();
    ImageRecord::check_write(&bytes).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes[18] = 1;
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    assert_eq!(ImageRecord::decode(&bytes).unwrap(), sample());
    assert_eq!(ImageRecord::check_write(&bytes).unwrap_err().kind(), crate::ErrorKind::Unsupported);
}

proptest! {
    #[test]
    fn round_trip(
        history in prop::collection::vec((any::<[u8; 32]>(), 0..MAX_DISK_SIZE, any::<u64>()), 1..20),
        maps in prop::collection::btree_set(any::<[u8; 16]>(), 0..5),
        trace in any::<Option<[u8; 16]>>(),
        writer_epoch in any::<u64>(),
    ) {
        let entry = |(id, size, created)| HistoryEntry {
            checkpoint: CheckpointId::from_bytes(id), size, created: Timestamp(created),
        };
        let record = ImageRecord {
            history: history.into_iter().map(entry).collect(),
            maps: maps.into_iter().map(MapId::from_bytes).collect(),
            boot_trace: trace.map(MapId::from_bytes),
            writer_epoch,
            ..sample()
        };
        prop_assert_eq!(ImageRecord::decode(&record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn damage_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut bytes = sample().encode().unwrap();
        let at = at.index(bytes.len());
        prop_assert!(ImageRecord::decode(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(ImageRecord::decode(&bytes).is_err());
    }

    #[test]
    fn bytes_with_a_right_checksum_are_canonical_or_refused(at in 0usize..1000, value in any::<u8>()) {
        let mut bytes = sample().encode().unwrap();
        bytes.truncate(bytes.len() - 4);
        let at = 34 + at % (bytes.len() - 34);
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(record) = ImageRecord::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes);
        }
    }
}
