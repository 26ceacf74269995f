//! An NBD client, from its first byte.
#![no_main]

use gabion_fuzz::nbd;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    nbd::serve(&[bytes]);
});
