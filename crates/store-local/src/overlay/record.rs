//! `record`: what a volume is and which files its disk consists of. The volume's only commit point.
//!
//! Bytes: `docs/format.md`, *Volume record*. The file is replaced as a whole, never changed in place.

#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use gabion_store_core::{
    CheckpointId, Error, ImageName, Result,
    clock::Timestamp,
    format::{
        features::Features,
        wire::{Reader, Writer},
    },
    types::{MAX_DISK_SIZE, VolumeId},
};

/// Newest version of the record that this library knows.
pub const RECORD_VERSION: u16 = 1;
/// Longest record in bytes; a longer file is no record.
pub(super) const MAX_RECORD_LEN: u64 = 64 << 10;
/// Most layers: one that takes writes and eight that wait for their checkpoint.
pub const MAX_LAYERS: usize = 9;

/// Feature that may be ignored: behind the layers, the record says how many batches each one's journal has.
const BATCHES: u64 = 1;

const MAGIC: &[u8; 8] = b"GABNVOL\0";
const WHAT: &str = "the volume's record";
/// Longest URL, path or file name in a record, in bytes.
const MAX_TEXT: usize = 4096;

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo {
    /// Its identity; pins in stores are owned by it.
    pub id: VolumeId,
    /// Its name on this host.
    pub name: ImageName,
    /// Size of its disk in bytes.
    pub size: u64,
    /// The checkpoint below its layers; `None` for a disk that was empty.
    pub base: Option<CheckpointId>,
    /// URL of the store that holds the base and receives checkpoints; without secrets.
    pub home: String,
    /// The file below its layers and its base, while that is not ingested.
    pub lazy_base: Option<LazyBase>,
    /// The image it came from.
    pub lineage: Option<ImageName>,
    /// When it was made.
    pub created: Timestamp,
}

/// A disk image outside every store whose content is not ingested yet, and how to tell that it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LazyBase {
    /// Where it was found.
    pub path: PathBuf,
    /// Device number of the file.
    pub device: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Time of modification, in nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    /// Time of the inode's last change, in nanoseconds since the Unix epoch.
    pub ctime_ns: i64,
    /// Format of the file, as whoever reads it numbers them.
    pub format: u8,
    /// Name of a private copy in the volume's folder, if one was made: a plain file name.
    pub private_copy: Option<String>,
}

/// Files of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFiles {
    /// Number of the layer, never used again.
    pub layer: u64,
    /// Number of its journal, of the same sequence.
    pub journal: u64,
    /// So many batches, at least, were durable in the journal when the record was saved. If it has fewer it is damaged.
    pub batches: u64,
}

impl LayerFiles {
    /// Name of the file that holds the blocks.
    pub(super) fn data_name(&self) -> String {
        format!("layer-{}.data", self.layer)
    }

    /// Name of the journal.
    pub(super) fn journal_name(&self) -> String {
        format!("layer-{}.{}.journal", self.layer, self.journal)
    }
}

/// The record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeRecord {
    /// What the volume is.
    pub info: VolumeInfo,
    /// Its layers, newest first: 1 to [`MAX_LAYERS`].
    pub layers: Vec<LayerFiles>,
    /// No file of a layer has this number or a higher one.
    pub next_number: u64,
}

