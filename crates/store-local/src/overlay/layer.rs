//! One layer in files: blocks at their own offsets in a sparse file, their states in memory and, as of
//! the last flush, in a journal.
//!
//! The states decide what a block is, the file's bytes and holes never do. So a write becomes visible by
//! its mark, and a block that is marked zero may keep any bytes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{
    BLOCK_SIZE, BlockRange, Error, Result,
    overlay::{BlockState, BlockStates, Layer},
    sync::{Mutex, RwLock},
};

use super::{
    Health, io_error,
    journal::{Journal, room_for},
    missing,
    record::LayerFiles,
};
use crate::fs::{Fs, FsFile, FsFileExt as _, OpenMode};

/// A journal below this many bytes is never compacted.
const COMPACT_FROM: u64 = 4 << 20;

/// A layer. Locks are taken in the order journal, marks; no I/O happens under the marks.
#[derive(Debug)]
pub(super) struct LocalLayer {
    number: u64,
    path: PathBuf,
    data: Arc<dyn FsFile>,
    health: Arc<Health>,
    marks: RwLock<Marks>,
    journal: Mutex<Journal>,
    /// Held while the bytes are synced: the kernel tells of a failure once.
    syncing: Mutex<()>,
}

/// What is known of the blocks, and what of it is not durable yet.
#[derive(Debug)]
struct Marks {
    states: BlockStates,
    /// Blocks whose state changed since the last flush took them, with the state they now have.
    changed: BlockStates,
    /// Blocks that were data were written again: their bytes need a sync, their state no batch.
    overwritten: bool,
    room: Room,
    /// Bytes of the journal from which on a compaction is looked into.
    compact_at: u64,
}

/// Accounts of the journal's space, so that no flush runs out of it. In runs, as an upper bound.
#[derive(Debug, Default)]
struct Room {
    /// Runs of `changed`.
    owed: u64,
    /// Runs that a flush has taken and not yet counted in the journal.
    in_flight: u64,
    /// Writes that were let in and have not marked their blocks.
    accepted: u64,
    /// Bytes of the journal in use, and reserved.
    used: u64,
    reserved: u64,
}

impl Room {
    /// A mark adds a run and may cut another in two.
    const RUNS_PER_MARK: u64 = 2;

    fn needed(&self) -> u64 {
        self.used + room_for(self.in_flight) + room_for(self.owed + self.accepted * Self::RUNS_PER_MARK)
    }
}

/// What a flush has taken to make durable.
#[derive(Debug)]
pub(super) struct Captured {
    /// Changed blocks, with the states they had then.
    pub(super) changed: BlockStates,
    overwritten: bool,
    /// All states as of then, if the journal is due for compaction.
    pub(super) snapshot: Option<BlockStates>,
}

impl Captured {
    /// Whether bytes of the layer's file have to be synced.
    pub(super) fn has_data(&self) -> bool {
        self.overwritten || self.changed.data_blocks() > 0
    }
}

/// A write that was let in: its runs have their room in the journal.
struct Accepted<'a>(&'a LocalLayer);

impl Drop for Accepted<'_> {
    fn drop(&mut self) {
        self.0.marks.write().room.accepted -= 1;
    }
}

impl LocalLayer {
    /// Makes the files of an empty layer in `folder` and syncs them; the folder is the caller's to sync.
    /// After an error some of them may be there.
    pub(super) fn create(
        fs: &dyn Fs,
        folder: &Path,
        files: LayerFiles,
        blocks: u64,
        health: Arc<Health>,
    ) -> Result<Self> {
        let path = folder.join(files.data_name());
        let data = fs.open(&path, OpenMode::CreateNew).map_err(|e| io_error("making", &path, e))?;
        data.set_len(byte_len(blocks)).map_err(|e| io_error("setting the length of", &path, e))?;
        // The length must be durable before the record names the file: a short one counts as damaged.
        data.sync_data().map_err(|e| io_error("syncing", &path, e))?;
        let journal = Journal::create(fs, folder.join(files.journal_name()), files.layer)?;
        // So must the journal's header.
        journal.file().sync_data().map_err(|e| io_error("syncing", journal.path(), e))?;
        Ok(Self::new(files.layer, path, data, health, BlockStates::new(blocks), journal))
    }

    /// Opens and recovers a layer that the record names.
    pub(super) fn open(
        fs: &dyn Fs,
        folder: &Path,
        files: LayerFiles,
        blocks: u64,
        health: Arc<Health>,
    ) -> Result<Self> {
        let path = folder.join(files.data_name());
        let data = fs.open(&path, OpenMode::ReadWrite).map_err(|e| missing(&path, e))?;
        check_len(&*data, &path, blocks)?;
        // After a sync that failed memory may hold what the disk does not: look at the disk.
        data.drop_cache().map_err(|e| io_error("dropping the cache of", &path, e))?;
        let (journal, states) = Journal::open(fs, folder.join(files.journal_name()), files, blocks)?;
        // A killed process leaves writes in memory only. They are seen from now on, so the next flush must
        // cover them, and it would not know.
        data.sync_data().map_err(|e| io_error("syncing", &path, e))?;
        Ok(Self::new(files.layer, path, data, health, states, journal))
    }

