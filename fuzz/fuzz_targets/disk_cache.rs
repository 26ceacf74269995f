//! A segment of the disk cache: whatever it holds is no error.
#![no_main]

use gabion_fuzz::cache;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    cache::open_with_segment(bytes);
});
