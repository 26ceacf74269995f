//! [`LocalStore`]: a store in a folder, shared by any number of processes.
//!
//! Where it stands: below caches and verification, above [`Fs`]. Everything that touches the disk runs on
//! blocking threads, one hop per call, so dropping a future stops nothing that was begun.
//!
//! - `writer`, `seal`, `queue`: put ► open pack ► durable pack ► locator ► catalog
//! - `locators`, `merge`: which entries are live, and where
//! - `read`: entries out of packs
//! - `damaged`: entries that count as absent
//! - `records`: image records and catalog, by compare-and-swap under the store's lock
//! - `inspect`, `check`: what `du` and `check` ask
//! - `repair`, `closure`: locators and catalog made of what packs hold
//!
//! Invariant: nothing durable refers to bytes that are not.

mod check;
mod closure;
mod damaged;
mod destroy;
mod folder;
mod inspect;
mod locators;
mod merge;
mod queue;
mod read;
mod records;
mod repair;
mod seal;
#[cfg(test)]
mod tests;
mod traits;
mod writer;

use std::{collections::HashSet, path::Path, sync::Arc};

use gabion_store_core::{
    ChunkId, ChunkKind, Error, ErrorKind, Result, Store,
    blocking::spawn_blocking,
    clock::{Clock, SystemClock},
    format::{
        catalog::Catalog,
        codec::{Compression, Encoded, Encoder, MAX_RAW_LEN},
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        layout,
        rows::EntryKey,
    },
    store::{Placement, Version},
    sync::{Handle, Mutex},
    types::{PackId, WriteId},
};

pub use check::FilesReport;
pub use inspect::{DamagedEntry, PackReport, Usage};
pub use repair::{RepairOptions, RepairReport};

use damaged::{DAMAGED_KEY, Damaged};
use folder::Folder;
use locators::{Found, Locators};
use read::Packs;
use seal::Sealing;
use writer::{Prepared, Running, Writer};

use crate::fs::{Fs, folder_of};

/// Packs sealed in the background at most; a further one is sealed by whoever filled it.
const MAX_SEALING: usize = 2;

/// How a local store is used. Nothing here is stored in it.
#[derive(Clone, Debug)]
pub struct LocalStoreOptions {
    /// How entries are encoded that are put decoded.
    pub compression: Compression,
    /// Bytes after which a pack is sealed and a new one begun; at most 512 MiB.
    pub pack_target: u64,
    /// Bytes of memory for pages of locators.
    pub page_cache: usize,
    /// Tells the times that stand in records, for people.
    pub clock: Arc<dyn Clock>,
}

impl Default for LocalStoreOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            pack_target: 64 << 20,
            page_cache: 8 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A store in a folder. A clone is the same handle.
///
/// **Durability**: a put is durable after the next successful `sync`, together with what this handle
/// reported present. Full packs become durable and visible to other handles by themselves. Handles and
/// processes see each other's entries once these are durable.
///
/// **Errors**: `NoSpace` leaves the store good; what was accepted before stays readable through this handle
/// and becomes durable by a later `sync`, once there is space. After a failed `fsync` of a pack its entries
/// are gone, and every `sync` says so until they were put again.
///
/// **Crash**: leaves at most files that nothing refers to.
///
/// **Runtime**: the asynchronous methods need a tokio runtime.
#[derive(Clone, Debug)]
pub struct LocalStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    folder: Folder,
    descriptor: Descriptor,
    options: LocalStoreOptions,
    locators: Locators,
    packs: Packs,
    writer: Arc<Writer>,
    /// Entries found damaged, and in which pack: they count as absent until another pack holds them.
    damaged: Damaged,
    /// Oldest condemn generation under which an entry was said to be here.
    answered: Mutex<Option<u64>>,
    /// The catalog that is known to be durable.
    kept: Mutex<Option<Version>>,
    merging: Mutex<()>,
}

impl LocalStore {
    /// Makes a store in `dir`, which is made if it does not exist (its parent must), and opens it. A
    /// folder that holds a store already is `AlreadyExists`, one that lost its descriptor `Corrupt`, one that holds
    /// anything else `Invalid`. Blocks.
    pub fn init(fs: Arc<dyn Fs>, dir: &Path, clock: &dyn Clock) -> Result<Self> {
        make(&fs, dir, clock)?;
        Self::open(fs, dir)
    }

