use proptest::prelude::*;

use super::*;
use crate::ErrorKind;

fn trace(runs: &[(u64, u64)]) -> Result<BootTrace> {
    BootTrace::new(runs.iter().map(|(start, end)| BlockRange::new(*start, *end)).collect())
}

const ID: MapId = MapId::from_bytes([0xab; 16]);

#[test]
fn golden() {
    let trace = trace(&[(300, 301), (0, 2), (16_384, 16_640)]).unwrap();
    let bytes = trace.encode(ID);
    assert_eq!(
        hex::encode(&bytes),
        "4741424954524345\
         0100000000000000000000000000000000000000000000000000\
         abababababababababababababababab\
         03000000\
         ac0201\
         0002\
         8080018002\
         44ed4c4a"
    );
    assert_eq!(BootTrace::decode(ID, &bytes).unwrap(), trace);
    assert_eq!(trace.blocks(), 259);
}

#[test]
fn every_damage_is_seen() {
    let bytes = trace(&[(300, 301), (0, 2), (16_384, 16_640)]).unwrap().encode(ID);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            assert!(BootTrace::decode(ID, &flipped).is_err(), "byte {at} bit {bit}");
        }
        assert!(BootTrace::decode(ID, &bytes[..at]).is_err(), "cut at {at}");
    }
    assert_eq!(BootTrace::decode(MapId::from_bytes([1; 16]), &bytes).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn runs_that_break_the_rules_are_refused() {
    let last = blocks_for(MAX_DISK_SIZE);
    assert!(trace(&[(last - 1, last)]).is_ok());
    let bad: [&[(u64, u64)]; 5] =
        [&[(5, 5)], &[(last, last + 1)], &[(0, 4), (4, 8)], &[(0, 4), (9, 10), (3, 5)], &[(7, 8), (7, 8)]];
    for runs in bad {
        assert_eq!(trace(runs).unwrap_err().kind(), ErrorKind::Invalid, "{runs:?}");
        // The same, sealed, from a foreign hand.
        let runs = runs.iter().map(|(start, end)| BlockRange::new(*start, *end)).collect();
        let sealed = BootTrace(runs).encode(ID);
        assert_eq!(BootTrace::decode(ID, &sealed).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let many: Vec<_> = (0..=BootTrace::MAX_RUNS as u64).map(|n| BlockRange::new(2 * n, 2 * n + 1)).collect();
    assert_eq!(BootTrace::new(many.clone()).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(BootTrace::decode(ID, &BootTrace(many).encode(ID)).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn counts_and_numbers_that_lie_are_refused() {
    let sealed = |count: u32, body: &[u8]| {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(BOOT_TRACE_VERSION).encode(&mut to);
        to.bytes(ID.as_bytes()).u32(count).bytes(body);
        to.seal()
    };
    assert!(BootTrace::decode(ID, &sealed(1, &[5, 1])).is_ok());
    let longest = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let bad = [
        sealed(2, &[5, 1]),
        sealed(u32::MAX, &[5, 1]),
        sealed(1, &[5, 1, 0]),
        sealed(1, &[5, 0]),
        sealed(1, &[0x85, 0x00, 1]),
        sealed(1, &[0x85]),
        sealed(1, &[&longest[..], &[1]].concat()),
        sealed(1, &[&[0xff; 10][..], &[1]].concat()),
        sealed(1, &[&[0xff; 9][..], &[0x02, 1]].concat()),
    ];
    for (number, bytes) in bad.iter().enumerate() {
        let error = BootTrace::decode(ID, bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "case {number}: {error:?}");
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        lens in prop::collection::vec((1_u64..1000, 1_u64..1 << 35), 0..50),
        seed in any::<u64>(),
    ) {
        let mut at = 0;
        let mut runs: Vec<_> = lens
            .into_iter()
            .map(|(len, gap)| {
                let start = at + gap;
                at = start + len;
                BlockRange::new(start, at)
            })
            .collect();
        let mut rng = crate::testing::Rng::new(seed);
        for last in (1..runs.len()).rev() {
            runs.swap(last, rng.below(last + 1));
        }
        let trace = BootTrace::new(runs).unwrap();
        let bytes = trace.encode(ID);
        prop_assert!(bytes.len() <= MAX_LEN);
        prop_assert_eq!(BootTrace::decode(ID, &bytes).unwrap(), trace);
    }

    #[test]
    fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut sealed = Writer::new();
        sealed.bytes(MAGIC);
        Features::version(BOOT_TRACE_VERSION).encode(&mut sealed);
        sealed.bytes(ID.as_bytes()).bytes(&bytes);
        let sealed = sealed.seal();
        if let Ok(trace) = BootTrace::decode(ID, &sealed) {
            prop_assert_eq!(trace.encode(ID), sealed);
        }
    }
}
