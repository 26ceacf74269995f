//! The journal of a volume: it is refused, or recovered to what opens again as the same.
#![no_main]

use gabion_fuzz::volume;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    volume::open_with_journal(bytes);
});
