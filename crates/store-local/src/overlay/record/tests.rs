//! The record's bytes: golden, damaged, foreign.

use gabion_store_core::ErrorKind;
use proptest::{collection::vec, prelude::*};

use super::*;

fn full() -> VolumeRecord {
    VolumeRecord {
        info: VolumeInfo {
            id: VolumeId::from_bytes([0x11; 16]),
            name: "vm1".parse().unwrap(),
            size: 0x0102_0304,
            base: Some(CheckpointId::from_bytes([0x22; 32])),
            home: "s3://b".into(),
            lazy_base: Some(LazyBase {
                path: "/d".into(),
                device: 3,
                inode: 4,
                size: 5,
                mtime_ns: -1,
                ctime_ns: 6,
                format: 7,
                private_copy: Some("copy".into()),
            }),
            lineage: Some("img".parse().unwrap()),
            created: Timestamp(8),
        },
        layers: vec![
            LayerFiles { layer: 12, journal: 13, batches: 16 },
            LayerFiles { layer: 9, journal: 14, batches: 0 },
        ],
        next_number: 15,
    }
}

fn least() -> VolumeRecord {
    let mut record = full();
    record.info =
        VolumeInfo { base: None, lazy_base: None, lineage: None, home: String::new(), ..record.info };
    record.layers.truncate(1);
    record
}

#[test]
fn golden_bytes() {
    let golden = concat!(
        "4741424e564f4c00",                                                   // magic
        "0100",                                                               // version
        "000000000000000000000000000000000100000000000000",                   // features
        "11111111111111111111111111111111",                                   // id
        "0300766d31",                                                         // name
        "0403020100000000",                                                   // size
        "012222222222222222222222222222222222222222222222222222222222222222", // base
        "060073333a2f2f62",                                                   // home
        "0102002f64",                                                         // lazy base: path
        "030000000000000004000000000000000500000000000000",                   // device, inode, size
        "ffffffffffffffff060000000000000007",                                 // times, format
        "010400636f7079",                                                     // private copy
        "010300696d67",                                                       // lineage
        "0800000000000000",                                                   // created
        "0f00000000000000",                                                   // next number
        "02000000",                                                           // layers
        "0c000000000000000d0000000000000009000000000000000e00000000000000",
        "10000000000000000000000000000000", // batches
    );
    let bytes = full().encode().unwrap();
    let (body, crc) = bytes.split_last_chunk::<4>().unwrap();
    assert_eq!(body.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), golden);
    assert_eq!(u32::from_le_bytes(*crc), crc32c::crc32c(body));
}

#[test]
fn both_ways() {
    for record in [full(), least()] {
        assert_eq!(VolumeRecord::decode(&record.encode().unwrap()).unwrap(), record);
    }
}

/// As it was before records knew of batches.
#[test]
fn one_without_the_feature_is_read() {
    let bytes = full().encode().unwrap();
    let mut body = bytes[..bytes.len() - 4 - 16].to_vec();
    body[8 + 2 + 16] = 0;
    body.extend(crc32c::crc32c(&body).to_le_bytes());
    let mut expected = full();
    expected.layers.iter_mut().for_each(|files| files.batches = 0);
    assert_eq!(VolumeRecord::decode(&body).unwrap(), expected);
}

#[test]
fn bounds_hold_in_both_directions() {
    let mut cases: Vec<VolumeRecord> = Vec::new();
    let mut with = |change: fn(&mut VolumeRecord)| {
        let mut record = full();
        change(&mut record);
        cases.push(record);
    };
    with(|record| record.info.size = MAX_DISK_SIZE + 1);
    with(|record| record.info.home = "x".repeat(4097));
    with(|record| record.layers.clear());
    with(|record| {
        record.next_number = 1000;
        record.layers =
            (0..10).map(|i| LayerFiles { layer: 100 - i, journal: 200 + i, batches: 0 }).collect();
    });
    with(|record| record.layers.reverse());
    with(|record| record.layers[1].journal = 12);
    with(|record| record.next_number = 14);
    with(|record| record.info.lazy_base.as_mut().unwrap().path = "x".repeat(4097).into());
    for name in ["a/b", "..", "", "/"] {
        let mut record = full();
        record.info.lazy_base.as_mut().unwrap().private_copy = Some(name.into());
        cases.push(record);
    }
    for case in cases {
        assert_eq!(case.encode().unwrap_err().kind(), ErrorKind::Invalid, "{case:?}");
    }
}

#[test]
fn newer_records_are_refused_by_name() {
    for (at, byte) in [(8, 2), (10, 1), (18, 1)] {
        let mut bytes = full().encode().unwrap();
        bytes[at] = byte;
        let error = VolumeRecord::decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "byte {at}: {error}");
    }
}

#[test]
fn cut_at_each_length() {
    let bytes = full().encode().unwrap();
    for len in 0..bytes.len() {
        assert_eq!(VolumeRecord::decode(&bytes[..len]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

proptest! {
    /// With the right checksum, so that fields are reached.
    #[test]
    fn foreign_fields_never_panic(changes in vec((34..200usize, any::<u8>()), 1..6), cut in 0..40usize) {
        let mut bytes = full().encode().unwrap();
        bytes.truncate(bytes.len() - 4);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at.max(34)] = byte;
        }
        bytes.truncate(bytes.len() - cut);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Ok(record) = VolumeRecord::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes, "one form only");
        }
    }
}
