//! The format, byte by byte.

use std::path::Path;

use gabion_store_core::{ErrorKind, types::id_of};

use super::*;
use crate::fs::{Fs as _, MemFs, OpenMode};

fn entry(kind: ChunkKind, content: &[u8]) -> (ChunkId, Vec<u8>) {
    let id = id_of(kind, content);
    let mut bytes = Head::new(kind, id, content).encode();
    bytes.extend_from_slice(content);
    (id, bytes)
}

/// Segment 7 with two entries: its bytes without the table, and its rows.
fn sample() -> (Vec<u8>, Vec<Row>) {
    let mut bytes = header(7);
    let mut rows = Vec::new();
    for (kind, content) in [(ChunkKind::Data, &b"stones"[..]), (ChunkKind::Node, b"")] {
        let (id, entry) = entry(kind, content);
        rows.push(Row { kind, id, offset: bytes.len() as u32, len: content.len() as u32 });
        bytes.extend(entry);
    }
    (bytes, rows)
}

fn full() -> (Vec<u8>, Vec<Row>) {
    let (mut bytes, rows) = sample();
    let end = bytes.len() as u32;
    bytes.extend(table(7, &rows, end));
    (bytes, rows)
}

fn read(bytes: &[u8]) -> Result<Contents> {
    let fs = MemFs::new();
    let file = fs.open(Path::new("/x"), OpenMode::CreateNew).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    contents(&*file, 7)
}

#[test]
fn golden() {
    let (bytes, _) = full();
    assert_eq!(
        hex(&bytes),
        "4741424943414348\
         0100000000000000000000000000000000000000000000000000\
         070000008bfbb4e8\
         7d943c5324b86f2f0887381b16d1efad0f4cd6198f978a7e8acaf488704aa9f2\
         0000000006000000\
         99928e882312bd42\
         73746f6e6573\
         81878d08c22abb728715323ef9a50edede61af2b4c3487badddd00f128179ff7\
         0100000000000000\
         00000000cf7dffdd\
         7d943c5324b86f2f0887381b16d1efad0f4cd6198f978a7e8acaf488704aa9f2\
         000000002a00000006000000\
         81878d08c22abb728715323ef9a50edede61af2b4c3487badddd00f128179ff7\
         010000006000000000000000\
         4741424943544142\
         070000009000000002000000\
         29c6299149718f95"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_full_segment_is_found_by_its_table_and_a_torn_one_by_walking() {
    let (bytes, rows) = full();
    let end = sample().0.len() as u64;
    assert_eq!(read(&bytes).unwrap(), Contents { rows: rows.clone(), end, full: true });
    // Cut anywhere: the entries that are whole, in front.
    for len in 0..bytes.len() {
        match read(&bytes[..len]) {
            Err(e) => {
                assert!(len < HEADER_LEN, "{len}: {e:?}");
                assert_eq!(e.kind(), ErrorKind::Corrupt);
            }
            Ok(found) => {
                let whole = rows.iter().filter(|row| row.end() <= len as u64).count();
                assert_eq!(found.rows, rows[..whole], "{len}");
                assert!(!found.full && found.end <= len as u64);
            }
        }
    }
}

#[test]
fn no_flipped_bit_yields_an_entry_that_is_not_there() {
    let (bytes, rows) = full();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let Ok(found) = read(&flipped) else { continue };
            assert!(found.rows.iter().all(|row| rows.contains(row)), "byte {at} bit {bit}");
        }
    }
}

#[test]
fn another_number_version_or_length_is_refused() {
    let (bytes, _) = full();
    let fs = MemFs::new();
    let file = fs.open(Path::new("/x"), OpenMode::CreateNew).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    assert_eq!(contents(&*file, 8).unwrap_err().kind(), ErrorKind::Corrupt);
    let mut newer = header(7);
    newer.truncate(HEADER_LEN - 4);
    newer[8] = 2;
    let crc = crc32c::crc32c(&newer);
    newer.extend(crc.to_le_bytes());
    assert_eq!(read(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    file.set_len(MAX_SEGMENT_LEN + 1).unwrap();
    assert_eq!(contents(&*file, 7).unwrap_err().kind(), ErrorKind::Corrupt);
}

/// Tables that are sealed, and say what can't be.
#[test]
fn a_table_that_lies_is_not_followed() {
    let (bytes, rows) = sample();
    let end = bytes.len() as u32;
    let lie = |change: fn(&mut Row)| {
        let mut rows = rows.clone();
        change(&mut rows[0]);
        [bytes.clone(), table(7, &rows, end)].concat()
    };
    let lies = [
        lie(|row| row.offset = 0),
        lie(|row| row.offset = u32::MAX),
        lie(|row| row.len = MAX_RAW_LEN as u32 + 1),
        lie(|row| row.len = 4000),
        [bytes.clone(), table(8, &rows, end)].concat(),
        [bytes.clone(), table(7, &rows, end - 1)].concat(),
        [bytes.clone(), table(7, &rows, u32::MAX)].concat(),
    ];
    for (number, lie) in lies.iter().enumerate() {
        let found = read(lie).unwrap();
        assert_eq!((found.rows, found.full), (rows.clone(), false), "lie {number}");
    }
}

#[test]
fn an_entry_matches_itself_alone() {
    let (id, bytes) = entry(ChunkKind::Data, b"stones");
    assert!(Head::matches(ChunkKind::Data, &id, &bytes));
    assert_eq!(entry_of(&bytes), Some((ChunkKind::Data, id)));
    assert!(!Head::matches(ChunkKind::Node, &id, &bytes));
    assert!(!Head::matches(ChunkKind::Data, &id, &bytes[..bytes.len() - 1]));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert!(!Head::matches(ChunkKind::Data, &id, &flipped), "{at}");
        assert_eq!(entry_of(&flipped), None, "{at}");
    }
}
