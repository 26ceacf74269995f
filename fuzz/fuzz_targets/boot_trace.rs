//! A boot trace.
#![no_main]

use gabion_store_core::{format::boot_trace::BootTrace, types::MapId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Its name is part of it.
    let id = bytes
        .get(16..32)
        .and_then(|id| id.try_into().ok())
        .map_or(MapId::from_bytes([0; 16]), MapId::from_bytes);
    if let Ok(trace) = BootTrace::decode(id, bytes) {
        let again = BootTrace::decode(id, &trace.encode(id)).expect("what was written can be read");
        assert_eq!(again, trace);
    }
});
