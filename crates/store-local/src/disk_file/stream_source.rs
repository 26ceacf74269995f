//! [`StreamSource`]: a disk that arrives on a stream, such as standard input.

use std::{
    fmt,
    io::{self, Read},
};

use gabion_store_core::{
    Error, Result,
    chunking::{DiskSource, Next},
};

/// A disk of unknown size, read from a stream until that ends. Whether the stream ended too early can't be
/// told from here: who writes it must fail the import some other way.
pub struct StreamSource<R> {
    stream: R,
    name: String,
}

impl<R> fmt::Debug for StreamSource<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSource").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<R: Read + Send> StreamSource<R> {
    /// A stream, and what messages call it.
    pub fn new(stream: R, name: impl Into<String>) -> Self {
        Self { stream, name: name.into() }
    }
}

impl<R: Read + Send> DiskSource for StreamSource<R> {
    fn size(&self) -> Option<u64> {
        None
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        loop {
            match self.stream.read(buf) {
                Ok(0) => return Ok(Next::End),
                Ok(n) => return Ok(Next::Data(n)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format!("{} can't be read", self.name), e)),
            }
        }
    }
}
