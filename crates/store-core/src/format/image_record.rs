//! Image records: a name, its history and where its bytes lie. Changed by CAS only.

use crate::{
    CheckpointId, Error, ImageName, Result,
    clock::Timestamp,
    format::{
        features::Features,
        wire::{Reader, Writer},
    },
    types::{MAX_DISK_SIZE, MapId, WriteId},
};

const MAGIC: &[u8; 8] = b"GABIIMAG";
const WHAT: &str = "image record";
/// Newest format version of image records this library knows.
pub const IMAGE_RECORD_VERSION: u16 = 1;

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
    /// Drawn anew by every writer that takes the name over, and compared with nothing but itself; 0 if none has.
    pub writer_epoch: u64,
    /// The attempt that wrote this version.
    pub write_id: WriteId,
}

impl ImageRecord {
    /// Most image maps an image names.
    pub const MAX_MAPS: usize = 4;
    /// Most checkpoints in a history.
    pub const MAX_HISTORY: usize = 65_536;

    fn check(&self) -> Result<(), &'static str> {
        if self.history.is_empty() {
            return Err("its history is empty");
        }
        if self.history.len() > Self::MAX_HISTORY {
            return Err("its history has more than 65,536 checkpoints");
        }
        if self.history.iter().any(|entry| entry.size > MAX_DISK_SIZE) {
            return Err("a disk in its history is larger than any can be");
        }
        if self.maps.len() > Self::MAX_MAPS {
            return Err("it names more than four image maps");
        }
        if self.maps.iter().enumerate().any(|(n, map)| self.maps[..n].contains(map)) {
            return Err("it names an image map twice");
        }
        Ok(())
    }

    /// Encodes the record; what is out of bounds is `Invalid`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| {
            Error::invalid(format!("the record of image '{}' can't be written: {why}", self.name))
        })?;
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(IMAGE_RECORD_VERSION).encode(&mut to);
        to.bytes(self.write_id.as_bytes()).u64(self.writer_epoch).str(self.name.as_str());
        to.count(self.history.len());
        for entry in &self.history {
            to.bytes(entry.checkpoint.as_bytes()).u64(entry.size).u64(entry.created.0);
        }
        to.count(self.maps.len());
        for map in &self.maps {
            to.bytes(map.as_bytes());
        }
        to.count(usize::from(self.boot_trace.is_some()));
        if let Some(trace) = &self.boot_trace {
            to.bytes(trace.as_bytes());
        }
        Ok(to.seal())
    }

    /// Reads a record.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the image record", IMAGE_RECORD_VERSION)?;
        let write_id = WriteId::from_bytes(from.array()?);
        let writer_epoch = from.u64()?;
        let name = ImageName::new(from.str()?).map_err(|e| from.corrupt(e))?;
        let mut history = Vec::new();
        for _ in 0..from.count(48)? {
            let checkpoint = CheckpointId::from_bytes(from.array()?);
            history.push(HistoryEntry { checkpoint, size: from.u64()?, created: Timestamp(from.u64()?) });
        }
        let mut maps = Vec::new();
        for _ in 0..from.count(MapId::LEN)? {
            maps.push(MapId::from_bytes(from.array()?));
        }
        let boot_trace = match from.count(MapId::LEN)? {
            0 => None,
            1 => Some(MapId::from_bytes(from.array()?)),
            _ => return Err(from.corrupt("more than one boot trace")),
        };
        let record = Self { name, history, maps, boot_trace, writer_epoch, write_id };
        record.check().map_err(|why| from.corrupt(why))?;
        from.finish()?;
        Ok(record)
    }

    /// Whether this library may replace the encoded record; `Unsupported` if it has features that a writer
    /// must understand.
    pub fn check_write(bytes: &[u8]) -> Result<()> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the image record", IMAGE_RECORD_VERSION)?.check_write("the image record")
    }
}

#[cfg(test)]
mod tests;
