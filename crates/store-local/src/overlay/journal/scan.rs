//! Reading the parts of a journal.

use std::path::Path;

use gabion_store_core::{Error, Result, format::wire::has_crc};

use super::{
    HEADER_LEN, Header, MAX_LEN,
    codec::{BATCH_HEAD_LEN, BatchHead},
};
use crate::{
    fs::{FsFile, FsFileExt as _},
    overlay::io_error,
};

/// Bytes read at once where no batch is.
pub(super) const WINDOW: usize = 1 << 20;

/// The journal that is being read.
pub(super) struct Scan<'a> {
    pub(super) file: &'a dyn FsFile,
    pub(super) path: &'a Path,
    pub(super) len: u64,
}

impl<'a> Scan<'a> {
    pub(super) fn new(file: &'a dyn FsFile, path: &'a Path) -> Result<Self> {
        let len = file.len().map_err(|e| io_error("asking for the length of", path, e))?;
        if !(HEADER_LEN..=MAX_LEN).contains(&len) {
            return Err(Error::corrupt(format!("{} has {len} bytes: it is no journal", path.display())));
        }
        Ok(Self { file, path, len })
    }

    /// Whether there are only zeros from here to there, or to the end of the file.
    pub(super) fn is_zero(&self, from: u64, to: u64) -> Result<bool> {
        let mut bytes = vec![0; to.min(self.len).saturating_sub(from) as usize];
        self.read(&mut bytes, from)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| io_error("reading", self.path, e))
    }

    pub(super) fn header(&self, layer: u64) -> Result<Header> {
        let mut sector = [0; HEADER_LEN as usize];
        self.read(&mut sector, 0)?;
        let header = Header::decode(&sector).map_err(|e| e.context(self.path.display().to_string()))?;
        if header.layer != layer {
            return Err(Error::corrupt(format!(
                "{} belongs to layer {}, not to {layer}",
                self.path.display(),
                header.layer
            )));
        }
        Ok(header)
    }

    /// The head of a batch at `at`, if there is one.
    pub(super) fn head(&self, header: &Header, at: u64) -> Result<Option<BatchHead>> {
        // The padding of the batch before may be cut off.
        if self.len.saturating_sub(at) < BATCH_HEAD_LEN as u64 {
            return Ok(None);
        }
        let mut bytes = [0; BATCH_HEAD_LEN];
        self.read(&mut bytes, at)?;
        Ok(BatchHead::find(&header.nonce, &bytes))
    }

    /// What the batch with this head at `at` says, if it is whole.
    pub(super) fn payload(&self, head: &BatchHead, at: u64) -> Result<Option<Vec<u8>>> {
        head.check().map_err(|e| e.context(format!("{} at {at}", self.path.display())))?;
        if self.len - at < BATCH_HEAD_LEN as u64 + u64::from(head.payload_len) {
            return Ok(None);
        }
        let mut payload = vec![0; head.payload_len as usize];
        self.read(&mut payload, at + BATCH_HEAD_LEN as u64)?;
        Ok(has_crc(&payload, head.payload_crc).then_some(payload))
    }

    pub(super) fn corrupt(&self, at: u64, sequence: u64, why: impl std::fmt::Display) -> Error {
        Error::corrupt(format!(
            "{} at offset {at}, batch {sequence}: {why}; restore the volume's folder from a backup, start a new \
             volume from its last checkpoint, or run 'gabion repair --volume'",
            self.path.display()
        ))
    }
}
