//! The journal's bytes, and what recovery makes of cut, torn and damaged ones.

use gabion_store_core::{BlockRange, overlay::BlockState};
use proptest::{collection::vec, prelude::*};

use super::{
    codec::{BATCH_HEAD_LEN, BatchHead, MAX_PAYLOAD, apply_payload},
    *,
};
use crate::fs::{MemFs, read_whole};

const BLOCKS: u64 = 10_000;
const PATH: &str = "/journal";

fn marks(marks: &[(u64, u64, BlockState)]) -> BlockStates {
    let mut states = BlockStates::new(BLOCKS);
    for &(start, end, state) in marks {
        states.set(BlockRange::new(start, end), state);
    }
    states
}

fn append(journal: &mut Journal, states: &BlockStates) {
    for batch in journal.batches(states) {
        journal.write(&batch).unwrap();
        journal.advance(&batch);
    }
}

/// What a record says of the journal that is known to have so many batches.
fn files(batches: u64) -> LayerFiles {
    LayerFiles { layer: 5, journal: 6, batches }
}

fn open(fs: &MemFs) -> Result<(Journal, BlockStates)> {
    Journal::open(fs, PATH.into(), files(0), BLOCKS)
}

fn all(states: &BlockStates) -> Vec<(BlockRange, BlockState)> {
    states.runs(0, usize::MAX)
}

/// The batches of [`written`], and the states after none, one, two… of them.
fn history() -> (Vec<BlockStates>, Vec<BlockStates>) {
    let batches = vec![
        marks(&[(3, 9, BlockState::Data), (100, 101, BlockState::Zero)]),
        marks(&[(5, 6, BlockState::Zero), (9000, 10_000, BlockState::Data)]),
        // Longer than a sector.
        marks(&(0..400).map(|i| (10 + 20 * i, 11 + 20 * i, BlockState::Data)).collect::<Vec<_>>()),
        marks(&[(0, 9999, BlockState::Zero)]),
    ];
    let mut after = vec![BlockStates::new(BLOCKS)];
    for batch in &batches {
        let mut states = batch.clone();
        states.fill_from(after.last().unwrap());
        after.push(states);
    }
    (batches, after)
}

/// A journal of four batches: where each begins and the last ends.
fn written() -> (MemFs, Arc<dyn FsFile>, Vec<u64>) {
    let fs = MemFs::new();
    let mut journal = Journal::create(&fs, PATH.into(), 5).unwrap();
    let mut ends = vec![journal.end()];
    for batch in history().0 {
        append(&mut journal, &batch);
        ends.push(journal.end());
    }
    let file = fs.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
    (fs, file, ends)
}

#[test]
fn golden_bytes() {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let header = Header { nonce: [0x33; 16], layer: 5 };
    let bytes = header.encode();
    assert_eq!(bytes.len(), 512);
    assert_eq!(
        hex(&bytes[..58]),
        concat!(
            "4741424e4a524e00",
            "0100",
            "000000000000000000000000000000000000000000000000",
            "33333333333333333333333333333333",
            "0500000000000000",
        )
    );
    assert_eq!(bytes[58..62], crc32c::crc32c(&bytes[..58]).to_le_bytes());
    assert!(bytes[62..].iter().all(|&byte| byte == 0));
    assert_eq!(Header::decode(&bytes).unwrap(), header);

    let states = marks(&[(3, 9, BlockState::Data), (9, 10, BlockState::Zero), (400, 9000, BlockState::Zero)]);
    let batches = encode_batches(&header, 0x0102, &states);
    assert_eq!(batches.len(), 1);
    let (batch, payload) = (&batches[0], "030b00008603ae8601");
    assert_eq!(batch.len(), 512);
    assert_eq!(
        hex(&batch[..32]),
        concat!("33333333333333333333333333333333", "0201000000000000", "01", "000000", "09000000")
    );
    assert_eq!(hex(&batch[40..49]), payload);
    assert_eq!(batch[32..36], crc32c::crc32c(&batch[40..49]).to_le_bytes());
    assert_eq!(batch[36..40], crc32c::crc32c(&batch[..36]).to_le_bytes());
    assert!(batch[49..].iter().all(|&byte| byte == 0));
}

