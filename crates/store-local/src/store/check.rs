//! What is wrong with a store's files, whether an image needs them or not.
//!
//! The check of what images reach (`gabion_store_core::ops::check_with`) sees entries. This one sees objects:
//! descriptor, catalog, locators, image maps, boot traces, and packs with all that is in them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use gabion_store_core::{
    ChunkId, Error, ErrorKind, ImageName, Result,
    format::{
        boot_trace::BootTrace,
        catalog::Replaced,
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        image_map, layout,
        pack::PackEntry,
        rows::{EntryKey, PAGE_LEN},
    },
    ops::{CheckOptions, Damage, Depth, Job, Progress},
    sync::Mutex,
    types::{LocatorId, MapId, PackId, id_of},
};

use super::{
    Inner, LocalStore, folder::Folder, locators::Live, locators::OpenLocator, placed, records,
    writer::placement,
};

/// Longest image map that is read into memory, in bytes.
const MAX_MAP_LEN: u64 = 1 << 30;
/// The folders that every store has.
pub(super) const FOLDERS: [&str; 4] = [layout::PACKS, layout::IMAGES, layout::LOCATORS, layout::MAPS];
/// Pages of a locator that are read at once.
const PAGES: u32 = 256;
/// Entries of a pack that are read at once: some MiB, so that memory does not grow with the pack.
const ENTRIES: usize = 64;
/// Packs that are read at once, at most.
const AT_ONCE: usize = 8;

/// What [`LocalStore::check_files`] found.
#[derive(Clone, Debug, Default)]
pub struct FilesReport {
    /// Files looked at.
    pub files: u64,
    /// Bytes of entries read beside those that were known to be intact.
    pub bytes: u64,
    /// Packs that nothing refers to: being written just now, or left behind by a crash. Not looked at.
    pub unused: Vec<PackId>,
    /// Damaged copies of entries that are whole in another pack by now: they harm nothing.
    pub superseded: u64,
    /// What is not as it must be.
    pub damage: Vec<Damage>,
}

impl LocalStore {
    /// Checks every file that the store's catalog and records lead to. Entries of packs are read as closely as
    /// `options` say, but those that are `intact`, as a check of the images found just now. Damage is reported,
    /// not an error, and noted, so that what is damaged counts as absent. Blocks; several packs are read at once.
    pub fn check_files(
        &self,
        options: &CheckOptions,
        intact: &HashSet<EntryKey>,
        job: &Job,
    ) -> Result<FilesReport> {
        let (live, _) = self.0.locators.reload()?;
        let mut check = FileCheck { inner: &self.0, options, report: FilesReport::default() };
        check.note(check.descriptor())?;
        check.report.files += 1;
        for folder in FOLDERS {
            check.note(require(check.folder(), folder))?;
        }
        let named = check.locators(&live)?;
        check.maps(&live)?;
        check.packs(&live, &named, intact, job)?;
        Ok(check.report)
    }
}

struct FileCheck<'a> {
    inner: &'a Inner,
    options: &'a CheckOptions,
    report: FilesReport,
}

/// Whether an error tells of damage; any other ends the check.
pub(super) fn tells_damage(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Invalid, NotFound, Unsupported};
    matches!(error.kind(), Corrupt | Invalid | NotFound | Unsupported)
}

