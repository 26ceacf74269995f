//! Entries: put into packs, found by what this handle put itself or by the live locators.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::{
        codec::{Encoded, Encoder, MAX_RAW_LEN},
        rows::EntryKey,
    },
    store::{Placement, Synced},
    types::MapId,
};

use super::{Inner, RemoteStore, pack::Prepared, read, writer::Recent};

impl Inner {
    fn answered(&self, generation: u64) {
        let mut answered = self.answered.lock();
        *answered = Some(answered.map_or(generation, |oldest| oldest.min(generation)));
    }

    /// Places in the live locators; the catalog is read anew if something is missing.
    async fn find(&self, keys: &[EntryKey]) -> Result<Vec<Option<Placement>>> {
        if let Some(live) = self.locators.live() {
            let found: Vec<_> = keys.iter().map(|key| live.find(key)).collect();
            if found.iter().all(Option::is_some) {
                return Ok(found);
            }
        }
        let live = self.locators.reload().await?;
        Ok(keys.iter().map(|key| live.find(key)).collect())
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let mut results: Vec<Option<Result<Encoded>>> = vec![None; keys.len()];
        let mut wanted = Vec::new();
        let mut unknown = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            match self.writer.recent(key) {
                Some(Recent::Memory(entry, _)) => results[n] = Some(Ok(entry)),
                Some(Recent::Placed(place)) => wanted.push((n, (*key, place))),
                None => unknown.push(n),
            }
        }
        if !unknown.is_empty() {
            let asked: Vec<_> = unknown.iter().map(|&n| keys[n]).collect();
            match self.find(&asked).await {
                Ok(places) => {
                    for (n, place) in unknown.into_iter().zip(places) {
                        match place {
                            Some(place) => wanted.push((n, (keys[n], place))),
                            None => {
                                let place = self.objects.place();
                                let absent = format!("entry {} is not in the store {place}", keys[n].id);
                                results[n] = Some(Err(Error::not_found(absent)));
                            }
                        }
                    }
                }
                Err(e) => unknown.into_iter().for_each(|n| results[n] = Some(Err(e.clone()))),
            }
        }
        let places: Vec<_> = wanted.iter().map(|(_, place)| *place).collect();
        for ((n, _), result) in wanted.into_iter().zip(read::read(&self.objects, &places).await) {
            results[n] = Some(result);
        }
        results.into_iter().map(|result| result.expect("every entry was asked for")).collect()
    }

    async fn append(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.descriptor.features.check_write("the store")?;
        let prepare = |(id, entry)| Prepared::new(EntryKey::new(kind, id), entry);
        let mut prepared = entries.into_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        if let Some(live) = self.locators.live() {
            let before = prepared.len();
            prepared.retain(|entry| live.find(&entry.key()).is_none());
            if prepared.len() < before {
                self.answered(live.catalog.condemn_generation);
            }
        }
        self.writer.append(prepared).await
    }
}

#[async_trait]
impl ChunkStore for RemoteStore {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let entries = self.0.get_encoded(kind, ids).await;
        let decoded = ids.iter().zip(entries).map(|(id, entry)| {
            entry?.decode().map_err(|e| e.context(format!("entry {id} can't be decoded")))
        });
        decoded.collect()
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        if let Some((id, raw)) = entries.iter().find(|(_, raw)| raw.len() > MAX_RAW_LEN) {
            return Err(Error::invalid(format!("entry {id} of {} bytes is over {MAX_RAW_LEN}", raw.len())));
        }
        let mut encoder = Encoder::new(self.0.options.compression)?;
        let encode = move || entries.into_iter().map(|(id, raw)| (id, encoder.encode(&raw))).collect();
        let encoded = tokio::task::spawn_blocking(encode).await;
        let encoded = encoded
            .map_err(|e| Error::with_source(ErrorKind::Cancelled, "the store's work was cut off", e))?;
        self.0.append(kind, encoded).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let keys: Vec<EntryKey> = ids.iter().map(|id| EntryKey::new(kind, *id)).collect();
        let mut present: Vec<bool> = keys.iter().map(|key| self.0.writer.recent(key).is_some()).collect();
        let unknown: Vec<usize> = (0..keys.len()).filter(|&n| !present[n]).collect();
        if !unknown.is_empty() {
            let asked: Vec<_> = unknown.iter().map(|&n| keys[n]).collect();
            let found = self.0.find(&asked).await?;
            for (n, place) in unknown.into_iter().zip(found) {
                present[n] = place.is_some();
            }
        }
        if let Some(live) = self.0.locators.live() {
            self.0.answered(live.catalog.condemn_generation);
        }
        Ok(present)
    }

    async fn sync(&self) -> Result<Synced> {
        let locators = self.0.writer.sync().await?;
        Ok(Synced { locators, answered_under: *self.0.answered.lock() })
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        self.0.get_encoded(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.0.append(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        let _ = (maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let live = self.0.locators.live();
        let locate = |id: &ChunkId| {
            let key = EntryKey::new(kind, *id);
            match self.0.writer.recent(&key) {
                Some(Recent::Memory(_, place)) => place,
                Some(Recent::Placed(place)) => Some(place),
                None => live.as_ref().and_then(|live| live.find(&key)),
            }
        };
        Ok(ids.iter().map(locate).collect())
    }
}
