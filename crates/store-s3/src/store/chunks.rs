//! The store's entries as a [`ChunkStore`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, IndexStore as _, Result,
    format::{
        codec::{Encoded, Encoder, MAX_RAW_LEN},
        rows::EntryKey,
    },
    store::{Placement, Synced},
    types::MapId,
};

use tokio::try_join;

use super::{Inner, RemoteStore, blocking, fetch::decode, pack::Prepared, writer::Recent};

impl Inner {
    /// Which entries are there for sure, of those whose places are known; the catalog's word holds as of its condemn
    /// generation.
    fn present(&self, keys: &[EntryKey], places: &[Option<(Placement, bool)>]) -> Vec<bool> {
        let sound = |key: &EntryKey, place: &Placement| !self.damaged.is(key, place.pack);
        let mut relied = false;
        let present = keys.iter().zip(places).map(|(key, place)| match place {
            Some((place, catalog)) if sound(key, place) => {
                relied |= catalog;
                true
            }
            _ => false,
        });
        let present = present.collect();
        if relied && let Some(live) = self.locators.live() {
            let mut answered = self.answered.lock();
            *answered = Some(answered.map_or(live.generation, |oldest| oldest.min(live.generation)));
        }
        present
    }

    /// Whether this handle put an entry that no locator names yet.
    fn is_recent(&self, key: &EntryKey) -> bool {
        match self.writer.recent(key) {
            Some(Recent::Memory(..)) => true,
            Some(Recent::Placed(place)) => !self.damaged.is(key, place.pack),
            None => false,
        }
    }

    async fn append(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.descriptor.features.check_write("the store")?;
        let keys: Vec<EntryKey> = entries.iter().map(|(id, _)| EntryKey::new(kind, *id)).collect();
        let present = self.present(&keys, &self.locators.find_known(&keys));
        let absent = keys.into_iter().zip(entries).zip(present).filter(|(_, present)| !present);
        let prepare = |((key, (_, entry)), _)| Prepared::new(key, entry);
        let entries: Vec<Prepared> = absent.map(prepare).collect::<Result<_>>()?;
        if entries.is_empty() {
            return Ok(());
        }
        // A refusal is told at the first put, not once a pack is full; asking does not hold up what fills it.
        try_join!(self.objects.may_write(), self.writer.append(entries)).map(drop)
    }

    /// The generation to publish under; once an older one was handed out, only newer answers count.
    fn take_answered(&self) -> Option<u64> {
        let current = self.locators.live().map(|live| live.generation);
        let mut answered = self.answered.lock();
        let oldest = *answered;
        if oldest < current {
            *answered = oldest.and(current);
        }
        oldest
    }
}

impl RemoteStore {
    /// Which entries are there, by every locator that it takes to know.
    async fn find_in_catalog(&self, keys: &[EntryKey], newest: bool) -> Vec<Result<bool>> {
        let found = async {
            if newest || self.0.locators.live().is_none() {
                self.read_catalog().await?;
            }
            self.0.locators.find(keys).await
        };
        let found = match found.await {
            Ok(found) => found,
            Err(e) => return vec![Err(e); keys.len()],
        };
        let placed = |place: &Result<Option<Placement>>| Some((*place.as_ref().ok()?.as_ref()?, true));
        let places: Vec<_> = found.iter().map(placed).collect();
        let present = self.0.present(keys, &places);
        found.into_iter().zip(present).map(|(place, present)| place.map(|_| present)).collect()
    }
}

#[async_trait]
impl ChunkStore for RemoteStore {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        decode(ids, self.fetch(kind, ids).await).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        if let Some((id, raw)) = entries.iter().find(|(_, raw)| raw.len() > MAX_RAW_LEN) {
            return Err(Error::invalid(format!("entry {id} of {} bytes is over {MAX_RAW_LEN}", raw.len())));
        }
        let compression = self.0.options.compression;
        let encoded = blocking(move || {
            let mut encoder = Encoder::new(compression)?;
            Ok(entries.into_iter().map(|(id, raw)| (id, encoder.encode(&raw))).collect())
        });
        self.0.append(kind, encoded.await?).await
    }

    /// Best effort: "yes" is true, "no" may mean that finding out was not worth its requests.
    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let mut present: Vec<bool> = keys.iter().map(|key| self.0.is_recent(key)).collect();
        let unknown: Vec<usize> = (0..keys.len()).filter(|&n| !present[n]).collect();
        if unknown.is_empty() {
            return Ok(present);
        }
        let asked: Vec<EntryKey> = unknown.iter().map(|&n| keys[n]).collect();
        let known = self.0.locators.find_known(&asked);
        if self.0.locators.live().is_none() && known.iter().any(Option::is_none) {
            self.read_catalog().await?;
        }
        let places = self.0.locators.look(kind, &asked).await;
        for (n, found) in unknown.into_iter().zip(self.0.present(&asked, &places)) {
            present[n] = found;
        }
        Ok(present)
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let mut answers: Vec<Result<bool>> = keys.iter().map(|key| Ok(self.0.is_recent(key))).collect();
        // What another host stored may be newer than the catalog as last seen.
        for newest in [false, true] {
            let open: Vec<usize> = (0..keys.len()).filter(|&n| !matches!(answers[n], Ok(true))).collect();
            if open.is_empty() {
                break;
            }
            let asked: Vec<EntryKey> = open.iter().map(|&n| keys[n]).collect();
            let found = self.find_in_catalog(&asked, newest).await;
            for (n, held) in open.into_iter().zip(found) {
                answers[n] = held;
            }
        }
        answers
    }

    async fn sync(&self) -> Result<Synced> {
        self.0.writer.sync().await?;
        Ok(Synced { locators: self.0.locators.offered(), answered_under: self.0.take_answered() })
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        self.fetch(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.0.append(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.0.maps.expect(maps, chunks);
    }

    /// Places of what was put through this handle and synced, and of what is known without a request.
    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let mut places: Vec<Option<Placement>> = Vec::with_capacity(keys.len());
        let mut named = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            places.push(match self.0.writer.recent(key) {
                Some(Recent::Memory(_, place)) => place,
                Some(Recent::Placed(place)) => Some(place),
                None => {
                    named.push(n);
                    None
                }
            });
        }
        let keys: Vec<EntryKey> = named.iter().map(|&n| keys[n]).collect();
        for (n, place) in named.into_iter().zip(self.0.locators.find_own(&keys).await?) {
            places[n] = place;
        }
        Ok(places)
    }
}
