//! Locators: which entries the store holds for everyone, and where.
//!
//! Small ones are loaded whole by one request; of large ones header and directory, and pages as they are needed.
//! Newer locators win: an entry that was found damaged is healed by storing it again.
//!
//! **What may be asked**: a read may ask all it needs. "Is it there?" is best effort: "no" is always a good answer
//! in a bucket, and costs an upload that could have been saved. So such questions have an [`Allowance`].

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use gabion_store_core::{
    ChunkKind, Error, ErrorKind, Result,
    format::{
        catalog::{Catalog, LocatorRef},
        layout,
        locator::{Locator, LocatorHeader, ROWS_PER_PAGE},
        rows::{EntryKey, FanOut, PAGE_LEN},
    },
    store::Placement,
    sync::Mutex,
    types::LocatorId,
};

use super::{allowance::Allowance, shelf::Shelf};
use crate::objects::Objects;

/// Bytes of rows up to which a locator is read whole when it is opened.
const WHOLE: u64 = 1 << 20;
/// Bytes that pages are read in; ids are random, so neighbours are of no use.
const PIECE: u64 = 4 * PAGE_LEN as u64;
/// Longest directory, in bytes: that of 16 million entries in 3 million packs.
const MAX_DIRECTORY: u64 = 64 << 20;
/// Bytes of memory for locators, and for pages of those that are not whole.
const LOCATORS: usize = 24 << 20;
const PIECES: usize = 4 << 20;
/// Requests at once of one call.
const CONCURRENCY: usize = 8;
/// Entries whose pages are held at a time.
const BATCH: usize = 64;
/// Own locators that are remembered once the catalog names them: as many as one publish may have written.
const OWN: usize = 64;
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

/// A locator that this handle wrote.
#[derive(Clone, Copy, Debug)]
struct Own {
    reference: LocatorRef,
    /// The catalog names it, or did.
    named: bool,
}

