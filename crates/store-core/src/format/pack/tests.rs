//! Golden bytes, round trips, and what damage is noticed.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::types::chunk_id;

fn pack_of(id: PackId, entries: &[(EntryKey, Encoded)]) -> (Vec<u8>, Vec<PackEntry>) {
    let mut bytes = encode_header(&id);
    let mut placed = Vec::new();
    for (key, entry) in entries {
        let header = EntryHeader::new(*key, entry).unwrap();
        placed.push(PackEntry::at(&header, bytes.len() as u64));
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&entry.bytes);
    }
    bytes.extend_from_slice(&Contents::new(placed.clone()).unwrap().seal(id));
    (bytes, placed)
}

fn open(bytes: &[u8]) -> Result<(PackId, Contents)> {
    let header = decode_header(bytes.get(..HEADER_LEN).unwrap_or_default())?;
    let tail = bytes.get(bytes.len().saturating_sub(Trailer::LEN)..).unwrap_or_default();
    let trailer = Trailer::decode(tail, bytes.len() as u64)?;
    if header != trailer.pack {
        return Err(Error::corrupt("header and trailer are of two packs"));
    }
    let start = trailer.contents_at as usize;
    Ok((header, Contents::decode(&bytes[start..start + trailer.contents_len()], &trailer)?))
}

fn raw(kind: ChunkKind, bytes: &'static [u8]) -> (EntryKey, Encoded) {
    (EntryKey::new(kind, chunk_id(bytes)), Encoded::raw(Bytes::from_static(bytes)))
}

#[test]
fn golden() {
    let id = PackId::from_bytes([7; 16]);
    let (bytes, _) = pack_of(id, &[raw(ChunkKind::Data, b"stone"), raw(ChunkKind::Node, b"")]);
    assert_eq!(
        hex::encode(&bytes),
        concat!(
            "474142495041434b01000000000000000000000000000000000000000000000000000707070707070707070707070707",
            "070773f6ad15dfd8b7729c80b2e2621aea6b64aac818f810b777b0d0004693612755a208565300000000050000000500",
            "00002267544e73746f6e65af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f32620100000000",
            "000000000000002b80aa4eaf1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f32629b00000000",
            "000000000000000000000001000000dfd8b7729c80b2e2621aea6b64aac818f810b777b0d0004693612755a208565366",
            "00000000000000050000000500000000000000474142495441494c070707070707070707070707070707079b00000000",
            "00000002000000691515332814520b"
        )
    );
}

#[test]
fn a_flag_from_the_future_is_refused_by_name() {
    let (key, entry) = raw(ChunkKind::Data, b"stone");
    let mut header = EntryHeader::new(key, &entry).unwrap();
    let damaged = header.encode();
    header.flags = FLAG_AEAD;
    header.crc = header.checksum(&entry.bytes);
    let newer = EntryHeader::decode(&header.encode()).unwrap();
    assert_eq!(newer.check(&entry.bytes).unwrap_err().kind(), ErrorKind::Unsupported);
    // A flag that came by damage is damage.
    for bit in 0..16 {
        let mut damaged = damaged;
        damaged[34 + bit / 8] ^= 1 << (bit % 8);
        let header = EntryHeader::decode(&damaged).unwrap();
        assert_eq!(header.check(&entry.bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn entries_out_of_bounds_are_refused() {
    let key = raw(ChunkKind::Data, b"stone").0;
    let long = Encoded { codec: Codec::Zstd, raw_len: 2, bytes: Bytes::from_static(b"abc") };
    let huge = Encoded { codec: Codec::Zstd, raw_len: MAX_RAW_LEN as u32 + 1, bytes: Bytes::new() };
    let odd = Encoded { codec: Codec::None, raw_len: 4, bytes: Bytes::from_static(b"abc") };
    for entry in [long, huge, odd] {
        assert_eq!(EntryHeader::new(key, &entry).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn contents_refuse_gaps_overlaps_and_duplicates() {
    let (_, placed) = pack_of(
        PackId::from_bytes([7; 16]),
        &[raw(ChunkKind::Data, b"one"), raw(ChunkKind::Data, b"two"), raw(ChunkKind::Data, b"three")],
    );
    assert!(Contents::new(vec![placed[0], placed[2]]).is_err());
    assert!(Contents::new(vec![placed[1]]).is_err());
    assert!(Contents::new(vec![placed[0], PackEntry { key: placed[1].key, ..placed[0] }]).is_err());
    assert!(Contents::new(vec![placed[0], PackEntry { key: placed[0].key, ..placed[1] }]).is_err());
    assert!(Contents::new(vec![placed[0], placed[1]]).is_ok());
}

fn entries() -> impl Strategy<Value = Vec<(EntryKey, Encoded)>> {
    let entry = (0u8..3, prop::collection::vec(any::<u8>(), 0..40), any::<bool>());
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut seen = std::collections::BTreeMap::new();
        for (kind, bytes, zstd) in entries {
            let key = EntryKey::new(ChunkKind::from_byte(kind).unwrap(), chunk_id(&bytes));
            let mut entry = Encoded::raw(bytes.into());
            if zstd {
                entry.codec = Codec::Zstd;
                entry.raw_len += 7;
            }
            seen.insert(key, entry);
        }
        let mut entries: Vec<_> = seen.into_iter().collect();
        entries.reverse();
        entries
    })
}

proptest! {
    #[test]
    fn round_trip(entries in entries()) {
        let id = PackId::from_bytes([9; 16]);
        let (bytes, placed) = pack_of(id, &entries);
        let (found, contents) = open(&bytes).unwrap();
        prop_assert_eq!(found, id);
        prop_assert_eq!(contents.entries().len(), entries.len());
        for (place, (key, entry)) in placed.iter().zip(&entries) {
            prop_assert_eq!(contents.find(key), Some(place));
            let stored = &bytes[place.offset as usize..place.end() as usize];
            prop_assert_eq!(stored, &entry.bytes[..]);
        }
        let scanned: Vec<_> = scan(&bytes[HEADER_LEN..], HEADER_LEN as u64).map(|s| s.entry).collect();
        prop_assert_eq!(scanned, placed);
    }

    #[test]
    fn every_flipped_bit_is_noticed(entries in entries(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (mut bytes, placed) = pack_of(PackId::from_bytes([9; 16]), &entries);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let scanned = scan(&bytes[HEADER_LEN..], HEADER_LEN as u64).count();
        prop_assert!(open(&bytes).is_err() || scanned < placed.len());
    }

    #[test]
    fn a_cut_pack_keeps_its_whole_entries(entries in entries(), cut in any::<prop::sample::Index>()) {
        let (bytes, placed) = pack_of(PackId::from_bytes([9; 16]), &entries);
        let cut = HEADER_LEN + cut.index(bytes.len() - HEADER_LEN);
        prop_assert!(open(&bytes[..cut]).is_err());
        let whole = placed.iter().filter(|place| place.end() <= cut as u64).count();
        prop_assert_eq!(scan(&bytes[HEADER_LEN..cut], HEADER_LEN as u64).count(), whole);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), len in any::<u64>()) {
        let _ = open(&bytes);
        let _ = Trailer::decode(&bytes, len);
        let _ = scan(&bytes, 0).count();
    }
}
