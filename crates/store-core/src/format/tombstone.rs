//! Tombstones: what stands in the place of an image's record once the image is removed, where objects can't be
//! deleted on condition. Also: what the object in an image's place is.

use super::{
    features::Features,
    image_record::ImageRecord,
    wire::{Reader, Writer},
};
use crate::{Error, ImageName, Result, types::WriteId};

const MAGIC: &[u8; 8] = b"GABITOMB";
const WHAT: &str = "tombstone";
/// Newest format version of tombstones this library knows.
pub const TOMBSTONE_VERSION: u16 = 1;

/// An image that was removed. Everyone takes it for no image; a new image of the name replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The name that is free again.
    pub name: ImageName,
    /// The attempt that wrote it.
    pub write_id: WriteId,
}

impl Tombstone {
    /// Encodes the tombstone.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(TOMBSTONE_VERSION).encode(&mut to);
        to.bytes(self.write_id.as_bytes()).str(self.name.as_str());
        to.seal()
    }

    /// Reads a tombstone.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the tombstone", TOMBSTONE_VERSION)?;
        let write_id = WriteId::from_bytes(from.array()?);
        let name = ImageName::new(from.str()?).map_err(|e| from.corrupt(e))?;
        from.finish()?;
        Ok(Self { name, write_id })
    }
}

/// The object in an image's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageObject {
    /// An image.
    Record(ImageRecord),
    /// There was one.
    Removed(Tombstone),
}

impl ImageObject {
    /// Reads the object, whichever it is.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(MAGIC) {
            Tombstone::decode(bytes).map(Self::Removed)
        } else {
            ImageRecord::decode(bytes).map(Self::Record)
        }
    }

    /// The name that it stands for.
    pub fn name(&self) -> &ImageName {
        match self {
            Self::Record(record) => &record.name,
            Self::Removed(tombstone) => &tombstone.name,
        }
    }

    /// The image, if it is one.
    pub fn record(self) -> Option<ImageRecord> {
        match self {
            Self::Record(record) => Some(record),
            Self::Removed(_) => None,
        }
    }

    /// As [`decode`](Self::decode), for the object whose key is `key`; one of another image is `Corrupt`.
    pub fn decode_at(key: &str, bytes: &[u8]) -> Result<Self> {
        let found = Self::decode(bytes)?;
        if super::layout::image_key(found.name()) == key {
            return Ok(found);
        }
        Err(Error::corrupt(format!("{key} is the record of '{}', whose place it is not", found.name())))
    }

    /// Whether this library may replace the encoded object; `Unsupported` if it has features that a writer must
    /// understand.
    pub fn check_write(bytes: &[u8]) -> Result<()> {
        if !bytes.starts_with(MAGIC) {
            return ImageRecord::check_write(bytes);
        }
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the tombstone", TOMBSTONE_VERSION)?.check_write("the tombstone")
    }
}

#[cfg(test)]
mod tests;
