//! [`Health`]: whether a volume may still be written to.

use std::sync::atomic::{AtomicBool, Ordering};

use gabion_store_core::{Error, ErrorKind, ImageName, Result};

/// Set once something failed whose outcome is unknown, above all a sync: the kernel may have dropped what
/// it could not write and calls it clean, so that trying again would succeed without the bytes.
#[derive(Debug)]
pub(super) struct Health {
    volume: ImageName,
    poisoned: AtomicBool,
}

impl Health {
    pub(super) fn new(volume: ImageName) -> Self {
        Self { volume, poisoned: AtomicBool::new(false) }
    }

    /// `Poisoned` if nothing may be written any more.
    pub(super) fn check(&self) -> Result<()> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::Poisoned,
                format!(
                    "volume '{}' takes no more writes since a sync failed: stop serving it, check the disk, \
                     and serve it again to recover it",
                    self.volume
                ),
            ));
        }
        Ok(())
    }

    /// Ends all writing because of `error`, which becomes `Poisoned`.
    pub(super) fn poison(&self, error: Error) -> Error {
        let first = !self.poisoned.swap(true, Ordering::AcqRel);
        if first {
            tracing::error!(volume = %self.volume, error = %error.report(), "the volume is poisoned");
        }
        Error::with_source(
            ErrorKind::Poisoned,
            format!("volume '{}' is poisoned and takes no more writes until it is reopened", self.volume),
            error,
        )
    }
}
