//! Randomness: the one way to the operating system's, so that a simulation can draw it by its seed.

use crate::{Error, ErrorKind, Result};

/// Fills `bytes`, by the seed of `testing::Conductor` on a thread that has one. Not part of the public interface.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    #[cfg(any(test, feature = "testing"))]
    if crate::testing::conducted_bytes(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes).map_err(|e| Error::new(ErrorKind::Unavailable, format!("system randomness: {e}")))
}
