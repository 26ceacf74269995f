//! Making a damaged store usable again, out of what is left of it.
//!
//! Packs describe themselves, so locators and catalog can be made of them. In this order, each step durable before
//! the next, and each run beginning anew: a repair that is interrupted is repeated.
//!
//! 1. Every entry of every pack is read and hashed ([`survey`](Survey::take)).
//! 2. One new locator names all that is whole; one write of the catalog makes it the store's ([`install`]).
//! 3. What is whole in damaged packs is stored again, in new ones; then 1 and 2 once more.
//! 4. Damaged records are read as far as they can be, and written anew; maps that are damaged are no longer named.
//! 5. What nothing names any more and is damaged moves into the folder `quarantine`.
//!
//! Nothing is deleted. What can't be had from this store is missing in it afterwards, which `check` tells by image and
//! range, and which another store may have (`gabion_store_core::ops::heal`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use gabion_store_core::{
    CheckpointId, ChunkKind, Error, ErrorKind, Result,
    clock::Clock,
    format::{
        catalog::{Catalog, LocatorRef, Pin, Replaced},
        checkpoint::Checkpoint,
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        image_record::ImageRecord,
        layout,
        locator::Outline,
        rows::EntryKey,
        tombstone::ImageObject,
    },
    ops::Job,
    store::Placement,
    types::{LocatorId, PackId, WriteId, id_of},
};

use super::{
    LocalStore,
    check::{check_locator, check_map, read_descriptor, require, tells_damage, visit_locator},
    closure::References,
    folder::Folder,
    locators::OpenLocator,
    read::Packs,
    records,
    writer::{Prepared, placement},
};
use crate::fs::Fs;

/// Folder of the store that damaged files move to.
const QUARANTINE: &str = "quarantine";
/// Entries that are read at once: some MiB.
const ENTRIES: usize = 64;
/// Bytes of a locator that are written at once.
const WRITE: usize = 1 << 20;
/// Longest record that is read, in bytes.
const MAX_RECORD_LEN: u64 = 64 << 20;

/// How a store is repaired.
#[derive(Clone, Debug)]
pub struct RepairOptions {
    /// Change nothing, only say what would be done.
    pub dry_run: bool,
    /// What volumes stand on, as far as it is known: the pins of a catalog that is lost, or older than they are.
    pub pins: Vec<Pin>,
    /// Tells the times that stand in records.
    pub clock: Arc<dyn Clock>,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Packs read.
    pub packs: u64,
    /// Distinct entries that are whole.
    pub entries: u64,
    /// What was done, in order, for people.
    pub done: Vec<String>,
    /// What can't be made good from this store alone, beside entries, which a check tells.
    pub lost: Vec<String>,
}

impl LocalStore {
    /// Repairs the store in `dir` as far as that goes without another. Blocks. Others may use the store meanwhile; if
    /// they change it in between, it ends with `Conflict`, and another run goes on.
    ///
    /// **Killed in between**: the store is as damaged as before or less, and another run does the rest. **Memory**: 80
    /// bytes for each entry. **Errors**: `Unsupported` if anything is of a newer version: that is no damage; `Corrupt`,
    /// with nothing changed, if the folder of packs or of images is not there.
    pub fn repair(fs: &Arc<dyn Fs>, dir: &Path, options: &RepairOptions, job: &Job) -> Result<RepairReport> {
        let folder = Folder::new(fs.clone(), dir);
        folder.require_folder()?;
        let mut repair = Repair { folder, options, job, report: RepairReport::default() };
        repair.descriptor()?;
        repair.folders()?;
        let survey = Survey::take(&repair.folder, &options.pins, job)?;
        (repair.report.packs, repair.report.entries) = (survey.packs, survey.sound.len() as u64);
        let rescue = repair.locators(&survey)?;
        if !rescue.is_empty() && !options.dry_run {
            rescue_entries(fs, dir, &survey, &rescue)?;
            let mut again = Survey::take(&repair.folder, &options.pins, job)?;
            again.sound.retain(|(key, _)| !survey.loose.contains(key));
            let left = repair.locators(&again)?;
            if !left.is_empty() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "the store was changed during its repair: run it again",
                ));
            }
        }
        repair.records(&survey)?;
        Ok(repair.report)
    }
}