impl VolumeRecord {
    /// The file's bytes. `Invalid` if a field is out of its bounds.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if let Some(why) = self.fault() {
            return Err(Error::invalid(format!("volume '{}' can't be recorded: {why}", self.info.name)));
        }
        let info = &self.info;
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features { ignore: BATCHES, ..Features::version(RECORD_VERSION) }.encode(&mut to);
        to.bytes(info.id.as_bytes()).str(info.name.as_str()).u64(info.size);
        encode_option(&mut to, info.base.as_ref(), |to, base| {
            to.bytes(base.as_bytes());
        });
        to.str(&info.home);
        encode_option(&mut to, info.lazy_base.as_ref(), |to, lazy| lazy.encode(to));
        encode_option(&mut to, info.lineage.as_ref(), |to, lineage| {
            to.str(lineage.as_str());
        });
        to.u64(info.created.0).u64(self.next_number).count(self.layers.len());
        for files in &self.layers {
            to.u64(files.layer).u64(files.journal);
        }
        for files in &self.layers {
            to.u64(files.batches);
        }
        Ok(to.seal())
    }

    /// Reads the file's bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new(WHAT, bytes);
        from.magic(MAGIC)?;
        // Before the checksum, so that a newer record is refused by its version.
        let features = Features::decode(&mut from, WHAT, RECORD_VERSION)?;
        features.check_write(WHAT)?;
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.take(MAGIC.len() + Features::LEN)?;
        let mut record = Self {
            info: VolumeInfo {
                id: VolumeId::from_bytes(from.array()?),
                name: decode_name(&mut from)?,
                size: from.u64()?,
                base: decode_option(&mut from, |from| Ok(CheckpointId::from_bytes(from.array()?)))?,
                home: from.str()?.to_owned(),
                lazy_base: decode_option(&mut from, LazyBase::decode)?,
                lineage: decode_option(&mut from, decode_name)?,
                created: Timestamp(from.u64()?),
            },
            next_number: from.u64()?,
            layers: {
                let count = from.count(16)?;
                (0..count)
                    .map(|_| Ok(LayerFiles { layer: from.u64()?, journal: from.u64()?, batches: 0 }))
                    .collect::<Result<_>>()?
            },
        };
        if features.ignore & BATCHES != 0 {
            for files in &mut record.layers {
                files.batches = from.u64()?;
            }
        }
        if features.ignore & !BATCHES == 0 {
            from.finish()?;
        }
        match record.fault() {
            None => Ok(record),
            Some(why) => Err(Error::corrupt(format!("{WHAT}: {why}"))),
        }
    }

    /// What no record may say.
    fn fault(&self) -> Option<&'static str> {
        let info = &self.info;
        let mut numbers: Vec<u64> =
            self.layers.iter().flat_map(|files| [files.layer, files.journal]).collect();
        numbers.sort_unstable();
        if info.size > MAX_DISK_SIZE {
            Some("the disk is larger than any can be")
        } else if info.home.len() > MAX_TEXT {
            Some("the home store's URL is longer than 4096 bytes")
        } else if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            Some("a volume has 1 to 9 layers")
        } else if !self.layers.is_sorted_by(|newer, older| newer.layer > older.layer) {
            Some("its layers are not in order")
        } else if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
            Some("a number names two files")
        } else if numbers.last().is_some_and(|&last| last >= self.next_number) {
            Some("a layer's number lies behind the next one")
        } else {
            info.lazy_base.as_ref().and_then(LazyBase::fault)
        }
    }
}

impl LazyBase {
    fn encode(&self, to: &mut Writer) {
        let path = self.path.as_os_str().as_bytes();
        to.u16(path.len() as u16).bytes(path);
        to.u64(self.device).u64(self.inode).u64(self.size);
        to.u64(self.mtime_ns.cast_unsigned()).u64(self.ctime_ns.cast_unsigned()).u8(self.format);
        encode_option(to, self.private_copy.as_ref(), |to, name| {
            to.str(name);
        });
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self> {
        let path_len = usize::from(from.u16()?);
        Ok(Self {
            path: PathBuf::from(OsStr::from_bytes(from.take(path_len)?)),
            device: from.u64()?,
            inode: from.u64()?,
            size: from.u64()?,
            mtime_ns: from.u64()?.cast_signed(),
            ctime_ns: from.u64()?.cast_signed(),
            format: from.u8()?,
            private_copy: decode_option(from, |from| Ok(from.str()?.to_owned()))?,
        })
    }

    fn fault(&self) -> Option<&'static str> {
        let plain = |name: &String| {
            name.len() <= 255 && Path::new(name).file_name() == Some(OsStr::new(name.as_str()))
        };
        if self.path.as_os_str().len() > MAX_TEXT {
            Some("the path of the base's file is longer than 4096 bytes")
        } else if !self.private_copy.as_ref().is_none_or(plain) {
            Some("the private copy of the base's file has no plain file name")
        } else {
            None
        }
    }
}

fn encode_option<T>(to: &mut Writer, value: Option<&T>, encode: impl FnOnce(&mut Writer, &T)) {
    to.u8(u8::from(value.is_some()));
    if let Some(value) = value {
        encode(to, value);
    }
}

fn decode_option<'a, T>(
    from: &mut Reader<'a>,
    decode: impl FnOnce(&mut Reader<'a>) -> Result<T>,
) -> Result<Option<T>> {
    match from.u8()? {
        0 => Ok(None),
        1 => decode(from).map(Some),
        other => Err(from.corrupt(format_args!("{other} where 0 or 1 tells whether a field is there"))),
    }
}

fn decode_name(from: &mut Reader<'_>) -> Result<ImageName> {
    let name = from.str()?;
    ImageName::new(name).map_err(|e| from.corrupt(e))
}
