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

mod survey;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use gabion_store_core::{
    ChunkKind, Error, ErrorKind, Result,
    clock::Clock,
    format::{
        catalog::{Catalog, LocatorRef, Pin, Replaced},
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        image_record::ImageRecord,
        layout,
        locator::Outline,
        rows::EntryKey,
        tombstone::ImageObject,
    },
    ops::Job,
    store::Placement,
    types::{LocatorId, PackId, WriteId},
};

use super::{
    LocalStore,
    check::{check_map, read_descriptor, require},
    folder::Folder,
    records,
    writer::Prepared,
};
use crate::fs::Fs;
use survey::{ENTRIES, MAX_RECORD_LEN, Survey, record_files, resealed};

/// Folder of the store that damaged files move to.
const QUARANTINE: &str = "quarantine";
/// Bytes of a locator that are written at once.
const WRITE: usize = 1 << 20;
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
