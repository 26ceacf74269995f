//! Writing: entries are appended to an open pack, full packs are sealed in the background, and their
//! locators enter the catalog as soon as they and all earlier ones are durable.
//!
//! ```text
//! put ─► open pack ─► sealing (contents, trailer, sync ─► locator, sync) ─► queue (catalog) ─► live
//! ```
//!
//! Everything blocks and runs on blocking threads, so a caller that goes away stops nothing that others
//! rely on. An entry is *recent*, and found here first, from the moment its bytes are written until
//! its locator is live. What fails on the way to durability is tried again by the next sync; only a
//! failed sync of a pack's file loses entries, because the kernel may have dropped them: these are *lost*,
//! and every sync fails until they were stored again. Packs become live in the order they were written.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        codec::Encoded,
        layout::{self, PACKS},
        pack::{self, ENTRY_HEADER_LEN, EntryHeader, MAX_PACK_LEN, PackEntry},
        rows::EntryKey,
    },
    store::Placement,
    sync::{Mutex, RwLock},
    types::PackId,
};
use tokio::sync::watch;

use super::{folder::Folder, queue::Queue, seal::Sealing};
use crate::fs::{FsFile, FsFileExt as _, FsLock};

/// Longest write in bytes: large enough that the call itself costs nothing, small enough that the buffer
/// stays in the processor's cache.
const MAX_WRITE: usize = 1 << 20;
/// Entries after which a pack is full however small they are, so that its tables take little memory.
const MAX_ENTRIES: usize = 1 << 16;

/// A pack that is being written.
#[derive(Debug)]
pub(super) struct OpenPack {
    pub(super) id: PackId,
    /// Its place in the queue.
    pub(super) number: u64,
    pub(super) file: Arc<dyn FsFile>,
    pub(super) entries: Vec<PackEntry>,
    keys: HashSet<EntryKey>,
    /// One past the last whole entry; bytes behind it are of a write that failed.
    pub(super) len: u64,
    /// Held until the pack is sealed, so that a repair does not take it for one that a crash left behind.
    _lock: Box<dyn FsLock>,
}

/// Where entries are appended.
#[derive(Debug, Default)]
struct Front {
    pack: Option<OpenPack>,
    /// Kept from write to write: fresh memory costs the kernel more than the copy.
    buffer: Vec<u8>,
}

/// Jobs on their way to durability.
#[derive(Debug, Default)]
pub(super) struct Flight {
    next: u64,
    running: BTreeSet<u64>,
    /// Jobs that failed and can be tried again, with what they failed with.
    stuck: Vec<(Sealing, Error)>,
}

impl Flight {
    /// Enters a job; it leaves when the guard is dropped.
    fn enter(&mut self, writer: &Arc<Writer>, job: Sealing) -> Running {
        let number = self.next;
        self.next += 1;
        self.running.insert(number);
        Running { writer: writer.clone(), number, job: Some(job) }
    }
}

/// The writing half of a local store.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) folder: Folder,
    target: u64,
    /// Held while a batch is written: one writer at a time fills the page cache as fast as it goes.
    front: Mutex<Front>,
    recent: RwLock<HashMap<EntryKey, Placement>>,
    flight: Mutex<Flight>,
    pub(super) queue: Queue,
    finished: watch::Sender<()>,
}

/// An entry ready to be written.
pub(super) struct Prepared {
    header: EntryHeader,
    stored: Bytes,
}

impl Prepared {
    /// Checks an entry and computes its checksum.
    pub(super) fn new(key: EntryKey, entry: Encoded) -> Result<Self> {
        Ok(Self { header: EntryHeader::new(key, &entry)?, stored: entry.bytes })
    }

    /// The entry.
    pub(super) fn key(&self) -> EntryKey {
        self.header.key
    }

    fn len(&self) -> usize {
        ENTRY_HEADER_LEN + self.stored.len()
    }
}

impl Writer {
    /// A writer that begins a new pack once one has `target` bytes.
    pub(super) fn new(folder: Folder, target: u64) -> Self {
        Self {
            folder,
            target: target.min(MAX_PACK_LEN / 2),
            front: Mutex::default(),
            recent: RwLock::default(),
            flight: Mutex::default(),
            queue: Queue::default(),
            finished: watch::Sender::new(()),
        }
    }