impl FileCheck<'_> {
    fn folder(&self) -> &Folder {
        &self.inner.folder
    }

    /// Notes what is damage, passes on what is none.
    fn note<T>(&mut self, found: Result<T>) -> Result<Option<T>> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if tells_damage(&error) => {
                self.report.damage.push(Damage::of_object(None, error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn descriptor(&self) -> Result<()> {
        read_descriptor(self.folder()).map(drop)
    }

    /// Checks locators; gives the packs that the live ones name, and those that replaced ones do.
    fn locators(&mut self, live: &Live) -> Result<Named> {
        let mut named = Named::default();
        for reference in &live.catalog.locators {
            self.report.files += 1;
            match check_locator(self.folder(), reference.id) {
                // It was merged away meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound && self.is_gone(reference.id)? => {}
                found => {
                    let found = found.and_then(|open| {
                        if u64::from(open.locator.entries()) == reference.entries {
                            return Ok(open);
                        }
                        Err(Error::corrupt(format!(
                            "locator {} has {} entries, and {} according to the catalog",
                            reference.id,
                            open.locator.entries(),
                            reference.entries
                        )))
                    });
                    let open = self.note(found)?;
                    named.live.extend(open.iter().flat_map(|open| open.locator.packs()));
                }
            }
        }
        for replaced in &live.catalog.replaced {
            if let Replaced::Locator(id, _) = replaced
                && self.folder().exists(&layout::locator_key(id))?
            {
                self.report.files += 1;
                let open = self.note(check_locator(self.folder(), *id))?;
                named.replaced.extend(open.iter().flat_map(|open| open.locator.packs()));
            }
        }
        Ok(named)
    }

    fn is_gone(&self, id: LocatorId) -> Result<bool> {
        let now = records::read_catalog(self.folder())?.value;
        Ok(!now.locators.iter().any(|locator| locator.id == id))
    }

    fn maps(&mut self, live: &Live) -> Result<()> {
        let mut maps: BTreeMap<MapId, Option<ImageName>> = BTreeMap::new();
        for replaced in &live.catalog.replaced {
            if let Replaced::Map(id, _) = replaced
                && self.folder().exists(&layout::map_key(id))?
            {
                maps.insert(*id, None);
            }
        }
        // Damaged records are told of by the check of the images.
        for name in records::list_images(self.folder())?.into_iter().flatten() {
            let Ok(Some(record)) = records::read_image(self.folder(), &name) else { continue };
            self.report.files += 1;
            let ids = record.value.maps.into_iter().chain(record.value.boot_trace);
            maps.extend(ids.map(|id| (id, Some(name.clone()))));
        }
        for (id, image) in maps {
            self.report.files += 1;
            match check_map(self.folder(), id) {
                Err(error) if tells_damage(&error) => {
                    self.report.damage.push(Damage::of_object(image, error));
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn packs(&mut self, live: &Live, named: &Named, intact: &HashSet<EntryKey>, job: &Job) -> Result<()> {
        let present: BTreeSet<PackId> = LocalStore::list_packs(self.folder())?.into_iter().collect();
        let needed: BTreeSet<PackId> = named.live.union(&named.replaced).copied().collect();
        self.report.unused = present.difference(&needed).copied().collect();
        // A pack that only a replaced locator names may be gone.
        let packs: Vec<PackId> =
            needed.into_iter().filter(|id| named.live.contains(id) || present.contains(id)).collect();
        let (next, bytes, superseded) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let found = Mutex::new((Vec::new(), None));
        let work = || {
            while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let ends = || job.cancel.is_cancelled() || self.options.enough.is_cancelled();
                if ends() || found.lock().1.is_some() {
                    break;
                }
                let wanted = |key: &EntryKey| !intact.contains(key);
                match self.inner.check_pack(live, *pack, self.options, wanted, &bytes) {
                    Ok((damage, harmless)) => {
                        superseded.fetch_add(harmless, Ordering::Relaxed);
                        found.lock().0.extend(damage);
                    }
                    Err(error) => found.lock().1 = Some(error),
                }
                let done = bytes.load(Ordering::Relaxed);
                job.report(Progress { done, total: None, stored: 0 });
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(AT_ONCE);
        std::thread::scope(|scope| {
            (1..threads.min(packs.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        job.check()?;
        let (mut damage, error) = found.into_inner();
        if let Some(error) = error {
            return Err(error);
        }
        damage.sort_by_key(|damage: &Damage| damage.entry);
        self.report.files += packs.len() as u64;
        self.report.bytes += bytes.into_inner();
        self.report.superseded += superseded.into_inner();
        self.report.damage.append(&mut damage);
        Ok(())
    }
}

/// Packs that locators name.
#[derive(Default)]
struct Named {
    live: BTreeSet<PackId>,
    replaced: BTreeSet<PackId>,
}

impl Inner {
    /// What is wrong with a pack: its frame, and those of its entries that are `wanted`; and how many damaged entries
    /// it has that live in another pack by now.
    fn check_pack(
        &self,
        live: &Live,
        id: PackId,
        options: &CheckOptions,
        wanted: impl Fn(&EntryKey) -> bool,
        bytes: &AtomicU64,
    ) -> Result<(Vec<Damage>, u64)> {
        let contents = match self.packs.contents(id) {
            Ok(contents) => contents,
            Err(error) if tells_damage(&error) => {
                let path = self.folder.path(&layout::pack_key(&id));
                let error = error.context(format!("pack {} is damaged or missing", path.display()));
                return Ok((vec![Damage::of_object(None, error)], 0));
            }
            Err(error) => return Err(error),
        };
        let mut damage = Vec::new();
        let mut note =
            |key, error| damage.push(Damage { entry: Some(key), ..Damage::of_object(None, error) });
        let keys: Vec<EntryKey> = contents.entries().iter().map(|entry| entry.key).collect();
        let places = self.locators.find(live, &keys);
        let mut to_read: Vec<(PackEntry, bool)> = Vec::new();
        for (entry, place) in contents.entries().iter().zip(&places) {
            let elsewhere = placed(place).is_some_and(|place| place.pack != id);
            if !elsewhere && placed(place).is_some_and(|place| place != placement(id, entry)) {
                let why = format!("pack {id} has entry {} elsewhere than its locator says", entry.key.id);
                note(entry.key, Error::corrupt(why));
            }
            if (elsewhere || wanted(&entry.key)) && options.sample.takes(&entry.key.id) {
                to_read.push((*entry, elsewhere));
            }
        }
        if options.depth == Depth::Structure {
            return Ok((damage, 0));
        }
        to_read.sort_unstable_by_key(|(entry, _)| entry.offset);
        let (mut bad, mut superseded) = (Vec::new(), 0);
        for part in to_read.chunks(ENTRIES) {
            let wanted: Vec<_> = part.iter().map(|(entry, _)| (entry.key, placement(id, entry))).collect();
            for ((entry, elsewhere), stored) in part.iter().zip(self.packs.read(&wanted)) {
                let checked = stored.and_then(|stored| {
                    bytes.fetch_add(stored.bytes.len() as u64, Ordering::Relaxed);
                    let whole = options.depth < Depth::Hashes
                        || id_of(entry.key.kind, &stored.decode()?) == entry.key.id;
                    if whole { Ok(()) } else { Err(not_its_bytes(&entry.key.id, id)) }
                });
                match checked {
                    Err(error) if tells_damage(&error) && *elsewhere => superseded += 1,
                    Err(error) if tells_damage(&error) => {
                        bad.push((entry.key, id));
                        note(entry.key, error);
                    }
                    done => done?,
                }
            }
        }
        self.found_damaged(&bad);
        Ok((damage, superseded))
    }
}

pub(super) fn not_its_bytes(id: &ChunkId, pack: PackId) -> Error {
    Error::corrupt(format!("entry {id} in pack {pack} decodes to other bytes than its id names"))
}

/// `Corrupt` if one of the store's folders is not there: then what was in it is not just nothing.
pub(super) fn require(store: &Folder, folder: &str) -> Result<()> {
    if store.exists(folder)? {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "{} is missing: put it back, or make an empty folder there if what was in it is lost (is a disk not mounted?)",
        store.path(folder).display()
    )))
}

pub(super) fn read_descriptor(folder: &Folder) -> Result<Descriptor> {
    let path = folder.path(DESCRIPTOR_KEY);
    let Some(text) = folder.read(DESCRIPTOR_KEY, 1 << 20)? else {
        return Err(Error::corrupt(format!("{} is missing", path.display())));
    };
    Descriptor::decode(&text).map_err(|e| e.context(path.display().to_string()))
}

/// Opens a locator and reads all of it.
pub(super) fn check_locator(folder: &Folder, id: LocatorId) -> Result<OpenLocator> {
    let open = OpenLocator::open(folder, id, 0)?;
    visit_locator(&open, |_, _| ())
        .map_err(|e| e.context(format!("locator {}", folder.path(&layout::locator_key(&id)).display())))?;
    Ok(open)
}

/// Passes all rows of a locator on, in order; `Corrupt` as soon as something is not as it must be.
pub(super) fn visit_locator(
    open: &OpenLocator,
    mut visit: impl FnMut(EntryKey, gabion_store_core::store::Placement),
) -> Result<()> {
    let locator = &open.locator;
    if open.padding()?.iter().any(|byte| *byte != 0) {
        return Err(Error::corrupt("what stands before its pages is not zero"));
    }
    let mut last = None;
    for first in (0..locator.pages()).step_by(PAGES as usize) {
        let count = PAGES.min(locator.pages() - first);
        let bytes = open.read_pages(first, count)?;
        for (page, bytes) in (first..).zip(bytes.chunks_exact(PAGE_LEN)) {
            for row in locator.rows(locator.check_page(page, bytes)?) {
                let (key, place) = row?;
                if last.is_some_and(|last| last >= key) {
                    return Err(Error::corrupt("its entries are out of order"));
                }
                last = Some(key);
                visit(key, place);
            }
        }
    }
    Ok(())
}

/// Reads all of an image map or boot trace.
pub(super) fn check_map(folder: &Folder, id: MapId) -> Result<()> {
    let key = layout::map_key(&id);
    let named = |e: Error| e.context(format!("image map or boot trace {}", folder.path(&key).display()));
    let read = || {
        let bytes = folder.read(&key, MAX_MAP_LEN)?.ok_or_else(|| Error::corrupt("it is missing"))?;
        if BootTrace::is_one(&bytes) {
            return BootTrace::decode(id, &bytes).map(drop);
        }
        let (map, _) = image_map::decode_all(&bytes)?;
        if map.header().id == id { Ok(()) } else { Err(Error::corrupt("it is another one")) }
    };
    read().map_err(named)
}
