//! Stores in a bucket: every verb, what can go wrong, and what is left when something did.

mod errors;
mod interrupt;
mod kills;
mod memory;
mod providers;
mod verbs;

use crate::support::{Home, Rng};

const MIB: usize = 1 << 20;

/// Bytes that neither repeat nor compress.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    Rng::new(seed).fill(&mut bytes);
    bytes
}

/// The local store of a home, for `--store`.
fn local(home: &Home) -> String {
    home.path("home/store").to_str().expect("UTF-8").to_owned()
}