struct Repair<'a> {
    folder: Folder,
    options: &'a RepairOptions,
    job: &'a Job,
    report: RepairReport,
}

/// What a store's packs, locators and catalog are worth.
struct Survey {
    packs: u64,
    /// `None` if the catalog is damaged or missing.
    catalog: Option<Catalog>,
    /// Of the catalog: locators that can't be used.
    bad_locators: Vec<LocatorId>,
    /// The catalog is older than the packs, as one that was restored from a copy is: it does not tell of a checkpoint
    /// that an image or a volume has, and that is here.
    is_old: bool,
    /// Packs that are damaged anywhere, and packs that are named and missing.
    bad_packs: BTreeSet<PackId>,
    missing_packs: BTreeSet<PackId>,
    /// Every whole entry, sorted, in its best place.
    sound: Vec<(EntryKey, Placement)>,
    /// Sizes of the disks of the checkpoints among them.
    checkpoints: HashMap<EntryKey, u64>,
    /// Whole entries that are not to count as present, because something below them is missing.
    loose: HashSet<EntryKey>,
    /// What nodes refer to, if packs may have become live that were not before.
    references: Option<References>,
}

impl Survey {
    fn take(folder: &Folder, pins: &[Pin], job: &Job) -> Result<Self> {
        let catalog = match records::read_catalog(folder) {
            Ok(catalog) => Some(catalog.value),
            Err(e) if e.kind() == ErrorKind::Corrupt => None,
            Err(e) => return Err(e),
        };
        let mut survey = Self {
            packs: 0,
            catalog,
            bad_locators: Vec::new(),
            is_old: false,
            bad_packs: BTreeSet::new(),
            missing_packs: BTreeSet::new(),
            sound: Vec::new(),
            checkpoints: HashMap::new(),
            loose: HashSet::new(),
            references: None,
        };
        let locators = survey.locators(folder)?;
        let mut roots = Roots::read(folder, survey.catalog.as_ref(), pins)?;
        let unnamed_roots = roots.not_in(&locators)?;
        survey.is_old = !unnamed_roots.is_empty();
        survey.references = survey.is_lost().then(References::default);
        let mut named: BTreeSet<PackId> =
            locators.iter().flat_map(|open| open.locator.packs()).copied().collect();
        let present: BTreeSet<PackId> = LocalStore::list_packs(folder)?.into_iter().collect();
        survey.missing_packs = named.difference(&present).copied().collect();
        // What an interrupted repair has replaced, and did not come to move aside.
        for replaced in survey.catalog.iter().flat_map(|catalog| &catalog.replaced) {
            if let Replaced::Locator(id, _) = replaced
                && let Ok(open) = OpenLocator::open(folder, *id, 0)
            {
                named.extend(open.locator.packs());
            }
        }
        let packs = Packs::new(folder.clone());
        let mut broken = BTreeSet::new();
        for pack in present {
            job.check()?;
            // Nothing leads to it, and nothing that did is lost: it is being written, or was left by a crash.
            if !named.contains(&pack) && !survey.is_lost() {
                continue;
            }
            if !named.contains(&pack) {
                let key = layout::pack_key(&pack);
                match folder.lock_pack(&key) {
                    // It is being written: nobody was told yet that anything in it is there.
                    Err(e) if e.kind() == ErrorKind::Conflict => continue,
                    locked => drop(locked?),
                }
                folder.settle(&key)?;
            }
            match packs.contents(pack) {
                Ok(contents) => {
                    let wanted = contents.entries().iter().map(|entry| (entry.key, placement(pack, entry)));
                    if survey.verify(&packs, wanted.collect())? {
                        survey.bad_packs.insert(pack);
                    }
                }
                Err(e) if e.kind() != ErrorKind::Corrupt => return Err(e),
                Err(_) => {
                    broken.insert(pack);
                }
            }
            survey.packs += 1;
        }
        // What a pack does not tell any more, its locators may, or its entries one after the other.
        let mut wanted: BTreeMap<EntryKey, Placement> = BTreeMap::new();
        for open in locators.iter().filter(|_| !broken.is_empty()) {
            let visit = |key, place: Placement| {
                if broken.contains(&place.pack) {
                    wanted.insert(key, place);
                }
            };
            visit_locator(open, visit)?;
        }
        for pack in &broken {
            let scanned = packs.scan(*pack)?;
            wanted.extend(scanned.entries.iter().map(|entry| (entry.key, placement(*pack, entry))));
        }
        survey.verify(&packs, wanted.into_iter().collect())?;
        survey.bad_packs.extend(broken);
        // It is not that the catalog is old: they are lost, and what nothing leads to is none of ours.
        if survey.is_old && !survey.sound.iter().any(|(key, _)| unnamed_roots.contains(key)) {
            survey.is_old = false;
            if !survey.is_lost() {
                survey.references = None;
                survey.sound.retain(|(_, place)| named.contains(&place.pack));
                survey.bad_packs.retain(|pack| named.contains(pack));
            }
        }
        let bad = &survey.bad_packs;
        survey.sound.sort_by_key(|(key, place)| (*key, bad.contains(&place.pack)));
        survey.sound.dedup_by_key(|(key, _)| *key);
        if let Some(references) = survey.references.take() {
            let present: HashSet<EntryKey> = survey.sound.iter().map(|(key, _)| *key).collect();
            if roots.any_unreadable {
                roots.known.extend(survey.checkpoints.keys());
            }
            survey.loose = references.loose(&present, &roots.known);
            survey.sound.retain(|(key, _)| !survey.loose.contains(key));
        }
        Ok(survey)
    }

