//! Merging locators, so that few have to be asked for an entry.
//!
//! Once the catalog names more than [`MANY`], those neighbours in age that are smallest together become one, in the
//! background of a publish that has just ended. Only neighbours, so that the order of the rest still says which of
//! two places of an entry is the newer; and only up to a size, so that memory is bounded: a merge holds its sources
//! and its result. Nothing depends on it, and a publish that comes in between makes it void or passes it by.

use std::sync::Arc;

use bytes::Bytes;
use gabion_store_core::{
    Error, ErrorKind, IndexStore as _, Result,
    format::{
        catalog::{Catalog, LocatorRef, Replaced},
        layout,
        locator::Outline,
        rows::{EntryKey, PAGE_LEN},
    },
    store::Placement,
    sync::spawn,
    types::{LocatorId, WriteId},
};

use super::{RemoteStore, blocking, locators::OpenLocator};

/// Locators that a catalog may name before some are merged.
pub(super) const MANY: usize = 16;
/// Locators that become one, at most.
const FAN_IN: usize = 8;
/// Entries of a merged locator, at most: some 16 MiB, held twice.
const MAX_ENTRIES: u64 = 300_000;
/// Attempts at changing the catalog.
const ATTEMPTS: usize = 8;

impl RemoteStore {
    /// Merges locators in the background if there are many. Called when a publish has ended.
    pub(super) fn merge_soon(&self) {
        let due = self.0.locators.live().is_some_and(|live| live.locators.len() > MANY);
        if !due {
            return;
        }
        let Ok(one) = self.0.merging.clone().try_lock_owned() else { return };
        let this = self.clone();
        drop(spawn(async move {
            let _one = one;
            if let Err(error) = this.merge_locators().await {
                tracing::info!(error = %error.report(), "merging locators failed; it is tried again");
            }
        }));
    }

    /// Waits for what this handle does in the background beside its uploads, which [`sync`] waits for. A process that
    /// ends without it loses nothing, but leaves the work to others.
    ///
    /// [`sync`]: gabion_store_core::ChunkStore::sync
    pub async fn settle(&self) {
        drop(self.0.merging.lock().await);
    }

    /// Merges as long as there are many.
    async fn merge_locators(&self) -> Result<()> {
        let mut before = usize::MAX;
        loop {
            let Some(live) = self.0.locators.live() else { return Ok(()) };
            // Others merge, too: whoever makes no progress stops.
            if live.locators.len() <= MANY || live.locators.len() >= before {
                return Ok(());
            }
            before = live.locators.len();
            let oldest_first: Vec<LocatorRef> = live.locators.iter().rev().copied().collect();
            let Some(sources) = due(&oldest_first) else { return Ok(()) };
            self.merge(sources).await?;
        }
    }

    /// Makes one locator of neighbours, oldest first.
    async fn merge(&self, sources: &[LocatorRef]) -> Result<()> {
        let mut opened = Vec::with_capacity(sources.len());
        for source in sources.iter().rev() {
            opened.push(self.0.locators.load_whole(source).await?);
        }
        let id = LocatorId::random()?;
        let (reference, bytes) = blocking(move || merged(id, &opened)).await?;
        self.0.objects.put(&layout::locator_key(&id), bytes.into()).await?;
        let ids: Vec<LocatorId> = sources.iter().map(|source| source.id).collect();
        for _ in 0..ATTEMPTS {
            let found = self.read_catalog().await?;
            let mut catalog = found.value;
            self.replace_locators(&mut catalog, &ids, reference)?;
            match self.write_catalog(&catalog, &found.version).await {
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                done => return done.map(drop),
            }
        }
        Err(Error::new(ErrorKind::Conflict, "the catalog keeps changing"))
    }

    /// Puts `merged` into the place of `sources`. `Conflict` if they are not there side by side any more.
    fn replace_locators(
        &self,
        catalog: &mut Catalog,
        sources: &[LocatorId],
        merged: LocatorRef,
    ) -> Result<()> {
        let ids: Vec<LocatorId> = catalog.locators.iter().map(|locator| locator.id).collect();
        let at = ids.windows(sources.len()).position(|window| window == sources);
        let at = at.ok_or_else(|| Error::new(ErrorKind::Conflict, "they were merged by someone else"))?;
        catalog.locators.splice(at..at + sources.len(), [merged]);
        let now = self.0.options.clock.now();
        catalog.retire(sources.iter().map(|id| Replaced::Locator(*id, now)));
        catalog.write_id = WriteId::random()?;
        Ok(())
    }
}

