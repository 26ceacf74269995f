//! A stored entry: decoding gives as many bytes as were claimed, or an error.
#![no_main]

use gabion_store_core::format::codec::{Codec, Encoded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [codec, a, b, c, stored @ ..] = bytes else { return };
    let Some(codec) = Codec::from_byte(*codec) else { return };
    let entry = Encoded {
        codec,
        raw_len: u32::from_le_bytes([*a, *b, *c, 0]),
        bytes: bytes::Bytes::copy_from_slice(stored),
    };
    if let Ok(raw) = entry.decode() {
        assert_eq!(raw.len(), entry.raw_len as usize);
    }
});