    /// Whether packs may be named that nobody knows of any more.
    fn is_lost(&self) -> bool {
        self.catalog.is_none() || !self.bad_locators.is_empty() || self.is_old
    }

    /// The locators that can be used; without a catalog, all there are.
    fn locators(&mut self, folder: &Folder) -> Result<Vec<OpenLocator>> {
        let ids: Vec<LocatorId> = match &self.catalog {
            Some(catalog) => catalog.locators.iter().map(|locator| locator.id).collect(),
            None => folder.list(layout::LOCATORS)?.iter().filter_map(|name| name.parse().ok()).collect(),
        };
        let mut usable = Vec::new();
        for id in ids {
            match check_locator(folder, id) {
                Ok(open) => usable.push(open),
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    self.bad_locators.push(id);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(usable)
    }

    /// Reads entries, decodes and hashes them, and keeps those that are whole. Whether any is not.
    fn verify(&mut self, packs: &Packs, mut wanted: Vec<(EntryKey, Placement)>) -> Result<bool> {
        let mut any_bad = false;
        wanted.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
        for part in wanted.chunks(ENTRIES) {
            for ((key, place), stored) in part.iter().zip(packs.read(part)) {
                let bytes = match stored.and_then(|stored| stored.decode()) {
                    Err(e) if !tells_damage(&e) => return Err(e),
                    bytes => bytes.ok().filter(|bytes| id_of(key.kind, bytes) == key.id),
                };
                let Some(bytes) = bytes else {
                    any_bad = true;
                    continue;
                };
                if let Some(references) = &mut self.references {
                    references.add(*key, &bytes);
                }
                if let (ChunkKind::Checkpoint, Ok(checkpoint)) = (key.kind, Checkpoint::decode(&bytes)) {
                    self.checkpoints.insert(*key, checkpoint.size);
                }
                self.sound.push((*key, *place));
            }
        }
        Ok(any_bad)
    }
}

impl Repair<'_> {
    fn note(&mut self, what: String) {
        tracing::info!(what, dry_run = self.options.dry_run, "repair");
        self.report.done.push(what);
    }

    fn descriptor(&mut self) -> Result<()> {
        match read_descriptor(&self.folder) {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Invalid) => {}
            done => return done.map(drop),
        }
        if self.folder.list(layout::PACKS)?.is_empty() && self.folder.list(layout::IMAGES)?.is_empty() {
            let dir = self.folder.root().display();
            return Err(Error::invalid(format!("{dir} holds no store that could be repaired")));
        }
        self.note("write a new descriptor, with a new store id, in place of the damaged one".to_owned());
        if self.options.dry_run {
            return Ok(());
        }
        self.keep_copy(DESCRIPTOR_KEY)?;
        self.folder.replace(DESCRIPTOR_KEY, Descriptor::new(self.options.clock.now())?.encode().as_bytes())
    }

