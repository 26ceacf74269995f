//! An NBD client that has chosen an export, with simple or with structured replies.
#![no_main]

use gabion_fuzz::nbd;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    nbd::serve(&[nbd::hello(choice & 1 == 1), bytes]);
});
