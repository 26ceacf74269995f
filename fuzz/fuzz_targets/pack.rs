//! A pack: its head, the entries as a scan finds them, and its table of contents.
#![no_main]

use gabion_store_core::format::pack::{self, Contents, Trailer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = pack::decode_header(bytes);
    for found in pack::scan(bytes.get(pack::HEADER_LEN..).unwrap_or_default(), pack::HEADER_LEN as u64) {
        assert!(found.stored.len() <= bytes.len());
    }
    let Some((body, trailer)) = bytes.split_at_checked(bytes.len().saturating_sub(Trailer::LEN)) else {
        return;
    };
    let Ok(trailer) = Trailer::decode(trailer, bytes.len() as u64) else { return };
    let table =
        body.get(trailer.contents_at as usize..).expect("a trailer that was accepted points into its pack");
    if let Ok(contents) = Contents::decode(table, &trailer) {
        assert_eq!(contents.entries().len(), trailer.count as usize);
    }
});