    /// Makes the folders again whose content can be made anew. Without the others all would seem lost, and be lost then.
    fn folders(&mut self) -> Result<()> {
        require(&self.folder, layout::PACKS)?;
        require(&self.folder, layout::IMAGES)?;
        for key in [layout::LOCATORS, layout::MAPS] {
            if !self.folder.exists(key)? {
                self.note(format!("make the folder {key}"));
                if !self.options.dry_run {
                    self.folder.make_dir(key)?;
                    self.folder.sync_dir("")?;
                }
            }
        }
        Ok(())
    }

    /// Makes one locator of all that is whole, if that is needed, and moves aside what nothing names then. Gives the
    /// damaged packs that still hold something that no other has.
    fn locators(&mut self, survey: &Survey) -> Result<BTreeSet<PackId>> {
        let kept = survey.sound.iter().map(|(_, place)| place.pack);
        let rescue: BTreeSet<PackId> = kept.filter(|pack| survey.bad_packs.contains(pack)).collect();
        if !survey.is_lost() && survey.bad_packs.is_empty() && survey.missing_packs.is_empty() {
            return Ok(rescue);
        }
        let count = survey.sound.len();
        let lost = if survey.catalog.is_none() { " and a new catalog" } else { "" };
        self.note(format!("write a locator of {count} whole entries{lost}"));
        for pack in &rescue {
            self.note(format!("store again what is whole in the damaged pack {pack}"));
        }
        if !self.options.dry_run {
            install(&self.folder, survey, self.options)?;
        }
        for id in &survey.bad_locators {
            self.move_aside(&layout::locator_key(id))?;
        }
        for pack in survey.bad_packs.difference(&rescue) {
            self.move_aside(&layout::pack_key(pack))?;
        }
        Ok(rescue)
    }

    /// Writes image records anew that are damaged or name damaged maps, as far as they can be read.
    fn records(&mut self, survey: &Survey) -> Result<()> {
        for (key, bytes) in record_files(&self.folder)? {
            self.job.check()?;
            match ImageObject::decode_at(&key, &bytes) {
                Ok(found) => self.maps(&key, found.record(), &bytes)?,
                Err(e) if e.kind() != ErrorKind::Corrupt => return Err(e),
                Err(_) => match salvage(&key, &bytes, survey) {
                    Some((record, gone)) => {
                        let name = record.name.clone();
                        let kept = record.history.len();
                        self.note(format!(
                            "write the record of image '{name}' anew, with {kept} checkpoints"
                        ));
                        if gone > 0 {
                            let lost = format!("image '{name}': {gone} checkpoints of its history");
                            self.report.lost.push(lost);
                        }
                        if !self.options.dry_run {
                            self.keep_copy(&key)?;
                            self.replace_record(&key, &record, &bytes)?;
                        }
                    }
                    // It stays where it is, so that nobody takes the image for removed.
                    None => self.report.lost.push(format!(
                        "the image of record {key}: put a copy of that file back, or remove it and make the image anew"
                    )),
                },
            }
        }
        Ok(())
    }

    /// Takes damaged maps out of a record: they are hints.
    fn maps(&mut self, key: &str, record: Option<ImageRecord>, before: &[u8]) -> Result<()> {
        let Some(mut record) = record else { return Ok(()) };
        let mut bad = Vec::new();
        for id in record.maps.iter().chain(&record.boot_trace) {
            match check_map(&self.folder, *id) {
                Err(e) if e.kind() == ErrorKind::Corrupt => bad.push(*id),
                done => done?,
            }
        }
        if bad.is_empty() {
            return Ok(());
        }
        record.maps.retain(|id| !bad.contains(id));
        record.boot_trace = record.boot_trace.filter(|id| !bad.contains(id));
        self.note(format!(
            "image '{}' forgets {} damaged maps or traces, which are hints",
            record.name,
            bad.len()
        ));
        if !self.options.dry_run {
            self.replace_record(key, &record, before)?;
        }
        bad.iter().try_for_each(|id| self.move_aside(&layout::map_key(id)))
    }

    fn replace_record(&self, key: &str, record: &ImageRecord, before: &[u8]) -> Result<()> {
        let bytes = ImageRecord { write_id: WriteId::random()?, ..record.clone() }.encode()?;
        let _lock = self.folder.lock()?;
        if self.folder.read(key, MAX_RECORD_LEN)?.as_deref() != Some(before) {
            return Err(changed());
        }
        self.folder.replace(key, &bytes)
    }

