//! Reading a journal back after anything may have happened to it.
//!
//! Batches are applied in order. Where the next one is missing or bad, one of two things happened. Either
//! a crash tore the last flush, which then was never acknowledged: its remains are dropped. Or the disk
//! lost bytes that were durable. A batch of a higher sequence further on tells the two apart, since it is
//! begun only after the one before it was synced: then the journal is `Corrupt`, and nothing is changed. So it is if
//! there are fewer batches than the volume's record knows of.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{Error, ErrorKind, Result, overlay::BlockStates};

use super::{
    HEADER_LEN, Header, Journal, SECTOR,
    codec::{BatchHead, apply_payload},
    salvage,
    scan::{Scan, WINDOW},
};
use crate::{
    fs::{FsFile, FsFileExt as _},
    overlay::{io_error, record::LayerFiles},
};

/// A sector that was reserved and not used.
const ZEROS: [u8; SECTOR as usize] = [0; SECTOR as usize];

pub(super) fn recover(
    file: Arc<dyn FsFile>,
    path: PathBuf,
    files: LayerFiles,
    blocks: u64,
) -> Result<(Journal, BlockStates)> {
    let mut scan = Scan::new(&*file, &path)?;
    let Found { header, states, end, sequence, dirty, .. } = scan.all(files, blocks)?;
    let reserved = (scan.len - scan.len % SECTOR).max(end);
    if let Some(dirty) = dirty {
        scan.zero(end, dirty)?;
    }
    // What was replayed may stand in memory only, if a process was killed between its write and its sync.
    file.sync_data().map_err(|e| io_error("syncing", &path, e))?;
    Ok((Journal { file, path, header, sequence, end, reserved }, states))
}

/// Reads a journal and changes nothing. `Corrupt` also for damage that recovery has no need to look at.
pub(super) fn inspect(file: &dyn FsFile, path: &Path, files: LayerFiles, blocks: u64) -> Result<()> {
    let mut scan = Scan::new(file, path)?;
    let found = scan.all(files, blocks)?;
    match found.padding {
        None => Ok(()),
        Some(at) => Err(Error::corrupt(format!(
            "{} is damaged at {at}, between two batches, where it harms nothing yet",
            path.display()
        ))),
    }
}

/// Whether recovery takes a journal as it is; changes nothing.
pub(super) fn takes(file: &dyn FsFile, path: &Path, files: LayerFiles, blocks: u64) -> Result<bool> {
    match Scan::new(file, path)?.all(files, blocks) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::Corrupt => Ok(false),
        Err(e) => Err(e),
    }
}

/// What a journal holds.
struct Found {
    header: Header,
    states: BlockStates,
    /// Where its last batch ends, and the sequence number behind that.
    end: u64,
    sequence: u64,
    /// Where the remains of a torn flush end, if there are any behind that.
    dirty: Option<u64>,
    /// A batch whose padding is not zero.
    padding: Option<u64>,
}

impl Scan<'_> {
    fn all(&mut self, files: LayerFiles, blocks: u64) -> Result<Found> {
        let header = self.header(files.layer)?;
        let mut states = BlockStates::new(blocks);
        let (mut end, mut sequence, mut padding) = (HEADER_LEN, 1, None);
        while let Some(batch) = self.batch(&header, end, sequence, &mut states)? {
            if padding.is_none() && !self.is_zero(end + batch.end(), end + batch.stride())? {
                padding = Some(end);
            }
            end += batch.stride();
            sequence += 1;
        }
        let dirty = self.behind(&header, end, sequence, &states)?;
        if sequence <= files.batches {
            let why = format_args!("the volume's record knows of {} batches", files.batches);
            return Err(self.damaged(&header, end, sequence, why, &states));
        }
        Ok(Found { header, states, end, sequence, dirty, padding })
    }

    /// Applies the batch of `sequence` at `at`: its head, or `None` if there is no whole one.
    fn batch(
        &mut self,
        header: &Header,
        at: u64,
        sequence: u64,
        states: &mut BlockStates,
    ) -> Result<Option<BatchHead>> {
        let Some(head) = self.head(header, at)? else { return Ok(None) };
        if head.sequence != sequence {
            let found = head.sequence;
            return Err(self.corrupt(at, sequence, format_args!("batch {found} stands in its place")));
        }
        let Some(payload) = self.payload(&head, at)? else { return Ok(None) };
        apply_payload(&payload, states).map_err(|e| self.corrupt(at, sequence, e))?;
        Ok(Some(head))
    }

    /// Where what stands behind the last batch ends, if anything but zeros does. `Corrupt` if a later
    /// batch is among it.
    fn behind(
        &mut self,
        header: &Header,
        end: u64,
        sequence: u64,
        states: &BlockStates,
    ) -> Result<Option<u64>> {
        let mut dirty = None;
        let mut window = vec![0; self.len.saturating_sub(end).min(WINDOW as u64) as usize];
        let mut at = end;
        while at < self.len {
            let here = &mut window[..(self.len - at).min(WINDOW as u64) as usize];
            self.file.read_exact_at(here, at).map_err(|e| io_error("reading", self.path, e))?;
            for (sector, bytes) in here.chunks(SECTOR as usize).enumerate() {
                if *bytes == ZEROS[..bytes.len()] {
                    continue;
                }
                let offset = at + sector as u64 * SECTOR;
                match BatchHead::find(&header.nonce, bytes) {
                    Some(later) if later.sequence > sequence => {
                        let why = format_args!("batch {} was written after it", later.sequence);
                        return Err(self.damaged(header, end, sequence, why, states));
                    }
                    _ => dirty = Some(offset + bytes.len() as u64),
                }
            }
            at += here.len() as u64;
        }
        Ok(dirty)
    }

    /// The error of a batch that is damaged or gone: what there is before it, and what behind it is whole.
    fn damaged(
        &self,
        header: &Header,
        at: u64,
        sequence: u64,
        why: fmt::Arguments<'_>,
        states: &BlockStates,
    ) -> Error {
        let mut states = states.clone();
        let kept = match salvage::keep(self, header, at, sequence, &mut states) {
            Ok(kept) => kept,
            Err(error) => return error,
        };
        let (before, whole, blocks) = (sequence - 1, kept.whole, states.data_blocks());
        self.corrupt(
            at,
            sequence,
            format_args!(
                "it is damaged or gone, though {why}. Nothing was changed. A repair of the \
                 volume would keep {before} batches before it and {whole} behind, which tell of {blocks} blocks of \
                 data; which other blocks were written is not known any more"
            ),
        )
    }

    /// Zeroes what is dropped, so that no later batch is ever followed by remains of an earlier one.
    fn zero(&self, from: u64, to: u64) -> Result<()> {
        let zeros = vec![0; (to - from).min(WINDOW as u64) as usize];
        let mut at = from;
        while at < to {
            let len = (to - at).min(WINDOW as u64);
            self.file
                .write_all_at(&zeros[..len as usize], at)
                .map_err(|e| io_error("zeroing a torn end of", self.path, e))?;
            at += len;
        }
        Ok(())
    }
}
