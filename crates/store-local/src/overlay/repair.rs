//! Repair of a volume whose journal is damaged: what is whole of it counts from now on.
//!
//! The volume's own files are replaced as in a compaction: a new journal, synced, then the record that names it. The
//! damaged one is kept under another name, for whoever knows more; it goes with the volume.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use gabion_store_core::{Result, types::blocks_for};

use super::{
    RECORD, io_error,
    journal::Journal,
    layer::LocalLayer,
    read_record,
    record::{LayerFiles, VolumeRecord},
    remove_remnants, take_lock,
};
use crate::fs::{Fs, FsFileExt as _, OpenMode, replace};

/// Bytes that are copied at a time.
const PIECE: usize = 1 << 20;

/// A journal that was damaged, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedJournal {
    /// The damaged file.
    pub journal: PathBuf,
    /// Sequence numbers of the batches that are lost, if any is. What the flushes that wrote them had written, trimmed or zeroed
    /// may look as it did before them.
    pub lost: Vec<RangeInclusive<u64>>,
    /// Blocks of the disk that the others tell are data.
    pub blocks: u64,
    /// Where the damaged file is kept.
    pub kept_as: PathBuf,
}

/// Repairs the volume in `folder`; with `dry_run` says what would be done. What is not damaged is not touched.
/// Durable on success; a repair that was cut off is run again.
pub(super) fn repair(fs: &dyn Fs, folder: &Path, dry_run: bool) -> Result<Vec<SalvagedJournal>> {
    let name = read_record(fs, folder)?.info.name;
    let _lock = take_lock(fs, folder, &format!("volume '{name}'"))?;
    let mut record = read_record(fs, folder)?;
    let blocks = blocks_for(record.info.size);
    let mut salvaged = Vec::new();
    for n in 0..record.layers.len() {
        let files = record.layers[n];
        LocalLayer::check_data(fs, folder, files, blocks)?;
        let journal = folder.join(files.journal_name());
        let Some((states, lost)) = Journal::salvage(fs, &journal, files, blocks)? else { continue };
        let kept_as = folder.join(format!("damaged-{}", files.journal_name()));
        if !dry_run {
            copy(fs, &journal, &kept_as)?;
            record.next_number = record.next_number.max(remove_remnants(fs, folder, &record.layers)?);
            let number = record.next_number;
            record.next_number += 1;
            let mut renewed = LayerFiles { journal: number, ..files };
            let mut new = Journal::create(fs, folder.join(renewed.journal_name()), files.layer)?;
            new.fill(&states)?;
            renewed.batches = new.batches_held();
            new.file().sync_data().map_err(|e| io_error("syncing", new.path(), e))?;
            record.layers[n] = renewed;
            save(fs, folder, &record)?;
            fs.remove_file(&journal).map_err(|e| io_error("removing", &journal, e))?;
        }
        salvaged.push(SalvagedJournal { journal, lost, blocks: states.data_blocks(), kept_as });
    }
    Ok(salvaged)
}

/// Makes a record count that names new files.
fn save(fs: &dyn Fs, folder: &Path, record: &VolumeRecord) -> Result<()> {
    // The names must be durable before the record leads to them.
    fs.sync_dir(folder).map_err(|e| io_error("syncing", folder, e))?;
    let path = folder.join(RECORD);
    replace(fs, &path, &record.encode()?).map_err(|e| io_error("saving", &path, e))
}

/// Copies a file, durably but for its name. What an earlier copy left is overwritten.
fn copy(fs: &dyn Fs, from: &Path, to: &Path) -> Result<()> {
    let reading = |e| io_error("reading", from, e);
    let writing = |e| io_error("writing", to, e);
    let source = fs.open(from, OpenMode::Read).map_err(reading)?;
    let target = fs.open(to, OpenMode::Create).map_err(writing)?;
    let len = source.len().map_err(reading)?;
    target.set_len(len).map_err(writing)?;
    let mut piece = vec![0; len.min(PIECE as u64) as usize];
    let mut at = 0;
    while at < len {
        let piece = &mut piece[..(len - at).min(PIECE as u64) as usize];
        source.read_exact_at(piece, at).map_err(reading)?;
        target.write_all_at(piece, at).map_err(writing)?;
        at += piece.len() as u64;
    }
    target.sync_data().map_err(writing)
}
