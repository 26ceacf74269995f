//! The header of a qcow2 image: what it says, and what of it is refused.
//!
//! Normative: `docs/interop/qcow2.rst` of QEMU. All numbers are big-endian.

use gabion_store_core::{Error, ErrorKind, Result, types::MAX_DISK_SIZE};
use gabion_store_local::disk_file::HostFile;

/// Length of version 2's header, and the start of version 3's own part.
const V2_LEN: usize = 72;
/// Least length of version 3's header.
const V3_LEN: usize = 104;
/// Cluster sizes that QEMU knows: 512 bytes to 2 MiB.
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
/// Smallest clusters that have subclusters: 16 KiB.
const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
/// Longest first-level table that QEMU opens, in bytes.
const MAX_L1_LEN: u64 = 32 * 1024 * 1024;
/// Longest name of a backing file.
const MAX_NAME_LEN: usize = 1023;

const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

/// Header extension that names the data file.
const DATA_FILE_NAME: u32 = 0x4441_5441;

/// How compressed clusters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Deflate,
    Zstd,
}

/// What is needed of a header to read the image's disk; all of it checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    /// Size of the disk in bytes.
    pub(super) size: u64,
    pub(super) l1_offset: u64,
    /// Entries of the first-level table that the disk needs.
    pub(super) l1_entries: usize,
    pub(super) compression: Compression,
    /// Clusters are 32 subclusters each, and second-level entries 16 bytes.
    pub(super) extended: bool,
}

impl Header {
    /// Reads and checks the header of an image.
    ///
    /// **Errors**: `Corrupt`, `Unsupported`, `Conflict` for an image that was not closed; each says what to do.
    pub(super) fn read(file: &HostFile) -> Result<Self> {
        let name = file.path().display();
        let mut bytes = [0; V3_LEN + 8];
        let length = file.size().min(bytes.len() as u64) as usize;
        if length < V2_LEN {
            return Err(Error::corrupt(format!("{name} ends inside its qcow2 header")));
        }
        file.read_exact_at(&mut bytes[..length], 0)?;
        let fields = Fields(&bytes);
        let version = fields.u32(4);
        let header_len = match version {
            2 => V2_LEN,
            3 => fields.u32(100) as usize,
            other => {
                return Err(unsupported(format!("{name} is qcow2 of version {other}, known are 2 and 3")));
            }
        };
        let cluster_bits = fields.u32(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return Err(Error::corrupt(format!("{name} has clusters of 2^{cluster_bits} bytes")));
        }
        let cluster = 1_u64 << cluster_bits;
        if version == 3 && (length < V3_LEN || !(V3_LEN as u64..=cluster).contains(&(header_len as u64))) {
            return Err(Error::corrupt(format!("{name} has a qcow2 header of {header_len} bytes")));
        }
        let features = if version == 3 { fields.u64(72) } else { 0 };
        refuse_features(file, features, header_len, cluster)?;
        refuse_backing(file, &fields, cluster)?;
        match fields.u32(32) {
            0 => {}
            _ => {
                return Err(unsupported(format!(
                    "{name} is encrypted: decrypt it first (qemu-img convert with the image's secret)"
                )));
            }
        }
        let extended = features & EXTENDED_L2 != 0;
        if extended && cluster_bits < MIN_EXTENDED_CLUSTER_BITS {
            return Err(Error::corrupt(format!("{name} has subclusters in clusters of {cluster} bytes")));
        }
        let kind = if header_len > V3_LEN { bytes[V3_LEN] } else { 0 };
        let compression = match (features & COMPRESSION != 0, kind) {
            (false, 0) => Compression::Deflate,
            (true, 1) => Compression::Zstd,
            (_, other) => return Err(unsupported(format!("{name} has compression of type {other}"))),
        };
        let mut header = Self {
            version,
            cluster_bits,
            size: fields.u64(24),
            l1_offset: fields.u64(40),
            l1_entries: 0,
            compression,
            extended,
        };
        header.l1_entries = header.needed_l1_entries(file, fields.u32(36))?;
        Ok(header)
    }