    /// Where a recent entry lies.
    pub(super) fn recent(&self, key: &EntryKey) -> Option<Placement> {
        self.recent.read().get(key).copied()
    }

    /// Appends entries, none of them twice in the batch. Of those that someone else stored meanwhile the
    /// recent ones are left out here, the live ones by `absent`, which is asked once nobody else can append.
    /// After an error some of the entries may have been stored. Packs that became full are returned, to be
    /// sealed; a sync that begins meanwhile waits for them.
    pub(super) fn append(
        self: &Arc<Self>,
        mut entries: Vec<Prepared>,
        absent: impl FnOnce(Vec<Prepared>) -> Vec<Prepared>,
    ) -> (Vec<Running>, Result<()>) {
        let mut full = Vec::new();
        let mut front = self.front.lock();
        // Entries become live before they cease to be recent, hence this order.
        {
            let recent = self.recent.read();
            entries.retain(|entry| !recent.contains_key(&entry.key()));
        }
        let mut rest = VecDeque::from(absent(entries));
        while let Some(next) = rest.front() {
            // A pack holds an entry once: one that was found damaged in it goes into another.
            let closed = |pack: &mut OpenPack| self.is_full(pack) || pack.keys.contains(&next.key());
            full.extend(front.pack.take_if(closed).map(|pack| self.enter(pack)));
            if let Err(e) = self.append_some(&mut front, &mut rest) {
                return (full, Err(e));
            }
        }
        full.extend(front.pack.take_if(|pack| self.is_full(pack)).map(|pack| self.enter(pack)));
        (full, Ok(()))
    }

    fn is_full(&self, pack: &OpenPack) -> bool {
        pack.len >= self.target || pack.entries.len() >= MAX_ENTRIES
    }

    /// Writes entries off the front of `rest`, at least one, in one write into one pack.
    fn append_some(&self, front: &mut Front, rest: &mut VecDeque<Prepared>) -> Result<()> {
        let Front { pack: open, buffer } = front;
        buffer.clear();
        let mut placed: Vec<PackEntry> = Vec::new();
        let (start, count) =
            open.as_ref().map_or((pack::HEADER_LEN as u64, 0), |pack| (pack.len, pack.entries.len()));
        while let Some(next) = rest.pop_front_if(|next| {
            let full = start + buffer.len() as u64 >= self.target
                || count + placed.len() >= MAX_ENTRIES
                || buffer.len() + next.len() > MAX_WRITE;
            let there = open.as_ref().is_some_and(|pack| pack.keys.contains(&next.key()));
            buffer.is_empty() || !(full || there)
        }) {
            placed.push(PackEntry::at(&next.header, start + buffer.len() as u64));
            buffer.extend_from_slice(&next.header.encode());
            buffer.extend_from_slice(&next.stored);
        }
        let pack = match open {
            Some(pack) => pack,
            None => open.insert(self.begin()?),
        };
        let written = pack.file.write_all_at(buffer, pack.len);
        written.map_err(|e| self.folder.error("writing", &layout::pack_key(&pack.id), e))?;
        pack.len += buffer.len() as u64;
        self.accept(pack, &placed);
        pack.keys.extend(placed.iter().map(|entry| entry.key));
        pack.entries.extend(placed);
        Ok(())
    }

    fn accept(&self, pack: &OpenPack, placed: &[PackEntry]) {
        self.recent.write().extend(placed.iter().map(|entry| (entry.key, placement(pack.id, entry))));
        self.queue.accepted(pack.number, placed.iter().map(|entry| entry.key));
    }

    /// Makes a new pack's file at its place. Nothing refers to it before its locator is live.
    fn begin(&self) -> Result<OpenPack> {
        let id = PackId::random()?;
        let key = layout::pack_key(&id);
        self.folder.make_dir(pack_folder(&key))?;
        // Makes the file, too.
        let lock = self.folder.lock_pack(&key)?;
        let file = self.folder.open_to_write(&key)?;
        if let Err(e) = file.write_all_at(&pack::encode_header(&id), 0) {
            self.folder.remove_quietly(&key);
            return Err(self.folder.error("writing", &key, e));
        }
        let (number, len) = (self.queue.begin(), pack::HEADER_LEN as u64);
        Ok(OpenPack { id, number, file, entries: Vec::new(), keys: HashSet::new(), len, _lock: lock })
    }

