//! What there is of a store: every entry of every pack is read and hashed, and what must be readable is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use gabion_store_core::{
    CheckpointId, ChunkKind, ErrorKind, Result,
    format::{
        catalog::{Catalog, Pin, Replaced},
        checkpoint::Checkpoint,
        image_record::ImageRecord,
        layout,
        rows::EntryKey,
        tombstone::ImageObject,
    },
    ops::Job,
    store::Placement,
    types::{LocatorId, PackId, id_of},
};

use super::super::{
    LocalStore,
    check::{check_locator, tells_damage, visit_locator},
    closure::References,
    folder::Folder,
    locators::OpenLocator,
    read::Packs,
    records,
    writer::placement,
};

/// Entries that are read at once: some MiB.
pub(super) const ENTRIES: usize = 64;
/// Longest record that is read, in bytes.
pub(super) const MAX_RECORD_LEN: u64 = 64 << 20;

/// What a store's packs, locators and catalog are worth.
pub(super) struct Survey {
    pub(super) packs: u64,
    /// `None` if the catalog is damaged or missing.
    pub(super) catalog: Option<Catalog>,
    /// Of the catalog: locators that can't be used.
    pub(super) bad_locators: Vec<LocatorId>,
    /// The catalog is older than the packs, as one that was restored from a copy is: it does not tell of a checkpoint
    /// that an image or a volume has, and that is here.
    pub(super) is_old: bool,
    /// Packs that are damaged anywhere, and packs that are named and missing.
    pub(super) bad_packs: BTreeSet<PackId>,
    pub(super) missing_packs: BTreeSet<PackId>,
    /// Every whole entry, sorted, in its best place.
    pub(super) sound: Vec<(EntryKey, Placement)>,
    /// Sizes of the disks of the checkpoints among them.
    pub(super) checkpoints: HashMap<EntryKey, u64>,
    /// Whole entries that are not to count as present, because something below them is missing.
    pub(super) loose: HashSet<EntryKey>,
    /// What nodes refer to, if packs may have become live that were not before.
    references: Option<References>,
}

impl Survey {
    /// Reads everything.
    pub(super) fn take(folder: &Folder, pins: &[Pin], job: &Job) -> Result<Self> {
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
    pub(super) fn is_lost(&self) -> bool {
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
pub(super) fn record_files(folder: &Folder) -> Result<Vec<(String, Vec<u8>)>> {
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

/// What a damaged record says if its checksum is passed over, if its name is the one that the key is the hash of.
pub(super) fn resealed(key: &str, bytes: &[u8]) -> Option<ImageRecord> {
    let (body, _) = bytes.split_last_chunk::<4>()?;
    let mut sealed = body.to_vec();
    sealed.extend(crc32c::crc32c(body).to_le_bytes());
    ImageObject::decode_at(key, &sealed).ok()?.record()
}
