//! qcow2 images as disks to import: a strict reader.
//!
//! Stricter than QEMU where an import must be: what lies behind the end of the file is `Corrupt`, where QEMU
//! reads zeros; backing and data files are never opened, since an image may name any file of the host.
//! Memory is bounded by the first-level table (at most 32 MiB, and by the file's length) and three clusters.

mod header;
mod map;

use std::{io::Read, path::Path};

use gabion_store_core::{
    Result,
    chunking::{DiskSource, Next},
};
use gabion_store_local::disk_file::HostFile;
use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF},
};

use header::{Compression, Header};
use map::{Map, Target, corrupt};

/// log2 of the largest window of a zstd frame: no cluster is larger.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The disk of a qcow2 image: versions 2 and 3, with subclusters, compressed by deflate or zstd. Internal
/// snapshots are passed over.
///
/// **Errors**: `Corrupt` for what can't be a valid image; `Conflict` if the file changed before the end.
#[derive(Debug)]
pub struct Qcow2File {
    file: HostFile,
    header: Header,
    map: Map,
    at: u64,
    /// What `at` is in, and how much of it is left.
    run: Option<(Target, u64)>,
    /// Bytes of data read so far, uncompressed ones.
    data: u64,
    packed: Vec<u8>,
    /// The compressed cluster that was read last, unpacked.
    cluster: Vec<u8>,
}

impl Qcow2File {
    /// Opens an image. The file is locked as by [`HostFile::open`], so that an image that a VM runs on is
    /// refused.
    ///
    /// **Errors**: those of [`HostFile::open`]; `Conflict` for an image that was not closed; `Corrupt` for a
    /// bad one and one that is marked so; `Unsupported` for a layer on a backing file, an external data
    /// file, encryption and unknown features; `Invalid` for a disk that is too large. Each says what to do.
    pub fn open(path: &Path) -> Result<Self> {
        Self::new(HostFile::open(path)?)
    }

    /// As [`open`](Self::open), for a file that is open already.
    pub fn new(file: HostFile) -> Result<Self> {
        let header = Header::read(&file)?;
        let map = Map::read(&file, header)?;
        Ok(Self { file, header, map, at: 0, run: None, data: 0, packed: Vec::new(), cluster: Vec::new() })
    }

    /// The run that `at` is in, with what is left of it.
    fn run(&mut self) -> Result<(Target, u64)> {
        if let Some(run) = self.run {
            return Ok(run);
        }
        let (target, length) = self.map.find(&self.file, self.at)?;
        match target {
            Target::Zero => {}
            Target::Data(_) => {
                self.data += length;
                if self.data > self.file.size() {
                    return Err(corrupt(&self.file, "maps one cluster more than once"));
                }
            }
            Target::Compressed { offset, length } => self.unpack(offset, length)?,
        }
        self.run = Some((target, length));
        Ok((target, length))
    }

    fn unpack(&mut self, offset: u64, length: u64) -> Result<()> {
        self.packed.resize(length as usize, 0);
        self.file.read_exact_at(&mut self.packed, offset)?;
        self.cluster.resize(self.header.cluster() as usize, 0);
        let whole = match self.header.compression {
            Compression::Deflate => inflate(&self.packed, &mut self.cluster),
            Compression::Zstd => unzstd(&self.packed, &mut self.cluster),
        };
        if whole {
            return Ok(());
        }
        Err(corrupt(&self.file, &format!("has a compressed cluster at {offset} that can't be unpacked")))
    }

    /// Goes on by so many bytes of the run.
    fn advance(&mut self, target: Target, left: u64, by: u64) {
        self.at += by;
        let target = match target {
            Target::Data(offset) => Target::Data(offset + by),
            other => other,
        };
        self.run = (left > by).then_some((target, left - by));
    }
}

impl DiskSource for Qcow2File {
    fn size(&self) -> Option<u64> {
        Some(self.header.size)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        if self.at == self.header.size {
            self.file.check()?;
            return Ok(Next::End);
        }
        let (target, left) = self.run()?;
        let length = left.min(buf.len() as u64) as usize;
        let next = match target {
            Target::Zero => {
                self.advance(target, left, left);
                return Ok(Next::Zero(left));
            }
            Target::Data(offset) => {
                self.file.read_exact_at(&mut buf[..length], offset)?;
                Next::Data(length)
            }
            Target::Compressed { .. } => {
                let inner = (self.at % self.header.cluster()) as usize;
                buf[..length].copy_from_slice(&self.cluster[inner..inner + length]);
                Next::Data(length)
            }
        };
        self.advance(target, left, length as u64);
        Ok(next)
    }
}

/// Fills `to`, exactly. What follows the stream is the rest of its last sector.
fn inflate(packed: &[u8], to: &mut [u8]) -> bool {
    let mut inflater = DecompressorOxide::new();
    let (status, _, written) =
        decompress(&mut inflater, packed, to, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    matches!(status, TINFLStatus::Done | TINFLStatus::HasMoreOutput) && written == to.len()
}

/// Fills `to`, exactly.
fn unzstd(packed: &[u8], to: &mut [u8]) -> bool {
    zstd::stream::read::Decoder::with_buffer(packed).is_ok_and(|decoder| {
        let mut decoder = decoder.single_frame();
        decoder.window_log_max(ZSTD_WINDOW_LOG).is_ok() && decoder.read_exact(to).is_ok()
    })
}
