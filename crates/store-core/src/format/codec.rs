//! Codecs: how an entry's bytes are stored.
//!
//! An entry is decoded into a buffer of exactly its declared, bounded length; more or less output is
//! corruption.

use std::cell::RefCell;

use bytes::Bytes;

use crate::{Error, Result};

/// Most bytes an entry may decode to: the largest chunk or the largest index node.
pub const MAX_RAW_LEN: usize = 256 * 1024;

/// How the stored bytes of an entry become its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    None = 0,
    /// One zstd frame (RFC 8878).
    Zstd = 1,
}

impl Codec {
    /// From its byte in a format.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

thread_local! {
    /// A decompressor's working memory costs more to set up than a chunk to decode.
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::new(
        zstd::bulk::Decompressor::new().expect("a zstd context needs nothing but memory"),
    );
}

/// An entry as it is stored and travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The codec of `bytes`.
    pub codec: Codec,
    /// Length when decoded.
    pub raw_len: u32,
    /// The stored bytes.
    pub bytes: Bytes,
}

impl Encoded {
    /// Bytes that are stored as they are.
    ///
    /// # Panics
    /// If they are longer than [`MAX_RAW_LEN`].
    pub fn raw(bytes: Bytes) -> Self {
        assert!(bytes.len() <= MAX_RAW_LEN, "an entry of {} bytes", bytes.len());
        Self { codec: Codec::None, raw_len: bytes.len() as u32, bytes }
    }

    /// The decoded bytes.
    pub fn decode(&self) -> Result<Bytes> {
        let raw_len = self.raw_len as usize;
        if raw_len > MAX_RAW_LEN {
            return Err(Error::corrupt(format!("an entry claims {raw_len} bytes, more than {MAX_RAW_LEN}")));
        }
        match self.codec {
            Codec::None if self.bytes.len() == raw_len => Ok(self.bytes.clone()),
            Codec::None => {
                Err(Error::corrupt(format!("an entry of {raw_len} bytes is stored in {}", self.bytes.len())))
            }
            Codec::Zstd => {
                let mut raw = Vec::with_capacity(raw_len);
                let len = DECOMPRESSOR
                    .with_borrow_mut(|zstd| zstd.decompress_to_buffer(&self.bytes, &mut raw))
                    .map_err(|e| Error::with_source(crate::ErrorKind::Corrupt, "bad zstd data", e))?;
                if len != raw_len {
                    return Err(Error::corrupt(format!("an entry of {raw_len} bytes decodes to {len}")));
                }
                Ok(raw.into())
            }
        }
    }
}

/// What a writer encodes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Store as it is.
    None,
    /// zstd at a level from 1 to 22.
    Zstd(i32),
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
    }
}

/// An encoder that keeps its working memory from entry to entry.
pub struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    scratch: Vec<u8>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("zstd", &self.zstd.is_some()).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder; a zstd level outside 1 to 22 is `Invalid`.
    pub fn new(compression: Compression) -> Result<Self> {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd(level) if (1..=22).contains(&level) => {
                let zstd = zstd::bulk::Compressor::new(level).map_err(|e| Error::io("starting zstd", e))?;
                Some(zstd)
            }
            Compression::Zstd(level) => {
                return Err(Error::invalid(format!("zstd level {level} is outside 1 to 22")));
            }
        };
        Ok(Self { zstd, scratch: Vec::new() })
    }

    /// Encodes an entry of at most [`MAX_RAW_LEN`] bytes; it is stored raw unless compression saves at least a sixteenth.
    pub fn encode(&mut self, raw: &Bytes) -> Encoded {
        let Some(zstd) = &mut self.zstd else { return Encoded::raw(raw.clone()) };
        let worth = raw.len() - raw.len() / 16;
        self.scratch.clear();
        self.scratch.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        match zstd.compress_to_buffer(raw, &mut self.scratch) {
            Ok(len) if len < worth => Encoded {
                codec: Codec::Zstd,
                raw_len: raw.len() as u32,
                bytes: Bytes::copy_from_slice(&self.scratch),
            },
            _ => Encoded::raw(raw.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_bounds() {
        let mut encoder = Encoder::new(Compression::default()).unwrap();
        let soft = Bytes::from(vec![7; 32 * 1024]);
        let encoded = encoder.encode(&soft);
        assert_eq!(encoded.codec, Codec::Zstd);
        assert_eq!(encoded.decode().unwrap(), soft);
        for raw_len in [0, 1, 32 * 1024 - 1, 32 * 1024 + 1, MAX_RAW_LEN as u32, u32::MAX] {
            assert!(Encoded { raw_len, ..encoded.clone() }.decode().is_err(), "{raw_len}");
        }
        let cut = Encoded { bytes: encoded.bytes.slice(..encoded.bytes.len() - 1), ..encoded };
        assert!(cut.decode().is_err());
    }

    #[test]
    fn what_does_not_compress_is_stored_raw() {
        let mut hard = vec![0; 32 * 1024];
        getrandom::fill(&mut hard).unwrap();
        let hard = Bytes::from(hard);
        let encoded = Encoder::new(Compression::Zstd(3)).unwrap().encode(&hard);
        assert_eq!((encoded.codec, encoded.bytes), (Codec::None, hard));
    }
}