#[test]
fn cut_at_each_length() {
    let (_, after) = history();
    let (fs, file, ends) = written();
    let mut bytes = vec![0; *ends.last().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for len in 0..=bytes.len() {
        file.set_len(0).unwrap();
        file.write_all_at(&bytes[..len], 0).unwrap();
        if len < HEADER_LEN as usize {
            assert_eq!(open(&fs).unwrap_err().kind(), ErrorKind::Corrupt, "cut at {len}");
            continue;
        }
        // A batch counts from its last payload byte on; the padding carries nothing.
        let whole = ends.windows(2).filter(|pair| {
            let head =
                BatchHead::find(bytes[34..50].first_chunk().unwrap(), &bytes[pair[0] as usize..]).unwrap();
            pair[0] as usize + BATCH_HEAD_LEN + head.payload_len as usize <= len
        });
        let whole = whole.count();
        let (mut journal, states) = open(&fs).unwrap();
        assert_eq!(all(&states), all(&after[whole]), "cut at {len}");
        assert_eq!(journal.end(), ends[whole]);
        // What is appended next is found again, and what was dropped is not.
        append(&mut journal, &marks(&[(7, 8, BlockState::Data)]));
        let mut expected = marks(&[(7, 8, BlockState::Data)]);
        expected.fill_from(&after[whole]);
        assert_eq!(all(&open(&fs).unwrap().1), all(&expected), "appended behind a cut at {len}");
    }
}

/// Row 47.
#[test]
fn each_byte_flipped() {
    let (_, after) = history();
    let (fs, file, ends) = written();
    let last = ends.len() - 1;
    let mut bytes = vec![0; ends[last] as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let nonce: [u8; 16] = *bytes[34..50].first_chunk().unwrap();
    for at in 0..bytes.len() {
        file.write_all_at(&[bytes[at] ^ 0x40], at as u64).unwrap();
        let opened = open(&fs);
        let in_batch = ends.windows(2).position(|pair| (pair[0]..pair[1]).contains(&(at as u64)));
        let padding = in_batch.is_some_and(|batch| {
            let start = ends[batch] as usize;
            let head = BatchHead::find(&nonce, &bytes[start..]).unwrap();
            at >= start + BATCH_HEAD_LEN + head.payload_len as usize
        });
        match in_batch {
            Some(_) if padding => assert_eq!(all(&opened.unwrap().1), all(&after[last]), "byte {at}"),
            // Can't be told from a torn flush, which was never acknowledged.
            Some(batch) if batch == last - 1 => {
                assert_eq!(all(&opened.unwrap().1), all(&after[last - 1]), "byte {at}");
            }
            Some(batch) => {
                let error = opened.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}");
                let text = error.report();
                assert!(
                    text.contains(&format!("{PATH} at offset {}, batch {}", ends[batch], batch + 1)),
                    "{text}"
                );
            }
            None => {
                let kind = opened.unwrap_err().kind();
                assert!(matches!(kind, ErrorKind::Corrupt | ErrorKind::Unsupported), "byte {at}: {kind:?}");
            }
        }
        // A dropped end was zeroed: put everything back.
        file.write_all_at(&bytes, 0).unwrap();
    }
}

#[test]
fn a_dropped_end_is_zeroed_before_anything_is_appended() {
    let (fs, file, ends) = written();
    // The third batch, of several sectors, lost its first one; the fourth was never written.
    file.write_all_at(&vec![0; (ends[4] - ends[3]) as usize], ends[3]).unwrap();
    file.write_all_at(&[0; 512], ends[2]).unwrap();
    let (journal, _) = open(&fs).unwrap();
    assert_eq!(journal.end(), ends[2]);
    let mut behind = vec![1; (journal.reserved() - ends[2]) as usize];
    file.read_exact_at(&mut behind, ends[2]).unwrap();
    assert!(behind.iter().all(|&byte| byte == 0));
}

#[test]
fn batches_of_another_journal_or_order_do_not_count() {
    let (fs, file, ends) = written();
    let mut first = [0; 512];
    file.read_exact_at(&mut first, ends[0]).unwrap();
    // A valid batch in the wrong place.
    file.write_all_at(&first, ends[1]).unwrap();
    assert_eq!(open(&fs).unwrap_err().kind(), ErrorKind::Corrupt);

    let other = MemFs::new();
    let mut journal = Journal::create(&other, PATH.into(), 5).unwrap();
    let end = journal.end();
    append(&mut journal, &marks(&[(1, 2, BlockState::Data)]));
    let foreign = other.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
    foreign.write_all_at(&first, end).unwrap();
    assert!(open(&other).unwrap().1.is_empty(), "another nonce: a torn end");
    assert_eq!(
        Journal::open(&other, PATH.into(), LayerFiles { layer: 6, ..files(0) }, BLOCKS).unwrap_err().kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn a_batch_of_the_last_number_there_is_ends_a_salvage() {
    let (fs, _, _) = written();
    let (mut journal, states) = open(&fs).unwrap();
    journal.sequence = u64::MAX - 1;
    let mut batch = journal.batches(&marks(&[(1, 2, BlockState::Data)])).remove(0);
    batch[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&batch[..36]);
    batch[36..40].copy_from_slice(&crc.to_le_bytes());
    journal.write(&batch).unwrap();
    assert!(open(&fs).is_err(), "batches between are missing");
    let (salvaged, lost) = Journal::salvage(&fs, Path::new(PATH), files(0), BLOCKS).unwrap().unwrap();
    assert_eq!(lost, [5..=u64::MAX - 1]);
    assert_eq!(salvaged.data_blocks(), states.data_blocks() + 1);
}

/// A record that knows how many batches there were tells a damaged end from a torn one.
#[test]
fn what_the_record_knows_of_is_no_torn_end() {
    let (fs, file, ends) = written();
    let (last, states) = (ends.len() - 1, history().1);
    // Cut in the midst of the last batch, and before it.
    for (cut, left) in
        [(ends[last - 1] + 41, last - 1), (ends[last - 1], last - 1), (ends[last - 2], last - 2)]
    {
        file.set_len(cut).unwrap();
        let before = read_whole(&fs, Path::new(PATH), 1 << 30).unwrap();
        for known in left + 1..=last {
            let files = files(known as u64);
            let error = Journal::open(&fs, PATH.into(), files, BLOCKS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.report().contains(&format!("batch {}", left + 1)), "{}", error.report());
            assert!(Journal::check(&fs, Path::new(PATH), files, BLOCKS).is_err());
            let (salvaged, lost) = Journal::salvage(&fs, Path::new(PATH), files, BLOCKS).unwrap().unwrap();
            assert_eq!(lost, [left as u64 + 1..=known as u64]);
            assert_eq!(all(&salvaged), all(&states[left]));
        }
        assert!(read_whole(&fs, Path::new(PATH), 1 << 30).unwrap() == before, "nothing is changed");
        Journal::check(&fs, Path::new(PATH), files(left as u64), BLOCKS).unwrap();
        assert!(Journal::salvage(&fs, Path::new(PATH), files(left as u64), BLOCKS).unwrap().is_none());
    }
    let (_, found) = Journal::open(&fs, PATH.into(), files(last as u64 - 2), BLOCKS).unwrap();
    assert_eq!(all(&found), all(&states[last - 2]));
}

/// As a disk leaves it that wrote to another place than it was told: the journal does not open, and the repair that
/// its error advises has to find something to do.
#[test]
fn an_earlier_batch_in_the_place_of_a_later_one_is_salvaged_around() {
    let (fs, _, _) = written();
    assert!(
        Journal::salvage(&fs, Path::new(PATH), files(0), BLOCKS).unwrap().is_none(),
        "nothing is damaged"
    );
    let (mut journal, states) = open(&fs).unwrap();
    journal.sequence = 2;
    for batch in journal.batches(&marks(&[(1, 2, BlockState::Data)])) {
        journal.write(&batch).unwrap();
    }
    assert!(open(&fs).is_err());
    let (salvaged, lost) = Journal::salvage(&fs, Path::new(PATH), files(0), BLOCKS).unwrap().unwrap();
    assert_eq!(lost, [5..=5]);
    assert_eq!(all(&salvaged), all(&states));
}

#[test]
fn a_large_flush_takes_several_batches_and_its_room() {
    let blocks = 4_000_000;
    let mut states = BlockStates::new(blocks);
    for i in 0..blocks / 4 {
        states.set(BlockRange::new(4 * i, 4 * i + 1 + i % 2), BlockState::Data);
    }
    let fs = MemFs::new();
    let mut journal = Journal::create(&fs, PATH.into(), 5).unwrap();
    let (start, batches) = (journal.end(), journal.batches(&states));
    assert!(batches.len() > 1);
    assert!(batches.iter().all(|batch| batch.len() <= (MAX_PAYLOAD + BATCH_HEAD_LEN).next_multiple_of(512)));
    append(&mut journal, &states);
    assert!(journal.end() - start <= room_for(states.count_runs()));
    let (journal, found) = Journal::open(&fs, PATH.into(), files(0), blocks).unwrap();
    assert_eq!(found.data_blocks(), states.data_blocks());
    assert_eq!(all(&found), all(&states));
    assert_eq!(journal.batches(&marks(&[(1, 2, BlockState::Zero)])).len(), 1);
}

proptest! {
    #[test]
    fn batches_say_what_the_states_say(
        runs in vec((0..BLOCKS, 1..700u64, any::<bool>()), 0..50),
    ) {
        let states = marks(&runs.iter().map(|&(start, count, data)| {
            (start, start + count, if data { BlockState::Data } else { BlockState::Zero })
        }).collect::<Vec<_>>());
        let header = Header { nonce: [1; 16], layer: 1 };
        let batches = encode_batches(&header, 1, &states);
        let total: usize = batches.iter().map(Vec::len).sum();
        prop_assert!(total as u64 <= room_for(states.count_runs()));
        let mut found = BlockStates::new(BLOCKS);
        for batch in &batches {
            let head = BatchHead::find(&header.nonce, batch).unwrap();
            prop_assert_eq!(head.stride(), batch.len() as u64);
            apply_payload(&batch[BATCH_HEAD_LEN..][..head.payload_len as usize], &mut found).unwrap();
        }
        prop_assert_eq!(all(&found), all(&states));
    }

    #[test]
    fn foreign_payloads_never_panic(payload in vec(any::<u8>(), 0..60)) {
        let mut states = BlockStates::new(BLOCKS);
        if let Err(error) = apply_payload(&payload, &mut states) {
            prop_assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
