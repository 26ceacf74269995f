//! Little-endian fields, read and written with bounds.
//!
//! All integers of all formats are little-endian and of fixed width; a string is its length as `u16`
//! and its UTF-8 bytes; a sealed record ends with a CRC32C (RFC 3720, appendix B.4) of all before it.

use crate::{Error, Result};

/// Whether `bytes` have this CRC32C.
pub fn has_crc(bytes: &[u8], crc: u32) -> bool {
    trusted() || crc32c::crc32c(bytes) == crc
}

#[cfg(any(test, feature = "testing"))]
pub(crate) use crate::testing::checksums::trusted;

/// Whether every checksum counts as right, which only tests ask for.
#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn trusted() -> bool {
    false
}

/// Reads fields off the front of a slice; every method fails on a short slice with `Corrupt`.
#[derive(Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, calling them `what` in errors.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    /// Checks and takes off the CRC32C at the end of a sealed record.
    pub fn sealed(what: &'static str, bytes: &'a [u8]) -> Result<Self> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(Error::corrupt(format!("{what}: too short for its checksum")));
        };
        if !has_crc(body, u32::from_le_bytes(*crc)) {
            return Err(Error::corrupt(format!("{what}: checksum does not match")));
        }
        Ok(Self::new(what, body))
    }

    /// An error about the thing being read.
    pub fn corrupt(&self, why: impl std::fmt::Display) -> Error {
        Error::corrupt(format!("{}: {why}", self.what))
    }

    /// Bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.corrupt(format_args!("{len} bytes expected, {} left", self.rest.len())));
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A 16-bit integer.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// A 32-bit integer.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// A 64-bit integer.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number in LEB128: seven bits a byte, lowest first, in the shortest form.
    pub fn leb128(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(self.corrupt("a number is too long"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.corrupt("a number is too long"))
    }

    /// A string.
    pub fn str(&mut self) -> Result<&'a str> {
        let len = usize::from(self.u16()?);
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt("a string is not UTF-8"))
    }

    /// Number of elements that follow, as `u32`, checked against the bytes left: each element takes at
    /// least `least` bytes.
    pub fn count(&mut self, least: usize) -> Result<usize> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / least.max(1) {
            return Err(self.corrupt(format_args!("{count} elements can't fit in {} bytes", self.rest.len())));
        }
        Ok(count)
    }

    /// Checks a magic number.
    pub fn magic(&mut self, magic: &[u8; 8]) -> Result<()> {
        if self.take(8)? == magic {
            Ok(())
        } else {
            Err(self.corrupt("it does not begin with its magic number"))
        }
    }

    /// Checks that nothing is left.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.corrupt(format_args!("{} bytes too many", self.rest.len())))
        }
    }
}

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// A 16-bit integer.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A 32-bit integer.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A 64-bit integer.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// A number in LEB128: seven bits a byte, lowest first, in the shortest form.
    pub fn leb128(&mut self, mut value: u64) -> &mut Self {
        while value > 0x7f {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    /// A string of at most 65,535 bytes; the caller has checked the length.
    pub fn str(&mut self, text: &str) -> &mut Self {
        let len = u16::try_from(text.len()).expect("strings in records are checked to be short");
        self.u16(len).bytes(text.as_bytes())
    }

    /// A number of elements; the caller has checked that it fits.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("counts in records are checked to fit"))
    }

    /// `count` zero bytes.
    pub fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The buffer.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }

    /// The buffer, closed with a CRC32C of what it holds.
    pub fn seal(mut self) -> Vec<u8> {
        let crc = crc32c::crc32c(&self.0);
        self.u32(crc);
        self.0
    }
}
