//! The NBD protocol as bytes: numbers and pure codecs, in both directions, without a socket.
//!
//! Every decoder works on a slice, allocates no more than that slice's length accounts for, and answers
//! bad bytes with an error. Names follow the protocol document (`doc/proto.md` of the NBD project), and
//! all integers are big-endian.

pub mod option;
pub mod reply;
pub mod request;

use std::fmt;

/// Longest string of the protocol (names, queries, descriptions, error messages), in bytes.
pub const MAX_STRING: usize = 4096;

/// First eight bytes of a server.
pub const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle server, and the beginning of every option.
pub const IHAVEOPT: u64 = 0x4948_4156_454f_5054;
/// Beginning of every reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Beginning of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Beginning of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Beginning of a chunk of a structured reply.
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: fixed newstyle is spoken.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zeros behind the answer to `EXPORT_NAME` may be left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;

/// Numbers of the options of a handshake.
pub mod opt {
    /// Chooses an export and ends the handshake; the answer can't say no.
    pub const EXPORT_NAME: u32 = 1;
    /// Ends the session.
    pub const ABORT: u32 = 2;
    /// Lists the exports.
    pub const LIST: u32 = 3;
    /// Asks for TLS.
    pub const STARTTLS: u32 = 5;
    /// Asks about an export.
    pub const INFO: u32 = 6;
    /// Chooses an export and ends the handshake.
    pub const GO: u32 = 7;
    /// Asks for structured replies.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Lists metadata contexts.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Selects metadata contexts.
    pub const SET_META_CONTEXT: u32 = 10;
    /// Asks for 32-byte headers.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of replies to options.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// One export of a list.
    pub const SERVER: u32 = 2;
    /// One piece of information about an export.
    pub const INFO: u32 = 3;
    /// One metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// The option is not known.
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    /// The option is malformed.
    pub const ERR_INVALID: u32 = 0x8000_0003;
    /// There is no such export.
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    /// The option is too long.
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// Types of information about an export.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// Canonical name.
    pub const NAME: u16 = 1;
    /// Text for people.
    pub const DESCRIPTION: u16 = 2;
    /// Block sizes.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export is and can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Nothing can be written.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is understood.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// `FUA` is understood, on every command.
    pub const SEND_FUA: u16 = 1 << 3;
    /// `TRIM` is understood.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` is understood, with `NO_HOLE`.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// `DF` is understood.
    pub const SEND_DF: u16 = 1 << 7;
    /// Several connections see one disk, and a flush on one covers all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `CACHE` is understood.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// `FAST_ZERO` is understood.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Commands of the transmission phase.
pub mod cmd {
    /// Reads.
    pub const READ: u16 = 0;
    /// Writes; its payload follows the header.
    pub const WRITE: u16 = 1;
    /// Ends the session.
    pub const DISC: u16 = 2;
    /// Makes durable what was answered before.
    pub const FLUSH: u16 = 3;
    /// Discards.
    pub const TRIM: u16 = 4;
    /// Prefetches.
    pub const CACHE: u16 = 5;
    /// Zeroes.
    pub const WRITE_ZEROES: u16 = 6;
    /// Asks for allocation.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod cmd_flag {
    /// Durable before it is answered.
    pub const FUA: u16 = 1 << 0;
    /// `WRITE_ZEROES`: stay allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// `READ`: one content chunk.
    pub const DF: u16 = 1 << 2;
    /// `BLOCK_STATUS`: one extent.
    pub const REQ_ONE: u16 = 1 << 3;
    /// `WRITE_ZEROES`: fast or not at all.
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Types of chunks of a structured reply, and the flag of the last one.
pub mod chunk {
    /// Flag: no chunk follows.
    pub const DONE: u16 = 1 << 0;
    /// Nothing.
    pub const NONE: u16 = 0;
    /// Offset and data.
    pub const OFFSET_DATA: u16 = 1;
    /// Context and extents.
    pub const BLOCK_STATUS: u16 = 5;
    /// Errno and message.
    pub const ERROR: u16 = 0x8001;
}

/// The metadata context of allocation.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// `base:allocation`: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation`: reads as zeros.
pub const STATE_ZERO: u32 = 1 << 1;

/// Bytes after which a peer can't be followed any more: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Violation {}

/// Takes big-endian fields off the front of a slice; `None` when it is too short.
#[derive(Debug)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Writes consecutive fields into an array whose length is their sum.
fn join<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut joined = [0; N];
    let mut at = 0;
    for field in fields {
        joined[at..at + field.len()].copy_from_slice(field);
        at += field.len();
    }
    debug_assert_eq!(at, N, "the fields fill the array");
    joined
}
