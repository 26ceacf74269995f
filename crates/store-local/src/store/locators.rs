//! The live locators: which entries the store holds for everyone, and where.
//!
//! Directories of locators stay in memory, pages of rows are read on demand through a small cache, so
//! memory stays flat however many entries there are. Newer locators are asked first and win: an entry
//! that was found damaged is healed by storing it again.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        catalog::Catalog,
        layout,
        locator::{Locator, LocatorHeader},
        rows::{EntryKey, PAGE_LEN},
    },
    store::{Placement, Version},
    sync::{Mutex, RwLock},
    types::LocatorId,
};
use lru::LruCache;

use super::{folder::Folder, records};
use crate::fs::{FsFile, FsFileExt as _};

/// An open locator.
#[derive(Debug)]
pub(super) struct OpenLocator {
    pub(super) locator: Locator,
    file: Arc<dyn FsFile>,
    /// Names its pages in the cache.
    serial: u64,
    /// Where its directory ends.
    directory_end: u64,
}

impl OpenLocator {
    pub(super) fn open(folder: &Folder, id: LocatorId, serial: u64) -> Result<Self> {
        let key = layout::locator_key(&id);
        let opened = || {
            let file = folder.open(&key)?;
            let read = |at, len: usize| {
                let mut bytes = vec![0; len];
                let done = file.read_exact_at(&mut bytes, at);
                done.map(|()| bytes).map_err(|e| folder.error("reading", &key, e))
            };
            let len = file.len().map_err(|e| folder.error("reading", &key, e))?;
            let header = LocatorHeader::decode(&read(0, LocatorHeader::LEN)?, len)?;
            if header.id != id {
                return Err(Error::corrupt(format!("it is locator {}", header.id)));
            }
            // The length of the directory was checked against the file's.
            let directory = read(LocatorHeader::LEN as u64, header.directory_len())?;
            let directory_end = LocatorHeader::LEN as u64 + directory.len() as u64;
            Ok(Self { locator: Locator::decode(header, &directory)?, file, serial, directory_end })
        };
        opened()
            .map_err(|e: Error| e.context(format!("locator {} can't be used", folder.path(&key).display())))
    }

    /// What stands between the directory and the pages: zeros, and no reader looks at them.
    pub(super) fn padding(&self) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (self.locator.page_offset(0) - self.directory_end) as usize];
        self.file
            .read_exact_at(&mut bytes, self.directory_end)
            .map_err(|e| Error::io(format!("reading the padding of locator {}", self.locator.id()), e))?;
        Ok(bytes)
    }

    /// `count` pages from `page` on, one behind the other and not checked yet.
    pub(super) fn read_pages(&self, page: u32, count: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count as usize * PAGE_LEN];
        self.file
            .read_exact_at(&mut bytes, self.locator.page_offset(page))
            .map_err(|e| Error::io(format!("reading page {page} of locator {}", self.locator.id()), e))?;
        Ok(bytes)
    }
}

/// A state of the catalog and its locators.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) version: Version,
    pub(super) catalog: Catalog,
    /// Newest first. One that can't be used is an error for entries that no other holds.
    pub(super) locators: Vec<(LocatorId, Result<Arc<OpenLocator>>)>,
}

/// What a lookup says of one entry.
pub(super) type Found = Result<Option<Placement>>;

type Pages = LruCache<(u64, u32), Arc<[u8]>>;

/// The live locators as last read.
#[derive(Debug)]
pub(super) struct Locators {
    folder: Folder,
    live: RwLock<Arc<Live>>,
    /// Held while the catalog is read, so that an older state never replaces a newer one.
    loading: Mutex<()>,
    pages: Mutex<Pages>,
    serials: AtomicU64,
}

impl Locators {
    /// Reads the catalog and opens what it names. The cache holds `cache_bytes`.
    pub(super) fn open(folder: Folder, cache_bytes: usize) -> Result<Self> {
        let current = records::read_catalog(&folder)?;
        let pages = NonZeroUsize::new(cache_bytes / PAGE_LEN).unwrap_or(NonZeroUsize::MIN);
        let empty = Live { version: current.version, catalog: current.value, locators: Vec::new() };
        let locators = Self {
            folder,
            live: RwLock::new(Arc::new(Live { version: Version(bytes::Bytes::new()), ..empty })),
            loading: Mutex::new(()),
            pages: Mutex::new(LruCache::new(pages)),
            serials: AtomicU64::new(0),
        };
        locators.reload()?;
        Ok(locators)
    }

