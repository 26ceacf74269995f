//! [`RawFile`]: a raw disk image, read from start to end.

use std::path::Path;

use gabion_store_core::{
    Result,
    chunking::{DiskSource, Next},
};

use super::{FileIdentity, HostFile};

/// A raw disk image as the source of an import. Holes are passed over where the file system tells them.
///
/// **Errors**: `Conflict` if the file changed between opening and the end, which is checked when the end is
/// reached, so that an import never publishes a mix. Changes to a block device go unnoticed.
#[derive(Debug)]
pub struct RawFile {
    file: HostFile,
    at: u64,
    /// End of the run of data that `at` is in.
    data_end: u64,
}

impl RawFile {
    /// Opens a raw image: a regular file or a block device, whatever its first bytes look like. Errors are
    /// those of [`HostFile::open`].
    pub fn open(path: &Path) -> Result<Self> {
        HostFile::open(path).map(Self::from)
    }

    /// What the file was when it was opened.
    pub fn identity(&self) -> FileIdentity {
        self.file.identity()
    }
}

impl From<HostFile> for RawFile {
    fn from(file: HostFile) -> Self {
        file.will_read_all();
        Self { file, at: 0, data_end: 0 }
    }
}

impl DiskSource for RawFile {
    fn size(&self) -> Option<u64> {
        Some(self.file.size())
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let size = self.file.size();
        if self.at == size {
            self.file.check()?;
            return Ok(Next::End);
        }
        if self.at == self.data_end {
            let (hole, end) = self.file.first_run(self.at, size)?;
            if hole {
                let length = end - self.at;
                (self.at, self.data_end) = (end, end);
                return Ok(Next::Zero(length));
            }
            self.data_end = end;
        }
        let length = (self.data_end - self.at).min(buf.len() as u64) as usize;
        self.file.read_exact_at(&mut buf[..length], self.at)?;
        self.at += length as u64;
        Ok(Next::Data(length))
    }
}
