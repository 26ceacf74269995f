//! Locators: which entries the store holds for everyone, and where.
//!
//! Small ones are loaded whole by one request; of large ones header and directory, and pages as they are needed.
//! Newer locators win: an entry that was found damaged is healed by storing it again.
//!
//! **What may be asked**: a read may ask all it needs. "Is it there?" is best effort: "no" is always a good answer
//! in a bucket, and costs an upload that could have been saved. So such questions have an [`Allowance`].

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gabion_store_core::{
    ChunkKind, Error, ErrorKind, Result,
    format::{
        catalog::{Catalog, LocatorRef},
        layout,
        locator::{Locator, LocatorHeader, ROWS_PER_PAGE},
        rows::{EntryKey, PAGE_LEN},
    },
    store::Placement,
    types::LocatorId,
};
use parking_lot::Mutex;

use super::{allowance::Allowance, shelf::Shelf};
use crate::objects::Objects;

/// Bytes read when a locator is opened. One that is not longer is whole in memory then.
const HEAD: u64 = 1 << 20;
/// Bytes that pages are read in; ids are random, so neighbours are of no use.
const PIECE: u64 = 4 * PAGE_LEN as u64;
/// Longest directory, in bytes: that of 16 million entries in 3 million packs.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Bytes of memory for locators, and for pages of those that are not whole.
const LOCATORS: usize = 40 << 20;
const PIECES: usize = 4 << 20;
/// Requests at once of one call.
const CONCURRENCY: usize = 8;
/// Entries whose pages are held at a time.
const BATCH: usize = 64;
/// Nodes of one question that large locators are asked for.
const ASKED_NODES: usize = 4;

/// The catalog's locators at one moment.
#[derive(Debug)]
pub(super) struct Live {
    /// Condemn generation of the catalog.
    pub(super) generation: u64,
    /// Newest first.
    pub(super) locators: Vec<LocatorRef>,
}

/// A locator in memory.
#[derive(Debug)]
pub(super) struct OpenLocator {
    pub(super) locator: Locator,
    /// All of its bytes, if it was worth it.
    pub(super) whole: Option<Bytes>,
}

/// The locators of a store: those of the catalog as last seen, and those of this handle that it does not name yet.
#[derive(Debug)]
pub(super) struct Locators {
    objects: Objects,
    live: Mutex<Option<Arc<Live>>>,
    /// Oldest first.
    own: Mutex<Vec<LocatorRef>>,
    open: Shelf<LocatorId, Arc<OpenLocator>>,
    pieces: Shelf<(LocatorId, u64), Bytes>,
    allowance: Mutex<Allowance>,
}

