//! Checksums that are always right, so that damaged bytes reach what lies behind them.

use std::sync::atomic::{AtomicBool, Ordering};

static TRUSTED: AtomicBool = AtomicBool::new(false);

/// From now on, for as long as this process lives, any CRC32C of any format counts as right: a fuzzer, which can't
/// guess checksums, gets past them, and so does what replays its findings. Hashes of content are still checked.
pub fn trust_checksums() {
    TRUSTED.store(true, Ordering::Relaxed);
}

pub(crate) fn trusted() -> bool {
    TRUSTED.load(Ordering::Relaxed)
}