    /// Opens the store in `dir`. No such folder is `NotFound`, a folder without a store `Invalid`, one that lost its
    /// descriptor `Corrupt`, a newer format `Unsupported`. Blocks.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path) -> Result<Self> {
        Self::open_with(fs, dir, LocalStoreOptions::default())
    }

    /// As [`open`](Self::open), with options.
    pub fn open_with(fs: Arc<dyn Fs>, dir: &Path, options: LocalStoreOptions) -> Result<Self> {
        let folder = Folder::new(fs, dir);
        folder.require_folder()?;
        let Some(text) = folder.read(DESCRIPTOR_KEY, 1 << 20)? else {
            refuse_remains(&folder)?;
            return Err(if folder.exists("")? {
                Error::invalid(format!("{} is no store: make one with 'init'", dir.display()))
            } else {
                Error::not_found(format!("there is no store at {}: make one with 'init'", dir.display()))
            });
        };
        let descriptor = Descriptor::decode(&text).map_err(|e| match refuse_remains(&folder) {
            Err(remains)
                if remains.kind() == ErrorKind::Corrupt
                    && matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) =>
            {
                Error::with_source(ErrorKind::Corrupt, remains.to_string(), e)
            }
            _ => e.context(format!("store {}", dir.display())),
        })?;
        Encoder::new(options.compression)?;
        Ok(Self(Arc::new(Inner {
            locators: Locators::open(folder.clone(), options.page_cache)?,
            packs: Packs::new(folder.clone()),
            writer: Arc::new(Writer::new(folder.clone(), options.pack_target)),
            damaged: Damaged::open(folder.clone()),
            answered: Mutex::default(),
            kept: Mutex::default(),
            merging: Mutex::default(),
            folder,
            descriptor,
            options,
        })))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.0.folder.root()
    }

    /// Both halves of the store, for the layers above.
    pub fn into_store(self) -> Store {
        let this = Arc::new(self);
        Store { chunks: this.clone(), index: this }
    }
}

impl Inner {
    /// Places of entries in the order asked: recent ones first, then live ones.
    fn find(&self, live: &locators::Live, keys: &[EntryKey]) -> Vec<Found> {
        let mut found: Vec<Found> = keys.iter().map(|key| Ok(self.writer.recent(key))).collect();
        let mut rest: Vec<usize> = (0..keys.len()).filter(|&n| matches!(found[n], Ok(None))).collect();
        rest.sort_unstable_by_key(|&n| keys[n]);
        let sorted: Vec<EntryKey> = rest.iter().map(|&n| keys[n]).collect();
        for (n, place) in rest.into_iter().zip(self.locators.find(live, &sorted)) {
            found[n] = place;
        }
        found
    }

    /// Places of entries as of now: what is not found is asked again if the catalog changed meanwhile.
    fn find_now(&self, keys: &[EntryKey]) -> Result<Vec<Found>> {
        // Recent entries become live before they cease to be recent, so the live ones are taken after.
        let mut found = self.find(&self.locators.live(), keys);
        let missing: Vec<usize> = (0..keys.len()).filter(|&n| !matches!(found[n], Ok(Some(_)))).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let (live, _) = self.locators.reload()?;
        let again: Vec<EntryKey> = missing.iter().map(|&n| keys[n]).collect();
        for (n, place) in missing.into_iter().zip(self.find(&live, &again)) {
            found[n] = place;
        }
        Ok(found)
    }

    fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let places = match self.find_now(&keys) {
            Ok(places) => places,
            Err(e) => return vec![Err(e); ids.len()],
        };
        let mut results = self.read(&keys, &places);
        // A pack may have been replaced since its locator was read: then the new catalog says where.
        let failed: Vec<usize> = (0..keys.len())
            .filter(|&n| results[n].as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt))
            .collect();
        if failed.is_empty() {
            return results;
        }
        if let Ok((live, _)) = self.locators.reload() {
            let again: Vec<EntryKey> = failed.iter().map(|&n| keys[n]).collect();
            let new_places = self.find(&live, &again);
            let moved: Vec<usize> =
                (0..failed.len()).filter(|&m| placed(&new_places[m]) != placed(&places[failed[m]])).collect();
            let moved_keys: Vec<EntryKey> = moved.iter().map(|&m| again[m]).collect();
            let moved_places: Vec<Found> = moved.iter().map(|&m| new_places[m].clone()).collect();
            for (m, result) in moved.into_iter().zip(self.read(&moved_keys, &moved_places)) {
                results[failed[m]] = result;
            }
        }
        let damaged: Vec<_> = failed
            .into_iter()
            .filter(|&n| results[n].as_ref().is_err_and(|e| e.kind() == ErrorKind::Corrupt))
            .filter_map(|n| Some((keys[n], placed(&places[n])?.pack)))
            .collect();
        self.found_damaged(&damaged);
        results
    }

    /// As [`get_encoded`](Self::get_encoded), and what was found damaged once and is whole again is no more.
    fn get_stored(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let entries = self.get_encoded(kind, ids);
        for (id, entry) in ids.iter().zip(&entries) {
            let key = EntryKey::new(kind, *id);
            if self.damaged.knows(&key)
                && entry.as_ref().is_ok_and(|entry| entry.decode().is_ok())
                && let Some(place) = placed(&self.find(&self.locators.live(), &[key])[0])
            {
                self.damaged.remove(&[(key, place.pack)]);
            }
        }
        entries
    }

    fn read(&self, keys: &[EntryKey], places: &[Found]) -> Vec<Result<Encoded>> {
        let present: Vec<(EntryKey, Placement)> =
            keys.iter().zip(places).filter_map(|(key, place)| Some((*key, placed(place)?))).collect();
        let mut read = self.packs.read(&present).into_iter();
        let results = keys.iter().zip(places).map(|(key, place)| match place {
            Ok(Some(_)) => read.next().expect("one result per entry that has a place"),
            Ok(None) => {
                let store = self.folder.root().display();
                Err(Error::not_found(format!("entry {} is not in the store {store}", key.id)))
            }
            Err(e) => Err(e.clone()),
        });
        results.collect()
    }

    fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bytes::Bytes>> {
        let entries = self.get_encoded(kind, ids);
        let decoded = ids.iter().zip(entries).map(|(id, entry)| {
            let entry = entry?;
            let place = || {
                let key = EntryKey::new(kind, *id);
                Some((key, placed(&self.find(&self.locators.live(), &[key])[0])?.pack))
            };
            match entry.decode() {
                Ok(bytes) => {
                    if self.damaged.any() {
                        self.damaged.remove(place().as_slice());
                    }
                    Ok(bytes)
                }
                Err(e) => {
                    self.found_damaged(place().as_slice());
                    Err(e.context(format!("entry {id} can't be decoded; store it again to heal it")))
                }
            }
        });
        decoded.collect()
    }

    /// Remembers damage, so that the entries count as absent and are stored anew, into another pack.
    fn found_damaged(&self, found: &[(EntryKey, PackId)]) {
        self.damaged.add(found);
        for (key, pack) in found {
            self.packs.forget(*pack);
            self.writer.forget(key, *pack);
        }
    }

    /// Whether a place holds the entry, as far as is known.
    fn is_sound(&self, key: &EntryKey, place: &Found) -> bool {
        placed(place).is_some_and(|place| !self.damaged.is(key, place.pack) && self.packs.reach(&place))
    }

    /// Which of the entries need not be stored. As long as anything is damaged here, that is no node and no checkpoint:
    /// so whoever has them looks at what is below, and stores again what is damaged of it.
    fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        if kind != ChunkKind::Data && self.is_damaged()? {
            return Ok(vec![false; ids.len()]);
        }
        // A locator that can't be used is no reason not to store an entry once more.
        Ok(self.holds(kind, ids)?.into_iter().map(|held| held.unwrap_or(false)).collect())
    }

    /// Whether anything was found damaged that no other pack has by now. What is healed is forgotten.
    fn is_damaged(&self) -> Result<bool> {
        if !self.damaged.any() {
            return Ok(false);
        }
        let mut known = self.damaged.known();
        known.sort_unstable();
        let keys: Vec<EntryKey> = known.iter().map(|(key, _)| *key).collect();
        let (live, _) = self.locators.reload()?;
        let found = self.locators.find(&live, &keys);
        let healed = known
            .iter()
            .zip(&found)
            .filter(|((_, pack), found)| placed(found).is_some_and(|place| place.pack != *pack));
        let healed: Vec<_> = healed.map(|(known, _)| *known).collect();
        self.damaged.remove(&healed);
        Ok(healed.len() < known.len())
    }

    /// Which entries are here; the error of a locator that can't be used, if only it could tell.
    fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Result<bool>>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let generation = self.locators.live().catalog.condemn_generation;
        let found = self.find_now(&keys)?;
        let answer = |(key, place): (&EntryKey, Found)| {
            let sound = self.is_sound(key, &place);
            place.map(|_| sound)
        };
        let answers: Vec<Result<bool>> = keys.iter().zip(found).map(answer).collect();
        if answers.iter().any(|answer| matches!(answer, Ok(true))) {
            self.answered_under(generation);
        }
        Ok(answers)
    }

    /// An entry was said to be here under this generation of the catalog.
    fn answered_under(&self, generation: u64) {
        let mut answered = self.answered.lock();
        *answered = Some(answered.map_or(generation, |oldest| oldest.min(generation)));
    }

    /// Leaves of `entries` what is neither here nor twice in it, and says as of which state.
    fn only_absent<T>(
        &self,
        kind: ChunkKind,
        entries: Vec<(ChunkId, T)>,
    ) -> (Arc<locators::Live>, Vec<(EntryKey, T)>) {
        let keys: Vec<EntryKey> = entries.iter().map(|(id, _)| EntryKey::new(kind, *id)).collect();
        let live = self.locators.live();
        self.answered_under(live.catalog.condemn_generation);
        let found = self.find(&live, &keys);
        let mut seen = HashSet::with_capacity(keys.len());
        let absent = keys.into_iter().zip(&found).zip(entries).filter_map(|((key, place), (_, entry))| {
            (!self.is_sound(&key, place) && seen.insert(key)).then_some((key, entry))
        });
        let absent = absent.collect();
        (live, absent)
    }

    fn put(self: &Arc<Self>, kind: ChunkKind, entries: Vec<(ChunkId, bytes::Bytes)>) -> Result<()> {
        if let Some((id, raw)) = entries.iter().find(|(_, raw)| raw.len() > MAX_RAW_LEN) {
            return Err(Error::invalid(format!("entry {id} of {} bytes is over {MAX_RAW_LEN}", raw.len())));
        }
        let mut encoder = Encoder::new(self.options.compression)?;
        let (live, absent) = self.only_absent(kind, entries);
        let prepare = |(key, raw)| Prepared::new(key, encoder.encode(&raw));
        self.append(&live, absent.into_iter().map(prepare).collect::<Result<_>>()?)
    }

    fn put_encoded(self: &Arc<Self>, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let (live, absent) = self.only_absent(kind, entries);
        let prepare = |(key, entry)| Prepared::new(key, entry);
        self.append(&live, absent.into_iter().map(prepare).collect::<Result<_>>()?)
    }

    /// Appends what was absent as of `checked`.
    fn append(self: &Arc<Self>, checked: &Arc<locators::Live>, entries: Vec<Prepared>) -> Result<()> {
        self.append_absent(entries, |entries| {
            let live = self.locators.live();
            if Arc::ptr_eq(&live, checked) { entries } else { self.not_live(&live, entries) }
        })
    }

    /// Appends entries, those that live locators name among them.
    fn append_all(self: &Arc<Self>, entries: Vec<Prepared>) -> Result<()> {
        self.append_absent(entries, |entries| entries)
    }

    fn append_absent(
        self: &Arc<Self>,
        entries: Vec<Prepared>,
        absent: impl FnOnce(Vec<Prepared>) -> Vec<Prepared>,
    ) -> Result<()> {
        self.descriptor.features.check_write("the store")?;
        if entries.is_empty() {
            return Ok(());
        }
        let (full, done) = self.writer.append(entries, absent);
        for job in full {
            self.seal_soon(job);
        }
        done
    }

    /// Entries that no live locator holds, in their order, which is that of later reads.
    fn not_live(&self, live: &locators::Live, mut entries: Vec<Prepared>) -> Vec<Prepared> {
        let mut keys: Vec<EntryKey> = entries.iter().map(Prepared::key).collect();
        keys.sort_unstable();
        let found = self.locators.find(live, &keys);
        let sound = keys.iter().zip(&found).filter(|(key, place)| self.is_sound(key, place));
        let sound: HashSet<EntryKey> = sound.map(|(key, _)| *key).collect();
        entries.retain(|entry| !sound.contains(&entry.key()));
        entries
    }

    /// Seals a full pack in the background, or here if enough of that is going on. Errors are kept for the
    /// next sync.
    fn seal_soon(self: &Arc<Self>, job: Running) {
        let busy = self.writer.running() > MAX_SEALING;
        let this = self.clone();
        let seal = move || match job.run(|sealing| this.advance(sealing)) {
            Ok(()) => this.merge_locators(),
            Err(error) => {
                tracing::warn!(error = %error.report(), "sealing a pack failed; the next sync tries again");
            }
        };
        match Handle::try_current() {
            Ok(_) if !busy => drop(spawn_blocking(seal)),
            _ => seal(),
        }
    }

    fn advance(&self, sealing: &mut Sealing) -> Result<()> {
        sealing.advance(&self.writer, |key, pack| self.damaged.is(key, pack))?;
        self.enter_ready()
    }

    /// Makes live what has its turn.
    fn enter_ready(&self) -> Result<()> {
        let reload = || self.locators.reload().map(|_| ());
        self.writer.queue.advance(|ready| seal::enter(&self.writer, ready, reload))
    }

    /// Seals what is open and what failed before, and makes live what is ready. What fails on the way is told by
    /// the writer's fault, the rest here.
    fn seal_all(&self) -> Result<()> {
        for job in self.writer.take_rest() {
            if let Err(error) = job.run(|sealing| self.advance(sealing)) {
                tracing::warn!(error = %error.report(), "sealing a pack failed");
            }
        }
        self.enter_ready()?;
        self.keep_catalog()
    }

    /// Makes durable the catalog by which entries were reported present. Who wrote it may have been killed before
    /// the folder was synced.
    fn keep_catalog(&self) -> Result<()> {
        let version = self.locators.live().version.clone();
        let mut kept = self.kept.lock();
        if *kept != Some(version.clone()) {
            self.folder.sync_dir("")?;
            *kept = Some(version);
        }
        Ok(())
    }

    /// Merges locators as long as some are due. Nothing depends on it.
    fn merge_locators(&self) {
        let Some(_merging) = self.merging.try_lock() else { return };
        loop {
            let merged = merge::merge(&self.folder, &self.locators.live(), self.options.clock.now());
            match merged.and_then(|merged| self.locators.reload().map(|_| merged)) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(error = %error.report(), "merging locators failed");
                    return;
                }
            }
        }
    }

    /// The generation to publish under, once an older answer was handed out only newer ones count.
    fn take_answered(&self) -> Option<u64> {
        let current = self.locators.live().catalog.condemn_generation;
        let mut answered = self.answered.lock();
        let oldest = *answered;
        if oldest.is_some_and(|oldest| oldest < current) {
            *answered = Some(current);
        }
        oldest
    }
}

