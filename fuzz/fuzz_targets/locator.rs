//! A locator, whole.
#![no_main]

use gabion_store_core::format::locator::{decode_all, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((locator, entries)) = decode_all(bytes) {
        let again = encode(locator.id(), &entries).expect("what was read can be written");
        assert_eq!(decode_all(&again).expect("what was written can be read").1, entries);
    }
});
