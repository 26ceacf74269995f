//! [`StreamSink`]: an exported disk on a stream, such as standard output.

use std::{fmt, io::Write};

use gabion_store_core::{Error, Result, ops::DiskSink};

/// Bytes of zeros written at a time.
const ZEROS: usize = 64 * 1024;

/// Writes a disk to a stream, zeros included.
pub struct StreamSink<W> {
    stream: W,
    name: String,
}

impl<W> fmt::Debug for StreamSink<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<W: Write> StreamSink<W> {
    /// A stream, and what messages call it.
    pub fn new(stream: W, name: impl Into<String>) -> Self {
        Self { stream, name: name.into() }
    }

    /// Hands everything over and gives the stream back.
    pub fn finish(mut self) -> Result<W> {
        self.stream.flush().map_err(|e| self.failed(e))?;
        Ok(self.stream)
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("{} can't be written", self.name), error)
    }
}

impl<W: Write + Send + 'static> DiskSink for StreamSink<W> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).map_err(|e| self.failed(e))
    }

    fn zeros(&mut self, mut length: u64) -> Result<()> {
        let zeros = [0; ZEROS];
        while length > 0 {
            let part = length.min(ZEROS as u64);
            self.data(&zeros[..part as usize])?;
            length -= part;
        }
        Ok(())
    }
}
