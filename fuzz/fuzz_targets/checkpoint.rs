//! A checkpoint. What is read is what is written again.
#![no_main]

use gabion_store_core::format::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        let (_, again) = checkpoint.encode().expect("what was read can be written");
        assert_eq!(Checkpoint::decode(&again).expect("what was written can be read"), checkpoint);
    }
});
