//! The configuration file, and the store URLs, sizes, durations and names in it.
#![no_main]

use gabion_fuzz::config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    config::load(text);
});
