//! A catalog: what is read is what is written again.
#![no_main]

use gabion_store_core::format::catalog::Catalog;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Catalog::check_write(bytes);
    if let Ok(catalog) = Catalog::decode(bytes) {
        let again = catalog.encode().expect("what was read can be written");
        assert_eq!(Catalog::decode(&again).expect("what was written can be read"), catalog);
    }
});