/// Makes an empty store; the descriptor comes last, so that what has one is whole.
fn make(fs: &Arc<dyn Fs>, dir: &Path, clock: &dyn Clock) -> Result<()> {
    let folder = Folder::new(fs.clone(), dir);
    let exists = || Error::new(ErrorKind::AlreadyExists, format!("{} holds a store already", dir.display()));
    folder.require_folder()?;
    // Nothing is written where there is nothing to make: what can only be read can be read.
    if folder.exists(DESCRIPTOR_KEY)? {
        return Err(exists());
    }
    folder.make_dir("")?;
    let parent = folder_of(dir);
    fs.sync_dir(parent).map_err(|e| Error::io(format!("syncing {}", parent.display()), e))?;
    if !folder.exists(DESCRIPTOR_KEY)? {
        refuse_remains(&folder)?;
        // What an interrupted `init` leaves is no obstacle.
        let known = ["lock", DAMAGED_KEY, layout::CATALOG_KEY, "catalog.tmp", "gabion.json.tmp"];
        let folders = [layout::PACKS, layout::LOCATORS, layout::MAPS, layout::IMAGES];
        let foreign = folder.list("")?.into_iter().find(|name| {
            !known.contains(&name.as_str()) && !folders.contains(&name.as_str()) && name != DESCRIPTOR_KEY
        });
        if let Some(name) = foreign {
            return Err(Error::invalid(format!(
                "{} is not empty (it holds '{name}'): choose a new folder for the store",
                dir.display()
            )));
        }
    }
    let lock = folder.lock()?;
    if folder.exists(DESCRIPTOR_KEY)? {
        return Err(exists());
    }
    refuse_remains(&folder)?;
    for key in [layout::PACKS, layout::LOCATORS, layout::MAPS, layout::IMAGES] {
        folder.make_dir(key)?;
    }
    folder.replace(layout::CATALOG_KEY, &Catalog::empty(WriteId::random()?).encode()?)?;
    folder.replace(DESCRIPTOR_KEY, Descriptor::new(clock.now())?.encode().as_bytes())?;
    drop(lock);
    Ok(())
}

/// `Corrupt` if a folder without a descriptor holds more of a store than a new one has, or one that was removed: its
/// descriptor is lost, and an empty catalog in place of its own would lose it whole.
fn refuse_remains(folder: &Folder) -> Result<()> {
    let in_use = || match records::read_catalog(folder) {
        Ok(found) => Ok(!found.value.pins.is_empty() || !found.value.pending.is_empty()),
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => Ok(true),
        Err(e) => Err(e),
    };
    let any = !folder.list(layout::IMAGES)?.is_empty() || folder.exists(layout::CATALOG_KEY)? && in_use()?;
    if !any {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{} is missing or damaged, and the rest of its store is there: 'repair' writes a new one",
        folder.path(DESCRIPTOR_KEY).display()
    )))
}

fn placed(place: &Found) -> Option<Placement> {
    place.as_ref().ok().copied().flatten()
}