    /// Looks at the files of a layer, which may be in use, and changes nothing. `Corrupt` if they are damaged, as
    /// far as that can be told: the bytes of blocks have no checksum.
    pub(super) fn check(fs: &dyn Fs, folder: &Path, files: LayerFiles, blocks: u64) -> Result<()> {
        Self::check_data(fs, folder, files, blocks)?;
        Journal::check(fs, &folder.join(files.journal_name()), files, blocks)
    }

    /// `Corrupt` if the file with the blocks is not there, or was cut.
    pub(super) fn check_data(fs: &dyn Fs, folder: &Path, files: LayerFiles, blocks: u64) -> Result<()> {
        let path = folder.join(files.data_name());
        let data = fs.open(&path, OpenMode::Read).map_err(|e| missing(&path, e))?;
        check_len(&*data, &path, blocks)
    }

    fn new(
        number: u64,
        path: PathBuf,
        data: Arc<dyn FsFile>,
        health: Arc<Health>,
        states: BlockStates,
        journal: Journal,
    ) -> Self {
        let changed = BlockStates::new(states.blocks());
        let room = Room { used: journal.end(), reserved: journal.reserved(), ..Room::default() };
        let marks = Marks { states, changed, overwritten: false, room, compact_at: COMPACT_FROM };
        let (marks, journal) = (RwLock::new(marks), Mutex::new(journal));
        Self { number, path, data, health, marks, journal, syncing: Mutex::default() }
    }

    /// Number of the layer in the record.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Makes the file hold the blocks of a larger disk, durably.
    pub(super) fn grow_file(&self, blocks: u64) -> Result<()> {
        self.data.set_len(byte_len(blocks)).map_err(|e| io_error("setting the length of", &self.path, e))?;
        self.sync_data()
    }

    /// Lets in blocks that the file holds by now.
    pub(super) fn grow_states(&self, blocks: u64) {
        let mut marks = self.marks.write();
        marks.states.grow(blocks);
        marks.changed.grow(blocks);
    }

    /// Makes the bytes of the blocks durable. A failure poisons the volume.
    pub(super) fn sync_data(&self) -> Result<()> {
        let _alone = self.syncing.lock();
        // Whoever was told of it before may have asked for another reason.
        self.health.check()?;
        self.data.sync_data().map_err(|e| self.health.poison(io_error("syncing", &self.path, e)))
    }

    /// Lets a write in, once the journal has room for what it may add. `NoSpace` changes nothing.
    fn accept(&self) -> Result<Accepted<'_>> {
        self.health.check()?;
        let enough = {
            let mut marks = self.marks.write();
            marks.room.accepted += 1;
            marks.room.needed() <= marks.room.reserved
        };
        let accepted = Accepted(self);
        if !enough {
            let mut journal = self.journal.lock();
            let needed = {
                let mut marks = self.marks.write();
                // The bound counts marks; blocks that were marked over and over are fewer runs.
                marks.room.owed = marks.changed.count_runs();
                marks.room.needed()
            };
            let reserved = journal.reserve(needed);
            self.marks.write().room.reserved = journal.reserved();
            reserved?;
        }
        Ok(accepted)
    }

    /// How many batches of its journal are durable.
    pub(super) fn batches(&self) -> u64 {
        self.journal.lock().batches_held()
    }

    /// Takes what is to be made durable; `None` if nothing changed since the last time.
    pub(super) fn capture(&self) -> Option<Captured> {
        let mut marks = self.marks.write();
        if marks.changed.is_empty() && !marks.overwritten {
            return None;
        }
        let snapshot = marks.compaction_is_due().then(|| marks.states.clone());
        marks.room.in_flight = std::mem::take(&mut marks.room.owed);
        Some(Captured {
            changed: marks.changed.take(),
            overwritten: std::mem::take(&mut marks.overwritten),
            snapshot,
        })
    }

    /// Puts back what could not be made durable. Marks that were set since are newer and win.
    pub(super) fn restore(&self, captured: &Captured) {
        let mut marks = self.marks.write();
        marks.changed.fill_from(&captured.changed);
        marks.overwritten |= captured.overwritten;
        marks.room.owed += std::mem::take(&mut marks.room.in_flight);
    }

    /// Journals what was captured. Its bytes are synced.
    pub(super) fn append(&self, captured: &Captured) -> Result<()> {
        let (file, batches) = {
            let journal = self.journal.lock();
            (journal.file(), journal.batches(&captured.changed))
        };
        for batch in batches {
            self.journal.lock().write(&batch)?;
            // What the batch says, its bytes synced before, becomes durable here. Writers may reserve space
            // meanwhile, so the journal is not held.
            file.sync_data()
                .map_err(|e| self.health.poison(io_error("syncing the journal of", &self.path, e)))?;
            self.journal.lock().advance(&batch);
        }
        self.settle(&self.journal.lock());
        Ok(())
    }

    /// Writes `snapshot` into `new`, lets `commit` make it, with so many batches, the layer's journal, and goes on
    /// with it. An error
    /// leaves the old one in force, or the volume poisoned. Gives the old one back.
    pub(super) fn switch_journal(
        &self,
        mut new: Journal,
        snapshot: &BlockStates,
        commit: impl FnOnce(u64) -> Result<()>,
    ) -> Result<Journal> {
        new.fill(snapshot)?;
        // From here on no writer reserves space; those let in already fit into what the old one has left.
        let mut journal = self.journal.lock();
        new.reserve(new.end() + (journal.reserved() - journal.end()))?;
        new.file().sync_data().map_err(|e| self.health.poison(io_error("syncing", new.path(), e)))?;
        commit(new.batches_held())?;
        let old = std::mem::replace(&mut *journal, new);
        self.settle(&journal);
        self.marks.write().compact_at = COMPACT_FROM.max(4 * journal.end());
        Ok(old)
    }

    /// Closes the account of a flush that succeeded.
    fn settle(&self, journal: &Journal) {
        let mut marks = self.marks.write();
        marks.room.in_flight = 0;
        marks.room.used = journal.end();
        marks.room.reserved = journal.reserved();
    }

    /// Marks blocks. Whether any that were data no longer are.
    fn mark(&self, range: BlockRange, state: BlockState) -> bool {
        let mut marks = self.marks.write();
        if marks.states.first_run(range) == (state, range.end) {
            // The journal has the state, or a flush or `changed` owes it. Zeros need nothing more.
            marks.overwritten |= state == BlockState::Data;
            return false;
        }
        let before = marks.states.data_blocks();
        marks.states.set(range, state);
        marks.changed.set(range, state);
        marks.room.owed += Room::RUNS_PER_MARK;
        marks.states.data_blocks() < before
    }
}

