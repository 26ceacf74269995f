//! The record of a volume.
#![no_main]

use gabion_store_local::overlay::record::VolumeRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = VolumeRecord::decode(bytes) {
        let again = record.encode().expect("what was read can be written");
        assert_eq!(VolumeRecord::decode(&again).expect("what was written can be read"), record);
    }
});
