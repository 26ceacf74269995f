//! An image map, whole.
#![no_main]

use gabion_store_core::format::image_map::{decode_all, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((map, (nodes, chunks))) = decode_all(bytes) {
        let again = encode(map.header().id, &nodes, &chunks).expect("what was read can be written");
        assert_eq!(decode_all(&again).expect("what was written can be read").1, (nodes, chunks));
    }
});
