//! The descriptor of a store, which is JSON.
#![no_main]

use gabion_store_core::format::descriptor::Descriptor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(descriptor) = Descriptor::decode(bytes) {
        let again = Descriptor::decode(descriptor.encode().as_bytes()).expect("what was written can be read");
        assert_eq!(again, descriptor);
    }
});
