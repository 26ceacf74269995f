//! Image records: a name, its history and where its bytes lie. Changed by CAS only.

use crate::{
    CheckpointId, ImageName,
    clock::Timestamp,
    types::{MapId, WriteId},
};

/// One checkpoint of an image's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Size of its disk in bytes, so that listing needs no other object.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The name, which the object's key only hashes.
    pub name: ImageName,
    /// Newest first, never empty. Every one is a root.
    pub history: Vec<HistoryEntry>,
    /// At most four image maps, newest first.
    pub maps: Vec<MapId>,
    /// Order of first touches at boot, if one was recorded: an object of its own.
    pub boot_trace: Option<MapId>,
    /// Raised by every writer that takes the name over.
    pub writer_epoch: u64,
    /// The attempt that wrote this version.
    pub write_id: WriteId,
}

impl ImageRecord {
    /// Most image maps an image names.
    pub const MAX_MAPS: usize = 4;
}
