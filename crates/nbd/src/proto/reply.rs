//! Replies of the transmission phase: simple ones, and the chunks of structured ones.

use super::{CHUNK_MAGIC, Fields, SIMPLE_REPLY_MAGIC, Violation, chunk, join};
use crate::errno::Errno;

/// Longest error message that is sent, in bytes.
pub const MAX_MESSAGE: usize = 256;

/// A simple reply. The data of a successful read follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0 or an NBD error number.
    pub error: u32,
    /// The request's cookie.
    pub cookie: u64,
}

impl SimpleReply {
    /// Length in bytes.
    pub const LEN: usize = 16;

    /// Decodes a reply; a wrong magic number is a violation.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        match (fields.u32(), fields.u32(), fields.u64()) {
            (Some(SIMPLE_REPLY_MAGIC), Some(error), Some(cookie)) => Ok(Self { error, cookie }),
            _ => Err(Violation("a simple reply does not begin with its magic number")),
        }
    }

    /// Encodes a reply.
    #[inline]
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(&[&SIMPLE_REPLY_MAGIC.to_be_bytes(), &self.error.to_be_bytes(), &self.cookie.to_be_bytes()])
    }
}

/// What stands before the payload of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// [`chunk::DONE`] or 0.
    pub flags: u16,
    /// See [`chunk`].
    pub kind: u16,
    /// The request's cookie.
    pub cookie: u64,
    /// Length of the payload in bytes.
    pub length: u32,
}

impl ChunkHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 20;

    /// Decodes a header; a wrong magic number is a violation.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        match (fields.u32(), fields.u16(), fields.u16(), fields.u64(), fields.u32()) {
            (Some(CHUNK_MAGIC), Some(flags), Some(kind), Some(cookie), Some(length)) => {
                Ok(Self { flags, kind, cookie, length })
            }
            _ => Err(Violation("a chunk does not begin with its magic number")),
        }
    }

    /// Encodes a header.
    #[inline]
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &CHUNK_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

/// Length of what stands before the data in the only chunk of a read: header and offset.
pub const READ_PREFIX: usize = ChunkHeader::LEN + 8;

/// What stands before the data in the only chunk of a read of `length` bytes, at most 4 GiB - 9.
#[inline]
pub fn read_prefix(cookie: u64, offset: u64, length: u32) -> [u8; READ_PREFIX] {
    let header = ChunkHeader { flags: chunk::DONE, kind: chunk::OFFSET_DATA, cookie, length: length + 8 };
    join(&[&header.encode(), &offset.to_be_bytes()])
}

/// A structured reply of one chunk without payload.
pub fn empty(cookie: u64) -> [u8; ChunkHeader::LEN] {
    ChunkHeader { flags: chunk::DONE, kind: chunk::NONE, cookie, length: 0 }.encode()
}

/// A structured reply of one error chunk; the message is cut to [`MAX_MESSAGE`] bytes.
pub fn error(cookie: u64, errno: Errno, message: &str) -> Vec<u8> {
    let message = &message[..message.floor_char_boundary(MAX_MESSAGE)];
    let header =
        ChunkHeader { flags: chunk::DONE, kind: chunk::ERROR, cookie, length: 6 + message.len() as u32 };
    let length = (message.len() as u16).to_be_bytes();
    [&header.encode()[..], &(errno as u32).to_be_bytes(), &length, message.as_bytes()].concat()
}

/// A structured reply of one block-status chunk: extents of length in bytes and state, for one context.
pub fn block_status(cookie: u64, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let length = 4 + 8 * extents.len() as u32;
    let header = ChunkHeader { flags: chunk::DONE, kind: chunk::BLOCK_STATUS, cookie, length };
    let mut reply = [&header.encode()[..], &context.to_be_bytes()].concat();
    for (length, state) in extents {
        reply.extend_from_slice(&length.to_be_bytes());
        reply.extend_from_slice(&state.to_be_bytes());
    }
    reply
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_round_trip(error: u32, cookie: u64, flags: u16, kind: u16, length: u32) {
            let simple = SimpleReply { error, cookie };
            prop_assert_eq!(SimpleReply::parse(&simple.encode()), Ok(simple));
            let chunk = ChunkHeader { flags, kind, cookie, length };
            prop_assert_eq!(ChunkHeader::parse(&chunk.encode()), Ok(chunk));
        }

        #[test]
        fn no_bytes_panic(simple: [u8; 16], chunk: [u8; 20]) {
            let _ = (SimpleReply::parse(&simple), ChunkHeader::parse(&chunk));
        }

        #[test]
        fn errors_say_their_own_length(cookie: u64, message: String) {
            let reply = error(cookie, Errno::Io, &message);
            let header = ChunkHeader::parse(reply.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(header.length as usize, reply.len() - ChunkHeader::LEN);
            prop_assert!(reply.len() <= ChunkHeader::LEN + 6 + MAX_MESSAGE);
            let text = &reply[ChunkHeader::LEN + 6..];
            prop_assert!(message.starts_with(std::str::from_utf8(text).unwrap()));
        }
    }

    #[test]
    fn golden_block_status() {
        let reply = block_status(7, 1, &[(4096, 3)]);
        let bytes = b"\x66\x8e\x33\xef\x00\x01\x00\x05\x00\x00\x00\x00\x00\x00\x00\x07\x00\x00\x00\x0c\
                      \x00\x00\x00\x01\x00\x00\x10\x00\x00\x00\x00\x03";
        assert_eq!(reply, bytes);
    }
}
