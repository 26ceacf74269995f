//! Identifiers. A 32-byte id is a hash of content, a 16-byte id is random and never reused.

use std::{fmt, str::FromStr};

use crate::{Error, Result};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| {
                    Error::invalid(format!("'{text}' is no {} ({} hex digits)", stringify!($name), 2 * $len))
                })?;
                Ok(Self(bytes))
            }
        }
    };
}

macro_rules! random_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// A new one, from the operating system's randomness.
            pub fn random() -> Result<Self> {
                let mut bytes = [0; Self::LEN];
                crate::random::fill(&mut bytes)?;
                Ok(Self(bytes))
            }
        }
    )*};
}

macro_rules! entry_id {
    ($($name:ident),*) => {$(
        impl $name {
            /// The id as the key under which stores keep the entry.
            pub const fn as_chunk(&self) -> ChunkId {
                ChunkId(self.0)
            }
        }

        impl From<ChunkId> for $name {
            fn from(id: ChunkId) -> Self {
                Self(id.0)
            }
        }
    )*};
}

id!(
    /// Name of an entry in a store: for data, BLAKE3 of its uncompressed bytes; for nodes and
    /// checkpoints, the hash in their own domain (see [`id_of`](super::id_of)).
    ChunkId,
    32
);
id!(
    /// Name of an index node.
    NodeId,
    32
);
id!(
    /// Name of a checkpoint: the same in every store of one id domain.
    CheckpointId,
    32
);
id!(
    /// Name of a pack. Random, so that a late delete never hits a new upload.
    PackId,
    16
);
id!(
    /// Name of a locator.
    LocatorId,
    16
);
id!(
    /// Name of an image map.
    MapId,
    16
);
id!(
    /// Name of a store, from its descriptor.
    StoreId,
    16
);
id!(
    /// Name of a volume on this host.
    VolumeId,
    16
);
id!(
    /// Marks one attempt to write a mutable object, so that a writer recognises its own write.
    WriteId,
    16
);
random_id!(PackId, LocatorId, MapId, StoreId, VolumeId, WriteId);
entry_id!(NodeId, CheckpointId);

/// What an entry of a store is. The kind fixes the hash domain of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkKind {
    /// Disk content.
    Data = 0,
    /// An index node.
    Node = 1,
    /// A checkpoint.
    Checkpoint = 2,
}

impl ChunkKind {
    /// From its byte in a format.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Node),
            2 => Some(Self::Checkpoint),
            _ => None,
        }
    }
}