/// The locators of a store: those of the catalog as last seen, and those of this handle that it does not name yet.
#[derive(Debug)]
pub(super) struct Locators {
    objects: Objects,
    live: Mutex<Option<Arc<Live>>>,
    /// Those that this handle wrote lately, oldest first.
    own: Mutex<Vec<Own>>,
    open: Shelf<LocatorId, Arc<OpenLocator>>,
    pieces: Shelf<(LocatorId, u64), Bytes>,
    allowance: Mutex<Allowance>,
    /// One question at a time loads locators: the next finds them in memory, and need not be allowed them again.
    looking: tokio::sync::Mutex<()>,
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
            looking: tokio::sync::Mutex::default(),
        }
    }

    /// The catalog was read or written.
    pub(super) fn observe(&self, catalog: &Catalog) {
        let live = Live {
            generation: catalog.condemn_generation,
            locators: catalog.locators.iter().rev().copied().collect(),
        };
        *self.live.lock() = Some(Arc::new(live));
        let mut own = self.own.lock();
        for own in own.iter_mut() {
            own.named |= catalog.locators.contains(&own.reference);
        }
        let mut superfluous = own.iter().filter(|own| own.named).count().saturating_sub(OWN);
        own.retain(|own| {
            let drop = own.named && superfluous > 0;
            superfluous -= usize::from(drop);
            !drop
        });
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
        self.own.lock().push(Own { reference, named: false });
        Ok(())
    }

    /// Locators that the catalog may not name yet, oldest first.
    pub(super) fn offered(&self) -> Vec<LocatorRef> {
        self.own.lock().iter().filter(|own| !own.named).map(|own| own.reference).collect()
    }

    /// All locators, newest first, and how many of them are not the catalog's.
    fn all(&self) -> (Vec<LocatorRef>, usize) {
        let mut all = self.offered();
        all.reverse();
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

    /// As [`find_known`](Self::find_known), and what this handle put is found even if its locators were too many to
    /// stay in memory. Whoever asks in the order of the puts fetches each of them once.
    pub(super) async fn find_own(&self, keys: &[EntryKey]) -> Result<Vec<Option<Placement>>> {
        let known = self.find_known(keys).into_iter();
        let mut found: Vec<Option<Placement>> = known.map(|place| place.map(|(place, _)| place)).collect();
        let own = self.own.lock().clone();
        for Own { reference, .. } in own.iter().rev() {
            let missing: Vec<usize> = (0..keys.len()).filter(|&n| found[n].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            if self.open.peek(&reference.id).is_none() {
                let open = self.load_whole(reference).await?;
                let places = self.search(reference, &open, keys, missing).await?;
                places.into_iter().for_each(|(n, place)| found[n] = Some(place));
            }
        }
        Ok(found)
    }

    /// As [`find_known`](Self::find_known), with such requests as the allowance has left.
    pub(super) async fn look(&self, kind: ChunkKind, keys: &[EntryKey]) -> Vec<Option<(Placement, bool)>> {
        let mut found = self.find_known(keys);
        let missing = |found: &[Option<_>]| found.iter().filter(|place| place.is_none()).count();
        self.allowance.lock().asked(missing(&found));
        if missing(&found) == 0 {
            return found;
        }
        let looking = self.looking.lock().await;
        found = self.find_known(keys);
        let (all, own) = self.all();
        let mut order: Vec<&LocatorRef> = all.iter().collect();
        // A node is likely among the newest. A chunk can be anywhere: a request is to tell of as many as it can.
        if kind == ChunkKind::Data {
            order.sort_by_key(|reference| Reverse(reference.entries));
        }
        for reference in order {
            if missing(&found) == 0 {
                break;
            }
            let in_memory = self.open.peek(&reference.id).is_some_and(|open| open.whole.is_some());
            // What can't be loaded counts as absent.
            if !in_memory
                && self.allowance.lock().take(rows_len(reference))
                && self.load_whole(reference).await.is_ok()
            {
                found = self.find_known(keys);
            }
        }
        drop(looking);
        // A node that is there saves all below it, so it is worth a request of its own.
        if kind != ChunkKind::Data {
            for (n, reference) in all.iter().enumerate() {
                let Some(open) = self.open.peek(&reference.id) else { continue };
                if open.whole.is_some() {
                    continue;
                }
                let missing = (0..keys.len()).filter(|&n| found[n].is_none()).take(ASKED_NODES);
                let asked: Vec<usize> = missing.take_while(|_| self.allowance.lock().take(PIECE)).collect();
                // What can't be asked counts as absent.
                let places = self.search(reference, &open, keys, asked).await.unwrap_or_default();
                places.into_iter().for_each(|(k, place)| found[k] = Some((place, n >= own)));
            }
        }
        found
    }

    /// Places of entries, asking every locator that it takes. An entry is absent only if every locator could be asked.
    pub(super) async fn find(&self, keys: &[EntryKey]) -> Result<Vec<Result<Option<Placement>>>> {
        let (all, _) = self.all();
        let opened = all.into_iter().map(|reference| async move { (reference, self.open(&reference).await) });
        let opened: Vec<_> = stream::iter(opened.collect::<Vec<_>>()).buffered(CONCURRENCY).collect().await;
        // Small ones are in memory. Of the others those are asked that may hold a newer place than what is known.
        let mut found: Vec<Option<(usize, Placement)>> = vec![None; keys.len()];
        let mut unusable = None;
        let mut searches = Vec::new();
        for (age, (reference, open)) in opened.iter().enumerate() {
            match open {
                Ok(open) => {
                    let missing: Vec<usize> = (0..keys.len()).filter(|&n| found[n].is_none()).collect();
                    if open.whole.is_none() {
                        searches
                            .push(async move { (age, self.search(reference, open, keys, missing).await) });
                        continue;
                    }
                    match self.search(reference, open, keys, missing).await {
                        Ok(places) => places.into_iter().for_each(|(n, place)| found[n] = Some((age, place))),
                        Err(e) => cannot_tell(reference, e, &mut unusable)?,
                    }
                }
                Err(e) => cannot_tell(reference, e.clone(), &mut unusable)?,
            }
        }
        let mut searches = stream::iter(searches).buffer_unordered(CONCURRENCY);
        while let Some((age, places)) = searches.next().await {
            match places {
                Ok(places) => {
                    for (n, place) in places {
                        if found[n].is_none_or(|(newest, _)| age < newest) {
                            found[n] = Some((age, place));
                        }
                    }
                }
                Err(e) => cannot_tell(&opened[age].0, e, &mut unusable)?,
            }
        }
        let answer = |found: Option<(usize, Placement)>| match (found, &unusable) {
            (None, Some(e)) => Err(e.clone()),
            _ => Ok(found.map(|(_, place)| place)),
        };
        Ok(found.into_iter().map(answer).collect())
    }

    /// Looks in one locator for some of the keys, once more if part of it is damaged.
    async fn search(
        &self,
        reference: &LocatorRef,
        open: &OpenLocator,
        keys: &[EntryKey],
        which: Vec<usize>,
    ) -> Result<Vec<(usize, Placement)>> {
        match self.search_once(reference.id, open, keys, &which).await {
            Err(e) if e.kind() == ErrorKind::Corrupt => {
                self.forget(reference.id, open, keys);
                self.search_once(reference.id, &*self.open(reference).await?, keys, &which).await
            }
            searched => searched,
        }
    }

    async fn search_once(
        &self,
        id: LocatorId,
        open: &OpenLocator,
        keys: &[EntryKey],
        which: &[usize],
    ) -> Result<Vec<(usize, Placement)>> {
        let mut found = Vec::new();
        for batch in which.chunks(BATCH) {
            let pieces = match open.whole {
                Some(_) => HashMap::new(),
                None => self.load_pieces(id, open, batch.iter().map(|&n| &keys[n])).await?,
            };
            for &n in batch {
                let place = open.search(&keys[n], |at| match &open.whole {
                    Some(whole) => whole.get(at as usize..at as usize + PAGE_LEN),
                    None => {
                        let within = (at % PIECE) as usize;
                        pieces.get(&(at / PIECE))?.get(within..within + PAGE_LEN)
                    }
                })?;
                found.extend(place.map(|place| (n, place)));
            }
        }
        Ok(found)
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

    /// A locator: all of it if it is small, else what says where its pages are.
    async fn open(&self, reference: &LocatorRef) -> Result<Arc<OpenLocator>> {
        let rows = rows_len(reference);
        let head = match rows <= WHOLE {
            true => whole_len(reference),
            // Header, fan-out, and a pack for every few hundred entries; if there are more, a second request.
            false => 4096 + FanOut::encoded_len(reference.entries) as u64 + rows / 512,
        };
        self.open.get_or(&reference.id, self.read(reference.id, head)).await
    }

    /// A locator with all its bytes in memory, if it is as long as the catalog lets expect.
    pub(super) async fn load_whole(&self, reference: &LocatorRef) -> Result<Arc<OpenLocator>> {
        let id = reference.id;
        if let Some(open) = self.open.peek(&id).filter(|open| open.whole.is_some()) {
            return Ok(open);
        }
        let (open, weight) = self.read(id, whole_len(reference)).await?;
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

/// What a locator that can't be used leaves open; only a store that can't be reached is an error at once.
fn cannot_tell(reference: &LocatorRef, e: Error, unusable: &mut Option<Error>) -> Result<()> {
    if !matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
        return Err(e);
    }
    let context = format!("it may be in locator {}, which can't be used: run 'check'", reference.id);
    *unusable = Some(Error::with_source(ErrorKind::Corrupt, context, e));
    Ok(())
}

/// Bytes of the rows of a locator, whatever its directory takes.
fn rows_len(reference: &LocatorRef) -> u64 {
    (reference.entries / ROWS_PER_PAGE as u64 + 1).saturating_mul(PAGE_LEN as u64)
}

/// Bytes within which a locator lies, even if each entry is in a pack of its own.
fn whole_len(reference: &LocatorRef) -> u64 {
    (64 << 10) + (rows_len(reference) / 2).saturating_mul(3)
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
