//! The object in the place of an image: its record, or the tombstone of one.
#![no_main]

use gabion_store_core::format::tombstone::ImageObject;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = ImageObject::check_write(bytes);
    let again = match ImageObject::decode(bytes) {
        Ok(ImageObject::Record(record)) => record.encode().expect("what was read can be written"),
        Ok(ImageObject::Removed(tombstone)) => tombstone.encode(),
        Err(_) => return,
    };
    assert_eq!(ImageObject::decode(&again).ok(), ImageObject::decode(bytes).ok());
});