    /// Moves a file that nothing names into the quarantine, if it is there.
    fn move_aside(&mut self, key: &str) -> Result<()> {
        if !self.folder.exists(key)? {
            return Ok(());
        }
        self.note(format!("move {key} into {QUARANTINE}"));
        if self.options.dry_run {
            return Ok(());
        }
        let to = self.place_aside(key)?;
        let moved = self.folder.fs().rename(&self.folder.path(key), &self.folder.path(&to));
        moved.map_err(|e| self.folder.error("moving", key, e))?;
        self.folder.sync_dir(QUARANTINE)?;
        self.folder.sync_dir(key.rsplit_once('/').map_or("", |(parent, _)| parent))
    }

    /// Keeps a copy of a damaged file that is about to be replaced.
    fn keep_copy(&self, key: &str) -> Result<()> {
        let Some(bytes) = self.folder.read(key, MAX_RECORD_LEN)? else { return Ok(()) };
        let to = self.place_aside(key)?;
        self.folder.replace(&to, &bytes)
    }

    fn place_aside(&self, key: &str) -> Result<String> {
        aside(&self.folder, key)
    }
}

/// Checkpoints that must be readable.
struct Roots {
    known: Vec<EntryKey>,
    /// The record of an image can't be read, whose checkpoints may be any.
    any_unreadable: bool,
}

impl Roots {
    fn read(folder: &Folder, catalog: Option<&Catalog>, pins: &[Pin]) -> Result<Self> {
        let mut ids: Vec<_> = pins.iter().map(|pin| pin.checkpoint).collect();
        if let Some(catalog) = catalog {
            ids.extend(catalog.pins.iter().map(|pin| pin.checkpoint));
            ids.extend(catalog.pending.iter().map(|root| root.checkpoint));
        }
        let mut any_unreadable = false;
        for (key, bytes) in record_files(folder)? {
            let record = match ImageObject::decode_at(&key, &bytes) {
                Ok(found) => found.record(),
                Err(e) if e.kind() != ErrorKind::Corrupt => return Err(e),
                Err(_) => {
                    let told = resealed(&key, &bytes);
                    any_unreadable |= told.is_none();
                    told
                }
            };
            ids.extend(record.iter().flat_map(|record| &record.history).map(|entry| entry.checkpoint));
        }
        let key = |id: CheckpointId| EntryKey::new(ChunkKind::Checkpoint, id.as_chunk());
        Ok(Self { known: ids.into_iter().map(key).collect(), any_unreadable })
    }

    /// Those that none of the locators tells of.
    fn not_in(&self, locators: &[OpenLocator]) -> Result<HashSet<EntryKey>> {
        let mut left: HashSet<EntryKey> = self.known.iter().copied().collect();
        for open in locators {
            visit_locator(open, |key, _| {
                left.remove(&key);
            })?;
        }
        Ok(left)
    }
}

/// Keys and bytes of the records of images.
fn record_files(folder: &Folder) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for file in folder.list(layout::IMAGES)? {
        let key = format!("{}/{file}", layout::IMAGES);
        if file.len() == 64
            && file.bytes().all(|byte| byte.is_ascii_hexdigit())
            && let Some(bytes) = folder.read(&key, MAX_RECORD_LEN)?
        {
            found.push((key, bytes));
        }
    }
    Ok(found)
}

/// A free key in the quarantine for what was at `key`.
fn aside(folder: &Folder, key: &str) -> Result<String> {
    folder.make_dir(QUARANTINE)?;
    folder.sync_dir("")?;
    let name = key.replace('/', "-");
    for n in 1_u64.. {
        let to = format!("{QUARANTINE}/{name}.{n}");
        if !folder.exists(&to)? {
            return Ok(to);
        }
    }
    unreachable!("some number is free")
}

fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "the store was changed during its repair: run it again")
}

