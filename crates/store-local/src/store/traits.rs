//! The store's traits over [`LocalStore`]: each call is one hop to a blocking thread.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, ImageName, IndexStore, Result,
    blocking::spawn_blocking,
    format::{catalog::Catalog, codec::Encoded, descriptor::Descriptor, image_record::ImageRecord, layout},
    store::{Placement, Synced, Version, Versioned},
    types::MapId,
};

use super::{Inner, LocalStore, placed, records};

/// Longest image map that is read into memory, in bytes.
const MAX_MAP_LEN: u64 = 1 << 30;

impl LocalStore {
    /// Runs `work` on a blocking thread. It is finished there even if the caller goes away.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Inner>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.0.clone();
        match spawn_blocking(move || work(&inner)).await {
            Ok(done) => done,
            Err(e) => Err(Error::with_source(ErrorKind::Cancelled, "the store's work was cut off", e)),
        }
    }

    async fn blocking_each<T: Clone + Send + 'static>(
        &self,
        count: usize,
        work: impl FnOnce(&Arc<Inner>) -> Vec<Result<T>> + Send + 'static,
    ) -> Vec<Result<T>> {
        match self.blocking(move |inner| Ok(work(inner))).await {
            Ok(each) => each,
            Err(e) => vec![Err(e); count],
        }
    }
}

#[async_trait]
impl ChunkStore for LocalStore {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let ids = ids.to_vec();
        self.blocking_each(ids.len(), move |inner| inner.get(kind, &ids)).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.blocking(move |inner| inner.put(kind, entries)).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let ids = ids.to_vec();
        self.blocking(move |inner| inner.contains(kind, &ids)).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let ids = ids.to_vec();
        let count = ids.len();
        match self.blocking(move |inner| inner.holds(kind, &ids)).await {
            Ok(each) => each,
            Err(e) => vec![Err(e); count],
        }
    }

    async fn sync(&self) -> Result<Synced> {
        let until = self.0.writer.queue.next();
        loop {
            self.blocking(|inner| inner.seal_all()).await?;
            self.0.writer.wait().await;
            self.0.writer.fault()?;
            // What became ready last made all live, unless it had to wait for a pack that was opened since.
            if !self.0.writer.queue.is_waiting(until) {
                break;
            }
        }
        // Nobody waits for merges. Dropping the handle of a blocking task leaves it running.
        let inner = self.0.clone();
        drop(spawn_blocking(move || inner.merge_locators()));
        // Locators enter the catalog as soon as they are durable, so none is left for a publish to add.
        Ok(Synced { locators: Vec::new(), answered_under: self.0.take_answered() })
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let ids = ids.to_vec();
        self.blocking_each(ids.len(), move |inner| inner.get_stored(kind, &ids)).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.blocking(move |inner| inner.put_encoded(kind, entries)).await
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let keys: Vec<_> =
            ids.iter().map(|id| gabion_store_core::format::rows::EntryKey::new(kind, *id)).collect();
        self.blocking(move |inner| Ok(inner.find_now(&keys)?.iter().map(placed).collect())).await
    }
}

#[async_trait]
impl IndexStore for LocalStore {
    fn descriptor(&self) -> &Descriptor {
        &self.0.descriptor
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        let name = name.clone();
        self.blocking(move |inner| records::read_image(&inner.folder, &name)).await
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let (record, expected) = (record.clone(), expected.cloned());
        self.blocking(move |inner| records::write_image(&inner.folder, &record, expected.as_ref())).await
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        let (name, expected) = (name.clone(), expected.clone());
        self.blocking(move |inner| records::remove_image(&inner.folder, &name, &expected)).await
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        self.blocking(|inner| records::list_images(&inner.folder)).await
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        self.blocking(|inner| records::read_catalog(&inner.folder)).await
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        let (catalog, expected) = (catalog.clone(), expected.clone());
        self.blocking(move |inner| records::write_catalog(&inner.folder, &catalog, &expected)).await
    }

    async fn settle(&self) -> Result<()> {
        self.blocking(|inner| records::settle(&inner.folder)).await
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.blocking(move |inner| inner.folder.replace(&layout::map_key(&id), &map)).await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        self.blocking(move |inner| {
            let found = inner.folder.read(&layout::map_key(&id), MAX_MAP_LEN)?;
            found.map(Bytes::from).ok_or_else(|| Error::not_found(format!("image map {id} is not there")))
        })
        .await
    }

    async fn map_len(&self, id: MapId) -> Result<u64> {
        self.blocking(move |inner| inner.folder.len(&layout::map_key(&id))).await
    }
}
