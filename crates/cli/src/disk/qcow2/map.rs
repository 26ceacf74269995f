//! The two tables of a qcow2 image: where each run of its disk lies in the file.

use gabion_store_core::{Error, Result};
use gabion_store_local::disk_file::HostFile;

use super::header::{Fields, Header};

/// Bits of an entry that are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster is used by this entry alone; says nothing to readers.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// Reads as zeros (version 3 without subclusters).
const ZERO: u64 = 1 << 0;
/// Subclusters of a cluster.
const SUBCLUSTERS: u64 = 32;

/// What a run of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Zero,
    /// The bytes at this offset of the file.
    Data(u64),
    /// A cluster, in at most `length` bytes from `offset` on.
    Compressed {
        offset: u64,
        length: u64,
    },
}

/// Looks up runs of the disk, best in ascending order: one second-level table is in memory.
#[derive(Debug)]
pub(super) struct Map {
    header: Header,
    l1: Vec<u8>,
    /// The table that was read last, and its index.
    l2: Option<(u64, Vec<u8>)>,
}

impl Map {
    /// Reads the first-level table.
    pub(super) fn read(file: &HostFile, header: Header) -> Result<Self> {
        // The header's check has bounded it, by 32 MiB and by the file.
        let mut l1 = vec![0; header.l1_entries * 8];
        file.read_exact_at(&mut l1, header.l1_offset)?;
        let map = Self { header, l1, l2: None };
        let tables = (0..header.l1_entries).filter(|index| map.l1_entry(*index) & OFFSET != 0).count() as u64;
        // Each table has a cluster of its own, so an image can't make a reader do more than its length allows.
        if tables > file.size() / header.cluster() {
            return Err(corrupt(file, "maps more tables than it has clusters"));
        }
        Ok(map)
    }

    fn l1_entry(&self, index: usize) -> u64 {
        Fields(&self.l1).u64(index * 8)
    }

    /// What the byte at `at` is, and how many bytes from there on are alike, at least 1; `at` is within the
    /// disk. A compressed run ends with its cluster, and the target is that of the whole cluster.
    pub(super) fn find(&mut self, file: &HostFile, at: u64) -> Result<(Target, u64)> {
        let per_table = self.header.bytes_per_l2();
        let table = at / per_table;
        let end = (table + 1).saturating_mul(per_table).min(self.header.size);
        if !self.load(file, table)? {
            return Ok((Target::Zero, end - at));
        }
        let (target, mut length) = self.find_unit(file, at)?;
        // Units that continue the run are taken in: fewer and larger reads.
        while at + length < end && !matches!(target, Target::Compressed { .. }) {
            let (next, more) = self.find_unit(file, at + length)?;
            let continues = match (target, next) {
                (Target::Zero, Target::Zero) => true,
                (Target::Data(offset), Target::Data(next)) => next == offset + length,
                _ => false,
            };
            if !continues {
                break;
            }
            length += more;
        }
        Ok((target, length.min(end - at)))
    }

    /// Brings a second-level table into memory; false if there is none.
    fn load(&mut self, file: &HostFile, table: u64) -> Result<bool> {
        if self.l2.as_ref().is_some_and(|(index, _)| *index == table) {
            return Ok(true);
        }
        let entry = self.l1_entry(table as usize);
        let offset = entry & OFFSET;
        let cluster = self.header.cluster();
        if entry & !(OFFSET | COPIED) != 0 || !offset.is_multiple_of(cluster) {
            return Err(corrupt(file, &format!("has a bad entry {table} in its first-level table")));
        }
        if offset == 0 {
            return Ok(false);
        }
        if !inside(file, offset, cluster) {
            return Err(corrupt(
                file,
                &format!("ends before its second-level table {table}: is it cut short?"),
            ));
        }
        let mut bytes = self.l2.take().map_or_else(|| vec![0; cluster as usize], |(_, bytes)| bytes);
        file.read_exact_at(&mut bytes, offset)?;
        self.l2 = Some((table, bytes));
        Ok(true)
    }

    /// What `at` is, and how many bytes are left of its cluster or subcluster. The table is in memory.
    fn find_unit(&self, file: &HostFile, at: u64) -> Result<(Target, u64)> {
        let Header { cluster_bits, extended, version, .. } = self.header;
        let cluster = self.header.cluster();
        let bad = |what: &str| corrupt(file, &format!("has a bad mapping of byte {at}: {what}"));
        let Some((_, table)) = &self.l2 else { return Err(bad("no table")) };
        let index = (at % self.header.bytes_per_l2()) >> cluster_bits;
        let place = (index * self.header.l2_entry_len()) as usize;
        let entry = Fields(table).u64(place);
        let inner = at % cluster;
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            let sectors = ((entry & !(COMPRESSED | COPIED)) >> offset_bits) + 1;
            if offset >= file.size() {
                return Err(bad("its cluster lies behind the end of the file: is it cut short?"));
            }
            // Counted in sectors, so the last one may reach past the file's end.
            let length = (sectors * 512 - offset % 512).min(file.size() - offset);
            return Ok((Target::Compressed { offset, length }, cluster - inner));
        }
        let offset = entry & OFFSET;
        let zero_bit = if version >= 3 && !extended { ZERO } else { 0 };
        if entry & !(OFFSET | COPIED | zero_bit) != 0 || !offset.is_multiple_of(cluster) {
            return Err(bad("unknown bits"));
        }
        let (is_data, length) = if extended {
            let unit = cluster / SUBCLUSTERS;
            let (sub, bitmap) = (inner / unit, Fields(table).u64(place + 8));
            let (allocated, zero) = (bitmap >> sub & 1 != 0, bitmap >> (32 + sub) & 1 != 0);
            if allocated && (zero || offset == 0) {
                return Err(bad("a subcluster that contradicts itself"));
            }
            (allocated, unit - inner % unit)
        } else {
            (offset != 0 && entry & zero_bit == 0, cluster - inner)
        };
        if !is_data {
            return Ok((Target::Zero, length));
        }
        let length = length.min(self.header.size - at);
        if !inside(file, offset + inner, length) {
            return Err(bad("its cluster lies behind the end of the file: is it cut short?"));
        }
        Ok((Target::Data(offset + inner), length))
    }
}

fn inside(file: &HostFile, offset: u64, length: u64) -> bool {
    offset <= file.size() && length <= file.size() - offset
}

pub(super) fn corrupt(file: &HostFile, what: &str) -> Error {
    Error::corrupt(format!("{} {what} (qemu-img check tells more)", file.path().display()))
}
