//! Merging locators in tiers, so that few are asked for an entry.
//!
//! A locator's tier is the logarithm, to base 8, of its entries. Once eight are of one tier, they and what
//! is newer become one. Only neighbours in age are merged, so that the order of the rest
//! still says which of two places of an entry is the newer. Sources are read twice, in windows: memory
//! stays flat however large they are.

use std::sync::Arc;

use super::{
    folder::Folder,
    locators::{Live, OpenLocator},
    records,
};
use gabion_store_core::{
    Error, ErrorKind, Result,
    clock::Timestamp,
    format::{
        catalog::{LocatorRef, Replaced},
        layout,
        locator::Outline,
        rows::{EntryKey, PAGE_LEN},
    },
    store::Placement,
    types::{LocatorId, WriteId},
};

/// How much larger the locators of each tier are than those of the one below.
const FAN_IN: u32 = 8;
/// Locators of one tier that are merged, at least.
const ENOUGH: usize = FAN_IN as usize;
/// Pages read at once from one source.
const WINDOW: u32 = 64;
/// Bytes written at once.
const WRITE: usize = 1 << 20;

/// Merges what has become due. `false` if nothing was, or if the catalog changed so that the work is void.
pub(super) fn merge(folder: &Folder, live: &Live, now: Timestamp) -> Result<bool> {
    let Some(sources) = due(live) else { return Ok(false) };
    let id = LocatorId::random()?;
    let key = layout::locator_key(&id);
    let most = sources.iter().map(|source| u64::from(source.locator.entries())).sum();
    let mut outline = Outline::new(most);
    let mut pass = Pass::new(&sources)?;
    while let Some((entry, placement)) = pass.next()? {
        outline.add(&entry, &placement.pack)?;
    }
    let mut rows = outline.finish(id);
    let reference = rows.reference();
    folder.write_new(&key, |append| {
        let mut pass = Pass::new(&sources)?;
        while let Some((entry, placement)) = pass.next()? {
            rows.push(entry, &placement)?;
            if rows.ready() >= WRITE {
                append(&rows.take())?;
            }
        }
        append(&rows.finish())
    })?;
    let merged: Vec<LocatorId> = sources.iter().rev().map(|source| source.locator.id()).collect();
    match replace(folder, &merged, reference, now) {
        Err(e) if e.kind() == ErrorKind::Conflict => {
            folder.remove_quietly(&key);
            Ok(false)
        }
        // After any other error the catalog may name the new locator: it stays.
        done => done.map(|()| true),
    }
}

/// The newest locators that should become one, newest first: those up to the first that is above the
/// least tier of which there are enough.
fn due(live: &Live) -> Option<Vec<Arc<OpenLocator>>> {
    // One that can't be used stays where it is, and so does all that is older.
    let usable: Vec<&Arc<OpenLocator>> =
        live.locators.iter().map_while(|(_, open)| open.as_ref().ok()).collect();
    let tiers: Vec<u32> = usable.iter().map(|open| open.locator.entries().max(1).ilog(FAN_IN)).collect();
    let newest_of = |tier: u32| tiers.iter().take_while(move |next| **next <= tier);
    let tier =
        (0..=u32::BITS).find(|tier| newest_of(*tier).filter(|next| *next == tier).count() >= ENOUGH)?;
    Some(usable.into_iter().take(newest_of(tier).count()).cloned().collect())
}

/// Puts `merged` into the place of `sources` (oldest first) in the catalog. `Conflict` if they are not
/// there side by side any more.
fn replace(folder: &Folder, sources: &[LocatorId], merged: LocatorRef, now: Timestamp) -> Result<()> {
    let write_id = WriteId::random()?;
    records::change_catalog(folder, |catalog| {
        let ids: Vec<LocatorId> = catalog.locators.iter().map(|locator| locator.id).collect();
        let Some(at) = ids.windows(sources.len()).position(|window| window == sources) else {
            return Err(Error::new(ErrorKind::Conflict, "the locators were merged by someone else"));
        };
        catalog.locators.splice(at..at + sources.len(), [merged]);
        catalog.retire(sources.iter().map(|id| Replaced::Locator(*id, now)));
        catalog.write_id = write_id;
        Ok(())
    })
    .map(|_| ())
}

/// One pass over the entries of all sources, sorted; of two places of one entry the newer.
struct Pass<'a> {
    cursors: Vec<Cursor<'a>>,
}

impl<'a> Pass<'a> {
    fn new(sources: &'a [Arc<OpenLocator>]) -> Result<Self> {
        let cursors = sources.iter().map(|source| Cursor::new(source)).collect::<Result<_>>()?;
        Ok(Self { cursors })
    }

    fn next(&mut self) -> Result<Option<(EntryKey, Placement)>> {
        let heads = self.cursors.iter().filter_map(Cursor::head);
        // The first of several that are equal: the newest.
        let Some((key, placement)) = heads.min_by_key(|(key, _)| *key) else { return Ok(None) };
        for cursor in &mut self.cursors {
            if cursor.head().is_some_and(|head| head.0 == key) {
                cursor.advance()?;
            }
        }
        Ok(Some((key, placement)))
    }
}

/// A place in one source.
struct Cursor<'a> {
    source: &'a OpenLocator,
    next_page: u32,
    window: Vec<(EntryKey, Placement)>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a OpenLocator) -> Result<Self> {
        let mut cursor = Self { source, next_page: 0, window: Vec::new(), at: 0 };
        cursor.fill()?;
        Ok(cursor)
    }

    fn head(&self) -> Option<(EntryKey, Placement)> {
        self.window.get(self.at).copied()
    }

    fn advance(&mut self) -> Result<()> {
        self.at += 1;
        if self.at == self.window.len() { self.fill() } else { Ok(()) }
    }

    fn fill(&mut self) -> Result<()> {
        self.window.clear();
        self.at = 0;
        let locator = &self.source.locator;
        let count = WINDOW.min(locator.pages() - self.next_page);
        if count == 0 {
            return Ok(());
        }
        let bytes = self.source.read_pages(self.next_page, count)?;
        for page in bytes.chunks_exact(PAGE_LEN) {
            let rows = locator.check_page(self.next_page, page)?;
            for row in locator.rows(rows) {
                self.window.push(row?);
            }
            self.next_page += 1;
        }
        Ok(())
    }
}