/// The neighbours that cost least for each locator that they make superfluous.
fn due(locators: &[LocatorRef]) -> Option<&[LocatorRef]> {
    let entries = |run: &[LocatorRef]| run.iter().fold(0, |sum, locator| locator.entries.saturating_add(sum));
    let runs = (2..=FAN_IN).flat_map(|len| locators.windows(len));
    let fits = runs.filter(|run| entries(run) <= MAX_ENTRIES);
    fits.min_by_key(|run| (entries(run) / (run.len() as u64 - 1), std::cmp::Reverse(run.len())))
}

/// One locator over the entries of others, newest first and whole.
fn merged(id: LocatorId, sources: &[Arc<OpenLocator>]) -> Result<(LocatorRef, Bytes)> {
    let most = sources.iter().map(|source| u64::from(source.locator.entries())).sum();
    let mut outline = Outline::new(most);
    let mut pass = Pass::new(sources)?;
    while let Some((key, place)) = pass.next()? {
        outline.add(&key, &place.pack)?;
    }
    let mut rows = outline.finish(id);
    let reference = rows.reference();
    let mut pass = Pass::new(sources)?;
    while let Some((key, place)) = pass.next()? {
        rows.push(key, &place)?;
    }
    Ok((reference, rows.finish().into()))
}

/// One pass over the entries of all sources, sorted; of two places of one entry the newer.
struct Pass<'a>(Vec<Cursor<'a>>);

impl<'a> Pass<'a> {
    fn new(sources: &'a [Arc<OpenLocator>]) -> Result<Self> {
        Ok(Self(sources.iter().map(|source| Cursor::new(source)).collect::<Result<_>>()?))
    }

    fn next(&mut self) -> Result<Option<(EntryKey, Placement)>> {
        let heads = self.0.iter().filter_map(|cursor| cursor.rows.last());
        // The first of several that are equal: the newest.
        let Some((key, place)) = heads.min_by_key(|(key, _)| *key).copied() else { return Ok(None) };
        for cursor in &mut self.0 {
            if cursor.rows.last().is_some_and(|(head, _)| *head == key) {
                cursor.advance()?;
            }
        }
        Ok(Some((key, place)))
    }
}

/// A place in one source: the rest of a page, last row first, and the page behind it.
struct Cursor<'a> {
    source: &'a OpenLocator,
    rows: Vec<(EntryKey, Placement)>,
    next_page: u32,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a OpenLocator) -> Result<Self> {
        let mut cursor = Self { source, rows: Vec::new(), next_page: 0 };
        cursor.fill()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<()> {
        self.rows.pop();
        if self.rows.is_empty() { self.fill() } else { Ok(()) }
    }

    fn fill(&mut self) -> Result<()> {
        let locator = &self.source.locator;
        if self.next_page < locator.pages() {
            let at = locator.page_offset(self.next_page) as usize;
            let bytes = self.source.whole.as_ref().and_then(|whole| whole.get(at..at + PAGE_LEN));
            let rows = locator.check_page(self.next_page, bytes.unwrap_or_default())?;
            self.rows = locator.rows(rows).collect::<Result<_>>()?;
            self.rows.reverse();
            self.next_page += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn locators(entries: &[u64]) -> Vec<LocatorRef> {
        let id = |n: usize| LocatorId::from_bytes([u8::try_from(n).expect("few"); 16]);
        entries.iter().enumerate().map(|(n, entries)| LocatorRef { id: id(n), entries: *entries }).collect()
    }

    #[test]
    fn the_smallest_neighbours_are_due() {
        let all = locators(&[5_000_000, 200_000, 10, 10, 10, 150_000, 10]);
        assert_eq!(due(&all), Some(&all[2..5]));
        assert_eq!(due(&locators(&[200_000, 200_000, 200_000])), None, "too large together");
        assert_eq!(due(&locators(&[u64::MAX, u64::MAX])), None);
    }

    proptest! {
        #[test]
        fn merging_ends_with_few(sizes in prop::collection::vec(0..1000_u64, 17..60)) {
            let mut all = locators(&sizes);
            while all.len() > MANY {
                let run = due(&all).expect("small ones can always be merged").to_vec();
                let at = all.iter().position(|locator| locator.id == run[0].id).expect("it is one of them");
                let entries = run.iter().map(|locator| locator.entries).sum();
                all.splice(at..at + run.len(), [LocatorRef { entries, ..run[0] }]);
            }
        }
    }
}