impl Locators {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            live: Mutex::default(),
            own: Mutex::default(),
            open: Shelf::new(LOCATORS),
            pieces: Shelf::new(PIECES),
            allowance: Mutex::default(),
        }
    }

    /// The catalog was read or written.
    pub(super) fn observe(&self, catalog: &Catalog) {
        let live = Live {
            generation: catalog.condemn_generation,
            locators: catalog.locators.iter().rev().copied().collect(),
        };
        *self.live.lock() = Some(Arc::new(live));
        self.own.lock().retain(|own| !catalog.locators.iter().any(|known| known.id == own.id));
    }

    /// The catalog's locators as last seen.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().clone()
    }

    /// A locator that this handle wrote.
    pub(super) fn adopt(&self, reference: LocatorRef, bytes: Bytes) -> Result<()> {
        let len = bytes.len();
        let header = LocatorHeader::decode(&bytes[..LocatorHeader::LEN], len as u64)?;
        let directory = &bytes[LocatorHeader::LEN..LocatorHeader::LEN + header.directory_len()];
        let locator = Locator::decode(header, directory)?;
        self.open.put(reference.id, Arc::new(OpenLocator { locator, whole: Some(bytes) }), len);
        self.own.lock().push(reference);
        Ok(())
    }

    /// Locators that the catalog may not name yet, oldest first.
    pub(super) fn offered(&self) -> Vec<LocatorRef> {
        self.own.lock().clone()
    }

    /// All locators, newest first, and how many of them are not the catalog's.
    fn all(&self) -> (Vec<LocatorRef>, usize) {
        let mut all: Vec<LocatorRef> = self.own.lock().iter().rev().copied().collect();
        let own = all.len();
        if let Some(live) = self.live() {
            all.extend(live.locators.iter().copied());
        }
        (all, own)
    }

    /// Places that are known without a request; with each, whether it is the catalog's word.
    pub(super) fn find_known(&self, keys: &[EntryKey]) -> Vec<Option<(Placement, bool)>> {
        let (all, own) = self.all();
        let mut found = vec![None; keys.len()];
        for (n, reference) in all.iter().enumerate() {
            let Some(open) = self.open.peek(&reference.id) else { continue };
            let Some(whole) = &open.whole else { continue };
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                // One that is damaged is found so by a read.
                let place = open.search(key, |at| whole.get(at as usize..at as usize + PAGE_LEN));
                *found = place.ok().flatten().map(|place| (place, n >= own));
            }
        }
        found
    }

    /// As [`find_known`](Self::find_known), with such requests as the allowance has left.
    pub(super) async fn look(&self, kind: ChunkKind, keys: &[EntryKey]) -> Vec<Option<(Placement, bool)>> {
        let mut found = self.find_known(keys);
        let missing = |found: &[Option<_>]| found.iter().filter(|place| place.is_none()).count();
        self.allowance.lock().asked(missing(&found));
        let (all, own) = self.all();
        let mut loaded = false;
        for reference in &all {
            if missing(&found) == 0 {
                break;
            }
            let in_memory = self.open.peek(&reference.id).is_some_and(|open| open.whole.is_some());
            if !in_memory && self.allowance.lock().take(rows_len(reference)) {
                loaded |= self.load_whole(reference).await.is_ok();
            }
        }
        if loaded {
            found = self.find_known(keys);
        }
        // A node that is there saves all below it, so it is worth a request of its own.
        if kind != ChunkKind::Data {
            for (n, reference) in all.iter().enumerate() {
                let Some(open) = self.open.peek(&reference.id) else { continue };
                if open.whole.is_some() {
                    continue;
                }
                let some: Vec<usize> =
                    (0..keys.len()).filter(|&n| found[n].is_none()).take(ASKED_NODES).collect();
                for k in some {
                    if !self.allowance.lock().take(PIECE) {
                        return found;
                    }
                    let mut place = [None];
                    let searched = self.search(reference.id, &open, &keys[k..=k], &mut place).await;
                    if searched.is_ok() {
                        found[k] = place[0].map(|place| (place, n >= own));
                    }
                }
            }
        }
        found
    }

    /// Places of entries, asking every locator that it takes. An entry is absent only if every locator could be asked.
    pub(super) async fn find(&self, keys: &[EntryKey]) -> Result<Vec<Result<Option<Placement>>>> {
        let (all, _) = self.all();
        let opened =
            all.into_iter().map(|reference| async move { (reference.id, self.open(reference.id).await) });
        let opened: Vec<_> = stream::iter(opened.collect::<Vec<_>>()).buffered(CONCURRENCY).collect().await;
        let mut found: Vec<Option<Placement>> = vec![None; keys.len()];
        let mut unusable = None;
        for (id, open) in opened {
            let searched = match open {
                Ok(open) => match self.search(id, &open, keys, &mut found).await {
                    Err(e) if e.kind() == ErrorKind::Corrupt => {
                        self.forget(id, &open, keys);
                        let again = self.open(id).await;
                        match again {
                            Ok(open) => self.search(id, &open, keys, &mut found).await,
                            Err(e) => Err(e),
                        }
                    }
                    searched => searched,
                },
                Err(e) => Err(e),
            };
            match searched {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
                    let context = format!("it may be in locator {id}, which can't be used: run 'check'");
                    unusable = Some(Error::with_source(ErrorKind::Corrupt, context, e));
                }
                Err(e) => return Err(e),
            }
        }
        let answer = |place: Option<Placement>| match (&place, &unusable) {
            (None, Some(e)) => Err(e.clone()),
            _ => Ok(place),
        };
        Ok(found.into_iter().map(answer).collect())
    }

    /// Looks in one locator for what was not found yet.
    async fn search(
        &self,
        id: LocatorId,
        open: &OpenLocator,
        keys: &[EntryKey],
        found: &mut [Option<Placement>],
    ) -> Result<()> {
        let missing: Vec<usize> = (0..keys.len()).filter(|&n| found[n].is_none()).collect();
        for batch in missing.chunks(BATCH) {
            let pieces = match open.whole {
                Some(_) => HashMap::new(),
                None => self.load_pieces(id, open, batch.iter().map(|&n| &keys[n])).await?,
            };
            for &n in batch {
                found[n] = open.search(&keys[n], |at| match &open.whole {
                    Some(whole) => whole.get(at as usize..at as usize + PAGE_LEN),
                    None => {
                        let within = (at % PIECE) as usize;
                        pieces.get(&(at / PIECE))?.get(within..within + PAGE_LEN)
                    }
                })?;
            }
        }
        Ok(())
    }

    async fn load_pieces(
        &self,
        id: LocatorId,
        open: &OpenLocator,
        keys: impl Iterator<Item = &EntryKey>,
    ) -> Result<HashMap<u64, Bytes>> {
        let pages = keys.flat_map(|key| open.locator.pages_of(key));
        let mut numbers: Vec<u64> = pages.map(|page| open.locator.page_offset(page) / PIECE).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let len = open.locator.page_offset(open.locator.pages());
        let load = |number: u64| async move {
            let fetch = async {
                let range = number * PIECE..len.min((number + 1) * PIECE);
                let bytes = self.objects.get_range(&layout::locator_key(&id), range).await?;
                let weight = bytes.len();
                Ok((bytes, weight))
            };
            Ok((number, self.pieces.get_or(&(id, number), fetch).await?))
        };
        let loads: Vec<_> = numbers.into_iter().map(load).collect();
        stream::iter(loads).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn open(&self, id: LocatorId) -> Result<Arc<OpenLocator>> {
        self.open.get_or(&id, self.read(id, HEAD)).await
    }

    /// A locator with all its bytes in memory, if it is as long as the catalog lets expect.
    pub(super) async fn load_whole(&self, reference: &LocatorRef) -> Result<Arc<OpenLocator>> {
        let id = reference.id;
        if let Some(open) = self.open.peek(&id).filter(|open| open.whole.is_some()) {
            return Ok(open);
        }
        // Rows, and a directory that is less than half as long, even if each entry has a pack of its own.
        let (open, weight) =
            self.read(id, HEAD.saturating_add((rows_len(reference) / 2).saturating_mul(3))).await?;
        self.open.put(id, open.clone(), weight);
        Ok(open)
    }

    /// Damage may have happened on the way only: what is in memory of a locator is fetched again.
    fn forget(&self, id: LocatorId, open: &OpenLocator, keys: &[EntryKey]) {
        self.open.remove(&id);
        for page in keys.iter().flat_map(|key| open.locator.pages_of(key)) {
            self.pieces.remove(&(id, open.locator.page_offset(page) / PIECE));
        }
    }

    /// Reads a locator, all of it if it is at most `head` bytes long.
    async fn read(&self, id: LocatorId, head: u64) -> Result<(Arc<OpenLocator>, usize)> {
        let key = layout::locator_key(&id);
        let context = |e: Error| e.context(format!("{key} in {}", self.objects.place()));
        let head = self.objects.get_window(&key, 0..head).await?;
        let short = || context(Error::corrupt("it is too short"));
        let header = head.bytes.get(..LocatorHeader::LEN).ok_or_else(short)?;
        let header = LocatorHeader::decode(header, head.object_len).map_err(context)?;
        if header.id != id || header.directory_len() as u64 > MAX_DIRECTORY {
            return Err(context(Error::corrupt(format!("it is locator {}", header.id))));
        }
        let end = LocatorHeader::LEN + header.directory_len();
        let locator = match head.bytes.get(LocatorHeader::LEN..end) {
            Some(directory) => Locator::decode(header, directory),
            None => {
                let rest = self.objects.get_range(&key, head.bytes.len() as u64..end as u64).await?;
                Locator::decode(header, &[&head.bytes[LocatorHeader::LEN..], &rest].concat())
            }
        };
        let locator = locator.map_err(context)?;
        let whole = (head.bytes.len() as u64 == head.object_len).then_some(head.bytes);
        let weight = whole.as_ref().map_or(header.directory_len(), Bytes::len);
        Ok((Arc::new(OpenLocator { locator, whole }), weight))
    }
}

/// Bytes of the rows of a locator, whatever its directory takes.
fn rows_len(reference: &LocatorRef) -> u64 {
    (reference.entries / ROWS_PER_PAGE as u64 + 1).saturating_mul(PAGE_LEN as u64)
}

impl OpenLocator {
    /// Looks for an entry in the pages that can hold it.
    fn search<'a>(
        &self,
        key: &EntryKey,
        page_at: impl Fn(u64) -> Option<&'a [u8]>,
    ) -> Result<Option<Placement>> {
        for page in self.locator.pages_of(key) {
            let bytes = page_at(self.locator.page_offset(page)).unwrap_or_default();
            let rows = self.locator.check_page(page, bytes)?;
            if let Some(place) = self.locator.search(rows, key)? {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
}