    /// The state last read.
    pub(super) fn live(&self) -> Arc<Live> {
        self.live.read().clone()
    }

    /// Reads the catalog if it changed. The second value says whether it did.
    pub(super) fn reload(&self) -> Result<(Arc<Live>, bool)> {
        let _loading = self.loading.lock();
        let before = self.live();
        // A locator may be merged away and deleted between the catalog's read and its own: once more then.
        for last in [false, true] {
            let bytes = records::catalog_bytes(&self.folder)?;
            let version = records::version_of(&bytes);
            if version == before.version {
                return Ok((before, false));
            }
            let catalog = records::read_catalog(&self.folder)?;
            let locators = self.open_all(&catalog.value, &before)?;
            let missing = |(_, locator): &(_, Result<_>)| {
                locator.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound)
            };
            if last || !locators.iter().any(missing) {
                let live = Arc::new(Live { version: catalog.version, catalog: catalog.value, locators });
                *self.live.write() = live.clone();
                return Ok((live, true));
            }
        }
        unreachable!("the second round returns")
    }

    fn open_all(
        &self,
        catalog: &Catalog,
        before: &Live,
    ) -> Result<Vec<(LocatorId, Result<Arc<OpenLocator>>)>> {
        let mut locators = Vec::with_capacity(catalog.locators.len());
        for reference in catalog.locators.iter().rev() {
            let known = before.locators.iter().find(|(id, open)| *id == reference.id && open.is_ok());
            let open = match known {
                Some((_, open)) => open.clone(),
                None => {
                    let serial = self.serials.fetch_add(1, Ordering::Relaxed);
                    OpenLocator::open(&self.folder, reference.id, serial).map(Arc::new)
                }
            };
            match open {
                Err(e) if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => return Err(e),
                open => locators.push((reference.id, open)),
            }
        }
        Ok(locators)
    }

    /// Looks for entries, which are sorted by key. An entry is absent only if every locator could be asked.
    pub(super) fn find(&self, live: &Live, keys: &[EntryKey]) -> Vec<Found> {
        let mut found: Vec<Found> = vec![Ok(None); keys.len()];
        for (id, locator) in &live.locators {
            match locator {
                Ok(locator) => self.find_in(locator, keys, &mut found),
                Err(e) => {
                    let e = Error::with_source(
                        ErrorKind::Corrupt,
                        format!(
                            "the entry may be in locator {id}, which can't be used: 'repair' makes it anew"
                        ),
                        e.clone(),
                    );
                    found
                        .iter_mut()
                        .filter(|slot| matches!(slot, Ok(None)))
                        .for_each(|slot| *slot = Err(e.clone()));
                }
            }
        }
        found
    }

    fn find_in(&self, open: &OpenLocator, keys: &[EntryKey], found: &mut [Found]) {
        // Sorted keys ask for one page many times in a row.
        let mut last: Option<(u32, Arc<[u8]>)> = None;
        for (key, slot) in keys.iter().zip(found) {
            if matches!(slot, Ok(Some(_))) {
                continue;
            }
            for number in open.locator.pages_of(key) {
                let rows = match &last {
                    Some((page, rows)) if *page == number => Ok(rows.clone()),
                    _ => self.page(open, number),
                };
                let hit = rows.and_then(|rows| {
                    let hit = open.locator.search(&rows, key);
                    last = Some((number, rows));
                    hit
                });
                match hit {
                    Ok(None) => {}
                    Ok(placement) => {
                        *slot = Ok(placement);
                        break;
                    }
                    Err(e) => {
                        let advice = match e.kind() {
                            ErrorKind::Corrupt => " ('repair' makes it anew)",
                            _ => "",
                        };
                        let context =
                            format!("locator {}{advice}, which may hold entry {}", open.locator.id(), key.id);
                        *slot = Err(e.context(context));
                    }
                }
            }
        }
    }

    /// The checked rows of a page.
    fn page(&self, open: &OpenLocator, number: u32) -> Result<Arc<[u8]>> {
        if let Some(rows) = self.pages.lock().get(&(open.serial, number)) {
            return Ok(rows.clone());
        }
        let bytes = open.read_pages(number, 1)?;
        let rows: Arc<[u8]> = open.locator.check_page(number, &bytes)?.into();
        self.pages.lock().put((open.serial, number), rows.clone());
        Ok(rows)
    }
}
