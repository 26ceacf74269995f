//! Version and feature sets, which stand in the descriptor and in every record.
//!
//! A feature is a bit. A reader that does not know a bit refuses to open (`open`), refuses to write
//! (`write`) or ignores it (`ignore`), by the set it stands in.

use super::wire::{Reader, Writer};
use crate::{Error, ErrorKind, Result};

/// Version and features of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Format version of the object.
    pub version: u16,
    /// Must be understood to open.
    pub open: u64,
    /// Must be understood to write.
    pub write: u64,
    /// May be ignored.
    pub ignore: u64,
}

impl Features {
    /// Length when encoded.
    pub const LEN: usize = 2 + 3 * 8;

    /// A version without features.
    pub const fn version(version: u16) -> Self {
        Self { version, open: 0, write: 0, ignore: 0 }
    }

    /// Appends the fields in the order of their declaration.
    pub fn encode(&self, to: &mut Writer) {
        to.u16(self.version).u64(self.open).u64(self.write).u64(self.ignore);
    }

    /// Reads the fields and refuses, by `Unsupported`, what is newer than `supported` or has an unknown
    /// must-open feature.
    pub fn decode(from: &mut Reader<'_>, what: &str, supported: u16) -> Result<Self> {
        let found = Self { version: from.u16()?, open: from.u64()?, write: from.u64()?, ignore: from.u64()? };
        found.check_open(what, supported)?;
        Ok(found)
    }

    /// See [`decode`](Self::decode).
    pub fn check_open(&self, what: &str, supported: u16) -> Result<()> {
        if self.version == 0 {
            return Err(Error::corrupt(format!("{what}: format version 0 does not exist")));
        }
        if self.version > supported {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{what} has format version {}, this gabion reads up to {supported}: use a newer gabion",
                    self.version
                ),
            ));
        }
        if self.open != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{what} needs features {:#x} that this gabion lacks: use a newer gabion", self.open),
            ));
        }
        Ok(())
    }

    /// Refuses to write what has an unknown must-write feature.
    pub fn check_write(&self, what: &str) -> Result<()> {
        if self.write != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "writing to {what} needs features {:#x} that this gabion lacks: use a newer gabion",
                    self.write
                ),
            ));
        }
        Ok(())
    }
}