    /// Entries that the disk needs, of the `there` that the image has.
    fn needed_l1_entries(&self, file: &HostFile, there: u32) -> Result<usize> {
        let name = file.path().display();
        if self.size > MAX_DISK_SIZE {
            return Err(Error::invalid(format!("{name} is a disk of {} bytes, too large", self.size)));
        }
        let needed = self.size.div_ceil(self.bytes_per_l2());
        let length = needed.saturating_mul(8);
        if length > MAX_L1_LEN {
            return Err(Error::invalid(format!(
                "{name} is a disk of {} bytes in clusters of {}, which is more than QEMU opens",
                self.size,
                self.cluster()
            )));
        }
        if needed > u64::from(there)
            || !self.l1_offset.is_multiple_of(self.cluster())
            || self.l1_offset > file.size()
            || length > file.size() - self.l1_offset
        {
            return Err(Error::corrupt(format!(
                "{name} has a first-level table that is too short, or lies outside the file"
            )));
        }
        Ok(needed as usize)
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of a second-level entry.
    pub(super) fn l2_entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of disk that one second-level table maps.
    pub(super) fn bytes_per_l2(&self) -> u64 {
        (self.cluster() / self.l2_entry_len()) << self.cluster_bits
    }
}

fn refuse_features(file: &HostFile, features: u64, header_len: usize, cluster: u64) -> Result<()> {
    let name = file.path().display();
    if features & CORRUPT != 0 {
        return Err(Error::corrupt(format!(
            "{name} is marked as corrupt: repair a copy of it first (qemu-img check -r all)"
        )));
    }
    if features & DIRTY != 0 {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{name} was not closed by what wrote to it: stop its VM, or repair it (qemu-img check -r all)"
            ),
        ));
    }
    if features & DATA_FILE != 0 {
        let data_file = data_file_name(file, header_len as u64, cluster)?;
        return Err(unsupported(format!(
            "{name} keeps its data in another file ({data_file}), which is not followed: put both into one \
             file first (qemu-img convert -O qcow2)"
        )));
    }
    let unknown = features & !(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2);
    if unknown != 0 {
        return Err(unsupported(format!("{name} needs features of qcow2 that are not known: {unknown:#x}")));
    }
    Ok(())
}

fn refuse_backing(file: &HostFile, fields: &Fields<'_>, cluster: u64) -> Result<()> {
    let offset = fields.u64(8);
    if offset == 0 {
        return Ok(());
    }
    let backing = text(file, offset, fields.u32(16), cluster)?;
    Err(unsupported(format!(
        "{} is a layer on top of {backing}, which is not followed: flatten it first \
         (qemu-img convert -O qcow2)",
        file.path().display()
    )))
}

/// The name in the data-file extension, for a message.
fn data_file_name(file: &HostFile, mut at: u64, cluster: u64) -> Result<String> {
    let end = cluster.min(file.size());
    while at + 8 <= end {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)?;
        let (kind, length) = (Fields(&bytes).u32(0), Fields(&bytes).u32(4));
        match kind {
            0 => break,
            DATA_FILE_NAME => return text(file, at + 8, length, cluster),
            _ => at += 8 + u64::from(length).next_multiple_of(8),
        }
    }
    Ok("unnamed".into())
}

/// A file name in the first cluster, quoted: it comes from whoever made the image.
fn text(file: &HostFile, offset: u64, length: u32, cluster: u64) -> Result<String> {
    let (end, length) = (cluster.min(file.size()), length as usize);
    if length > MAX_NAME_LEN || offset > end || length as u64 > end - offset {
        return Err(Error::corrupt(format!(
            "{} names another file outside its first cluster",
            file.path().display()
        )));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(format!("{:?}", String::from_utf8_lossy(&bytes)))
}

fn unsupported(message: String) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

/// Big-endian numbers at places that the caller knows to be there.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn u32(&self, at: usize) -> u32 {
        self.0[at..at + 4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}