impl Marks {
    /// Whether the journal is far longer than its content needs.
    fn compaction_is_due(&mut self) -> bool {
        if self.room.used + room_for(self.room.owed) < self.compact_at {
            return false;
        }
        // A run takes a quarter of its bound at most times, so this is some four times the compact size.
        let bound = room_for(self.states.count_runs());
        self.compact_at = COMPACT_FROM.max(bound);
        self.room.used >= self.compact_at
    }
}

impl Layer for LocalLayer {
    fn first_run(&self, range: BlockRange) -> (BlockState, u64) {
        self.marks.read().states.first_run(range)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        match self.data.try_read_exact_at(buf, offset) {
            Ok(None) => None,
            Ok(Some(())) => Some(Ok(())),
            Err(e) => Some(Err(io_error("reading", &self.path, e))),
        }
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.data.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::corrupt(format!("{} was cut while in use: {e}", self.path.display()))
            }
            _ => io_error("reading", &self.path, e),
        })
    }

    fn write(&self, first: u64, data: &[u8]) -> Result<()> {
        debug_assert!(data.len().is_multiple_of(BLOCK_SIZE), "layers take whole blocks");
        let range = BlockRange::new(first, first + (data.len() / BLOCK_SIZE) as u64);
        if range.is_empty() {
            return Ok(());
        }
        let _accepted = self.accept()?;
        self.data.write_all_at(data, range.byte_start()).map_err(|e| {
            // Some of it may have gone over blocks that are data, and is seen from now on.
            self.marks.write().overwritten = true;
            io_error("writing", &self.path, e)
        })?;
        // Only now: a block in the changed set has its bytes where the next sync finds them.
        self.mark(range, BlockState::Data);
        Ok(())
    }

    fn zero(&self, range: BlockRange) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let _accepted = self.accept()?;
        // First the mark: a reader sees the old bytes or zeros, and never depends on the hole.
        let frees = self.mark(range, BlockState::Zero);
        if frees && let Err(error) = self.data.punch_hole(range.byte_start(), range.byte_len()) {
            tracing::debug!(path = %self.path.display(), %error, "a trimmed range keeps its space");
        }
        Ok(())
    }

    fn runs(&self, from: u64, max: usize) -> Vec<(BlockRange, BlockState)> {
        self.marks.read().states.runs(from, max)
    }

    fn data_blocks(&self) -> u64 {
        self.marks.read().states.data_blocks()
    }
}

/// `Corrupt` if the file ends before the disk does.
fn check_len(data: &dyn FsFile, path: &Path, blocks: u64) -> Result<()> {
    let len = data.len().map_err(|e| io_error("asking for the length of", path, e))?;
    if len < byte_len(blocks) {
        return Err(Error::corrupt(format!(
            "{} has {len} bytes where the disk has {}: it was cut",
            path.display(),
            byte_len(blocks)
        )));
    }
    Ok(())
}

fn byte_len(blocks: u64) -> u64 {
    blocks * BLOCK_SIZE as u64
}
