//! The 28 bytes before every request of the transmission phase.

use super::{Fields, REQUEST_MAGIC, Violation, join};

/// A request as it came from the wire: nothing in it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// See [`cmd_flag`](super::cmd_flag).
    pub flags: u16,
    /// See [`cmd`](super::cmd).
    pub command: u16,
    /// Chosen by the client and handed back; opaque.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes; for a write, what follows on the wire.
    pub length: u32,
}

impl Request {
    /// Length of the header in bytes.
    pub const LEN: usize = 28;

    /// Decodes a header; a wrong magic number is a violation.
    #[inline]
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        let magic = fields.u32();
        let rest = (fields.u16(), fields.u16(), fields.u64(), fields.u64(), fields.u32());
        match (magic, rest) {
            (Some(REQUEST_MAGIC), (Some(flags), Some(command), Some(cookie), Some(offset), Some(length))) => {
                Ok(Self { flags, command, cookie, offset, length })
            }
            _ => Err(Violation("a request does not begin with its magic number")),
        }
    }

    /// Encodes a header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &REQUEST_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_round_trip(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
            let request = Request { flags, command, cookie, offset, length };
            prop_assert_eq!(Request::parse(&request.encode()), Ok(request));
        }

        #[test]
        fn no_bytes_panic(bytes: [u8; Request::LEN]) {
            let _ = Request::parse(&bytes);
        }
    }

    #[test]
    fn golden_read() {
        let read = Request { flags: 4, command: 0, cookie: 0x0102_0304_0506_0708, offset: 4096, length: 512 };
        let bytes = b"\x25\x60\x95\x13\x00\x04\x00\x00\x01\x02\x03\x04\x05\x06\x07\x08\
                      \x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x02\x00";
        assert_eq!(&read.encode(), bytes);
    }
}
