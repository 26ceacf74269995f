#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gabion_fuzz::run(&gabion_foreign::STORE_URL, bytes));