/// Writes a locator of all that is whole, and makes it the store's.
fn install(folder: &Folder, survey: &Survey, options: &RepairOptions) -> Result<()> {
    let id = LocatorId::random()?;
    let mut outline = Outline::new(survey.sound.len() as u64);
    survey.sound.iter().try_for_each(|(key, place)| outline.add(key, &place.pack))?;
    let mut rows = outline.finish(id);
    let new: LocatorRef = rows.reference();
    folder.write_new(&layout::locator_key(&id), |append| {
        for (key, place) in &survey.sound {
            rows.push(*key, place)?;
            if rows.ready() >= WRITE {
                append(&rows.take())?;
            }
        }
        append(&rows.finish())
    })?;
    let write_id = WriteId::random()?;
    let Some(surveyed) = &survey.catalog else {
        let _lock = folder.lock()?;
        if records::read_catalog(folder).is_ok() {
            return Err(changed());
        }
        if let Some(bytes) = folder.read(layout::CATALOG_KEY, MAX_RECORD_LEN)? {
            let to = aside(folder, layout::CATALOG_KEY)?;
            folder.replace(&to, &bytes)?;
        }
        let mut catalog = Catalog::empty(write_id);
        // Above every generation that was: answers of before the repair are void.
        catalog.condemn_generation = options.clock.now().0;
        catalog.locators.push(new);
        catalog.pins.clone_from(&options.pins);
        return folder.replace(layout::CATALOG_KEY, &catalog.encode()?);
    };
    let now = options.clock.now();
    records::change_catalog(folder, |catalog| {
        if survey.is_old {
            let known = |pin: &Pin| {
                catalog.pins.iter().any(|p| (p.owner, p.checkpoint) == (pin.owner, pin.checkpoint))
            };
            let missing: Vec<Pin> = options.pins.iter().filter(|pin| !known(pin)).cloned().collect();
            catalog.pins.extend(missing);
            catalog.condemn_generation = catalog.condemn_generation.max(now.0);
        }
        // Locators that were added since are newer, and stay.
        let newer = catalog.locators.split_off(surveyed.locators.len().min(catalog.locators.len()));
        if catalog.locators != surveyed.locators {
            return Err(changed());
        }
        let old = std::mem::replace(&mut catalog.locators, vec![new]).into_iter();
        let usable = old.filter(|old| !survey.bad_locators.contains(&old.id));
        catalog.retire(usable.map(|old| Replaced::Locator(old.id, now)));
        catalog.locators.extend(newer);
        catalog.write_id = write_id;
        Ok(())
    })
    .map(drop)
}

/// Stores again, in new packs, what is whole in damaged ones.
fn rescue_entries(fs: &Arc<dyn Fs>, dir: &Path, survey: &Survey, packs: &BTreeSet<PackId>) -> Result<()> {
    let store = LocalStore::open(fs.clone(), dir)?;
    let mut wanted: Vec<(EntryKey, Placement)> =
        survey.sound.iter().filter(|(_, place)| packs.contains(&place.pack)).copied().collect();
    // As their pack has them: that is the order in which they are read.
    wanted.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
    for part in wanted.chunks(ENTRIES) {
        let read = part.iter().zip(store.0.packs.read(part));
        let entries = read.map(|((key, _), stored)| Prepared::new(*key, stored?)).collect::<Result<_>>()?;
        // Whatever the locators say of them: it is the damaged packs that they name.
        store.0.append_all(entries)?;
    }
    store.0.seal_all()?;
    store.0.writer.fault()
}

/// What a damaged record says if its checksum is passed over, if its name is the one that the key is the hash of.
fn resealed(key: &str, bytes: &[u8]) -> Option<ImageRecord> {
    let (body, _) = bytes.split_last_chunk::<4>()?;
    let mut sealed = body.to_vec();
    sealed.extend(crc32c::crc32c(body).to_le_bytes());
    ImageObject::decode_at(key, &sealed).ok()?.record()
}

/// What a damaged record still tells: those checkpoints of its history that the store has; and how many it has not.
fn salvage(key: &str, bytes: &[u8], survey: &Survey) -> Option<(ImageRecord, usize)> {
    let mut record = resealed(key, bytes)?;
    let before = record.history.len();
    record.history.retain(|entry| {
        let key = EntryKey::new(ChunkKind::Checkpoint, entry.checkpoint.as_chunk());
        survey.checkpoints.get(&key) == Some(&entry.size)
    });
    // Hints, which may be wrong; and whoever owned the image has to claim it anew.
    record.maps.clear();
    record.boot_trace = None;
    record.writer_epoch = 0;
    let gone = before - record.history.len();
    (!record.history.is_empty()).then_some((record, gone))
}
