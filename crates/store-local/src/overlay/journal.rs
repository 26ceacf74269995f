//! The journal of one layer: which of its blocks are data or zero, as of the last flush.
//!
//! Bytes: `docs/format.md`, *Journal*. A header sector, then batches that begin on sector boundaries,
//! each with the journal's nonce and a sequence number. A flush appends to space that was written with
//! zeros before ([`Journal::reserve`]), so that it needs no space and no allocation of its own.
//!
//! [`codec`] knows the bytes and [`scan`] finds them, [`recovery`] knows what may stand behind the last batch, [`salvage`]
//! what is whole of a journal that is damaged before that.

mod codec;
mod recovery;
mod salvage;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{Error, ErrorKind, Result, overlay::BlockStates, types::WriteId};

use super::{io_error, missing, record::LayerFiles};
use crate::fs::{Fs, FsFile, FsFileExt as _, OpenMode};
pub(super) use codec::room_for;
use codec::{HEADER_LEN, Header, SECTOR, encode_batches};

/// Space is reserved in steps of this many bytes.
const STEP: u64 = if cfg!(fuzzing) { 4 << 10 } else { 1 << 20 };
/// A journal of more bytes than this is none: compaction keeps it far below.
const MAX_LEN: u64 = 16 << 30;

/// An open journal.
///
/// Appending and reserving are not synchronised here: the layer orders them.
#[derive(Debug)]
pub(super) struct Journal {
    file: Arc<dyn FsFile>,
    path: PathBuf,
    header: Header,
    /// Sequence of the next batch.
    sequence: u64,
    /// Where the next batch begins.
    end: u64,
    /// Up to here the file holds bytes, zero behind `end`.
    reserved: u64,
}

impl Journal {
    /// Makes a journal with some space reserved. Nothing of it is synced.
    pub(super) fn create(fs: &dyn Fs, path: PathBuf, layer: u64) -> Result<Self> {
        let nonce = *WriteId::random()?.as_bytes();
        let file = fs.open(&path, OpenMode::CreateNew).map_err(|e| io_error("making", &path, e))?;
        let header = Header { nonce, layer };
        file.write_all_at(&header.encode(), 0).map_err(|e| io_error("writing", &path, e))?;
        let mut journal = Self { file, path, header, sequence: 1, end: HEADER_LEN, reserved: HEADER_LEN };
        journal.reserve(HEADER_LEN + 1)?;
        Ok(journal)
    }

    /// Opens a journal, gives what it says of the layer's blocks, and readies it for appending: whatever
    /// a crash left behind the last batch is zeroed and synced. `Corrupt` if batches are damaged, or gone, that a
    /// crash can't have damaged.
    pub(super) fn open(
        fs: &dyn Fs,
        path: PathBuf,
        files: LayerFiles,
        blocks: u64,
    ) -> Result<(Self, BlockStates)> {
        let file = fs.open(&path, OpenMode::ReadWrite).map_err(|e| missing(&path, e))?;
        // After a sync that failed memory may hold what the disk does not: look at the disk.
        file.drop_cache().map_err(|e| io_error("dropping the cache of", &path, e))?;
        recovery::recover(file, path, files, blocks)
    }

    /// Reads a journal, which may be in use, and changes nothing. `Corrupt` if anything durable in it is damaged.
    pub(super) fn check(fs: &dyn Fs, path: &Path, files: LayerFiles, blocks: u64) -> Result<()> {
        let file = fs.open(path, OpenMode::Read).map_err(|e| missing(path, e))?;
        recovery::inspect(&*file, path, files, blocks)
    }

    /// What the whole batches of a journal say, and the sequence numbers of those between them that are damaged.
    /// Changes nothing.
    pub(super) fn salvage(
        fs: &dyn Fs,
        path: &Path,
        files: LayerFiles,
        blocks: u64,
    ) -> Result<Option<(BlockStates, Vec<RangeInclusive<u64>>)>> {
        let file = fs.open(path, OpenMode::Read).map_err(|e| missing(path, e))?;
        let salvaged = salvage::salvage(&*file, path, files, blocks)?;
        Ok(salvaged.map(|(states, kept)| (states, kept.lost)))
    }

    /// Writes the batches that say `states` into a new journal, to be synced all at once: nothing names the file yet,
    /// so none can be taken for torn.
    pub(super) fn fill(&mut self, states: &BlockStates) -> Result<()> {
        for batch in self.batches(states) {
            self.write(&batch)?;
            self.advance(&batch);
        }
        Ok(())
    }

    /// The file's name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many batches it has, all of them durable.
    pub(super) fn batches_held(&self) -> u64 {
        self.sequence - 1
    }

    /// Where the next batch begins: the bytes in use.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Up to here space is reserved.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Writes zeros so that the file reaches `end`, and somewhat further. Durable with the next sync.
    /// `NoSpace` if the disk is full; the space that was had stays reserved.
    pub(super) fn reserve(&mut self, end: u64) -> Result<()> {
        if end > MAX_LEN {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{} would grow beyond {MAX_LEN} bytes", self.path.display()),
            ));
        }
        let zeros = vec![0; STEP as usize];
        while self.reserved < end {
            self.file
                .write_all_at(&zeros, self.reserved)
                .map_err(|e| io_error("reserving space in", &self.path, e))?;
            self.reserved += STEP;
        }
        Ok(())
    }

    /// Batches that say `states`, to be written, synced and counted one after the other: a batch may
    /// begin only once the one before it is durable, or recovery would take a torn flush for damage.
    pub(super) fn batches(&self, states: &BlockStates) -> Vec<Vec<u8>> {
        encode_batches(&self.header, self.sequence, states)
    }

    /// Writes a batch where the next one belongs. It counts once it is synced and
    /// [`advance`](Self::advance) was told; until then the next write goes to the same place.
    pub(super) fn write(&mut self, batch: &[u8]) -> Result<()> {
        self.file.write_all_at(batch, self.end).map_err(|e| io_error("appending to", &self.path, e))?;
        self.reserved = self.reserved.max(self.end + batch.len() as u64);
        Ok(())
    }

    /// Counts the batch that was written last.
    pub(super) fn advance(&mut self, batch: &[u8]) {
        self.sequence += 1;
        self.end += batch.len() as u64;
    }

    /// The file, for a sync during which the journal must not be held.
    pub(super) fn file(&self) -> Arc<dyn FsFile> {
        self.file.clone()
    }
}