    /// Takes whatever is not durable and not under way, for a sync: what failed before, and the open pack.
    pub(super) fn take_rest(self: &Arc<Self>) -> Vec<Running> {
        let mut jobs: Vec<Running> = {
            let mut flight = self.flight.lock();
            let stuck = std::mem::take(&mut flight.stuck);
            stuck.into_iter().map(|(job, _)| flight.enter(self, job)).collect()
        };
        let mut front = self.front.lock();
        jobs.extend(front.pack.take().map(|pack| self.enter(pack)));
        jobs
    }

    /// Forgets a recent entry that was found damaged in `pack`, so that it can be stored again.
    pub(super) fn forget(&self, key: &EntryKey, pack: PackId) {
        let mut recent = self.recent.write();
        if recent.get(key).is_some_and(|placement| placement.pack == pack) {
            recent.remove(key);
        }
    }

    /// Entries of `pack` are found through its locator from now on.
    pub(super) fn now_live(&self, pack: PackId, entries: &[PackEntry]) {
        let mut recent = self.recent.write();
        for entry in entries {
            if recent.get(&entry.key).is_some_and(|placement| placement.pack == pack) {
                recent.remove(&entry.key);
            }
        }
    }

    /// A pack is gone with its entries: its file could not be made durable.
    pub(super) fn lose(&self, pack: &OpenPack, why: &Error) {
        let mut recent = self.recent.write();
        let here = |key: &EntryKey| recent.get(key).is_some_and(|placement| placement.pack == pack.id);
        let lost: Vec<EntryKey> = pack.entries.iter().map(|entry| entry.key).filter(here).collect();
        for key in &lost {
            recent.remove(key);
        }
        self.queue.lose(pack.number, lost.into_iter(), why);
    }

    /// Enters a pack that is open no more. The caller holds the front: a sync must see an entry's pack either
    /// open or under way.
    fn enter(self: &Arc<Self>, pack: OpenPack) -> Running {
        self.flight.lock().enter(self, Sealing::new(pack))
    }

    /// Number of jobs under way.
    pub(super) fn running(&self) -> usize {
        self.flight.lock().running.len()
    }

    /// Waits until every job that is under way now has ended, in success or not.
    pub(super) async fn wait(&self) {
        let mut finished = self.finished.subscribe();
        let until = self.flight.lock().next;
        while self.flight.lock().running.first().is_some_and(|oldest| *oldest < until) {
            // The sender lives as long as `self`.
            let _ = finished.changed().await;
        }
    }

    /// The error that a sync reports, if anything accepted is not durable.
    pub(super) fn fault(&self) -> Result<()> {
        let flight = self.flight.lock();
        if let Some((_, e)) = flight.stuck.first() {
            return Err(e.clone().context("what was stored is not durable yet: sync again"));
        }
        drop(flight);
        self.queue.fault()
    }
}

/// A job under way.
#[derive(Debug)]
pub(super) struct Running {
    writer: Arc<Writer>,
    number: u64,
    job: Option<Sealing>,
}

impl Running {
    /// Does one attempt at the job. A failed one is kept for the next sync.
    pub(super) fn run(mut self, attempt: impl FnOnce(&mut Sealing) -> Result<()>) -> Result<()> {
        let Some(mut job) = self.job.take() else { return Ok(()) };
        let done = attempt(&mut job);
        if let Err(e) = &done
            && !job.is_lost()
        {
            self.writer.flight.lock().stuck.push((job, e.clone()));
        }
        done
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut flight = self.writer.flight.lock();
        // Never begun: the runtime is shutting down.
        if let Some(job) = self.job.take() {
            let e = Error::new(ErrorKind::Cancelled, "the program ended before a pack was sealed");
            flight.stuck.push((job, e));
        }
        flight.running.remove(&self.number);
        drop(flight);
        self.writer.finished.send_replace(());
    }
}

/// The placement of an entry of `pack`.
pub(super) fn placement(pack: PackId, entry: &PackEntry) -> Placement {
    Placement {
        pack,
        offset: entry.offset,
        stored_len: entry.stored_len,
        raw_len: entry.raw_len,
        codec: entry.codec,
    }
}

/// The folder of a pack's key.
pub(super) fn pack_folder(key: &str) -> &str {
    key.rsplit_once('/').map_or(PACKS, |(folder, _)| folder)
}
