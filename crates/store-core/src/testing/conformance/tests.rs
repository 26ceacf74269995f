//! The suites must fail: each of these stores breaks one promise, and a suite says so.

use std::{
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;

use super::*;
use crate::{
    ChunkId, ChunkKind, Error, ErrorKind, ImageName, Result,
    format::{catalog::Catalog, codec::Encoded, descriptor::Descriptor, image_record::ImageRecord},
    store::{Placement, Synced, Version, Versioned},
    stores::MemoryStore,
    testing::FixedClock,
    types::MapId,
};

/// The promise that a [`Broken`] store breaks.
#[derive(Clone, Copy, Debug)]
enum Breaks {
    OrderOfAnswers,
    NumberOfAnswers,
    KindOfAbsence,
    PresenceOfAll,
    PresenceOfNone,
    RepeatedPut,
    RangeBounds,
    EncodedForm,
    Places,
    ForgetsAtSync,
    CreateReplaces,
    LostSwapSucceeds,
    LostSwapIsWrongKind,
    RemovesAnyVersion,
    ListUnsorted,
    CatalogSwapIgnored,
    MapAbsentIsEmpty,
    SwapNotAtomic,
}

#[derive(Debug)]
struct Broken(Arc<MemoryStore>, Breaks, AtomicBool);

fn broken(breaks: Breaks) -> Broken {
    let store = Arc::new(MemoryStore::new(&FixedClock::default()).unwrap());
    Broken(store, breaks, AtomicBool::new(false))
}

#[async_trait]
impl ChunkStore for Broken {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let mut answers = self.0.get(kind, ids).await;
        match self.1 {
            Breaks::OrderOfAnswers => answers.reverse(),
            Breaks::ForgetsAtSync if self.2.load(Ordering::SeqCst) => {
                answers.fill(Err(Error::not_found("broken on purpose")));
            }
            Breaks::NumberOfAnswers => answers.retain(Result::is_ok),
            Breaks::KindOfAbsence => {
                let other = |_| Error::new(ErrorKind::Unavailable, "broken on purpose");
                answers = answers.into_iter().map(|answer| answer.map_err(other)).collect();
            }
            _ => {}
        }
        answers
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        if matches!(self.1, Breaks::RepeatedPut) {
            let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
            if self.0.contains(kind, &ids).await?.contains(&true) {
                return Err(Error::new(ErrorKind::AlreadyExists, "broken on purpose"));
            }
        }
        self.0.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        match self.1 {
            Breaks::PresenceOfAll => Ok(vec![true; ids.len()]),
            Breaks::PresenceOfNone => Ok(vec![false; ids.len()]),
            _ => self.0.contains(kind, ids).await,
        }
    }

    async fn sync(&self) -> Result<Synced> {
        if matches!(self.1, Breaks::ForgetsAtSync) {
            self.2.store(true, Ordering::SeqCst);
        }
        self.0.sync().await
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        if matches!(self.1, Breaks::RangeBounds) {
            let whole = crate::store::get_one(&self.0, kind, id).await?;
            let end = start.saturating_add(length).min(whole.len());
            return Ok(whole.slice(start.min(end)..end));
        }
        self.0.get_range(kind, id, start, length).await
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let mut answers = self.0.get_encoded(kind, ids).await;
        if matches!(self.1, Breaks::EncodedForm) {
            for answer in answers.iter_mut().flatten() {
                answer.raw_len += 1;
            }
        }
        answers
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let mut places = self.0.locate(kind, ids).await?;
        if matches!(self.1, Breaks::Places) {
            places.pop();
        }
        Ok(places)
    }
}

#[async_trait]
impl IndexStore for Broken {
    fn descriptor(&self) -> &Descriptor {
        self.0.descriptor()
    }

    async fn read_image(&self, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
        self.0.read_image(name).await
    }

    async fn write_image(&self, record: &ImageRecord, expected: Option<&Version>) -> Result<Version> {
        let found = self.0.read_image(&record.name).await?.map(|found| found.version);
        match self.1 {
            Breaks::CreateReplaces if expected.is_none() => self.0.write_image(record, found.as_ref()).await,
            Breaks::LostSwapSucceeds if expected.is_some() => {
                self.0.write_image(record, found.as_ref()).await
            }
            Breaks::LostSwapIsWrongKind => {
                let other = |_| Error::new(ErrorKind::AlreadyExists, "broken on purpose");
                self.0.write_image(record, expected).await.map_err(other)
            }
            Breaks::SwapNotAtomic if found.as_ref() == expected => {
                // Between the comparison and the swap another writer comes in.
                tokio::task::yield_now().await;
                let now = self.0.read_image(&record.name).await?.map(|found| found.version);
                self.0.write_image(record, now.as_ref()).await
            }
            _ => self.0.write_image(record, expected).await,
        }
    }

    async fn remove_image(&self, name: &ImageName, expected: &Version) -> Result<()> {
        let found = self.0.read_image(name).await?;
        match (self.1, found) {
            (Breaks::RemovesAnyVersion, Some(found)) => self.0.remove_image(name, &found.version).await,
            _ => self.0.remove_image(name, expected).await,
        }
    }

    async fn list_images(&self) -> Result<Vec<Result<ImageName>>> {
        let mut names = self.0.list_images().await?;
        if matches!(self.1, Breaks::ListUnsorted) {
            names.reverse();
        }
        Ok(names)
    }

    async fn read_catalog(&self) -> Result<Versioned<Catalog>> {
        self.0.read_catalog().await
    }

    async fn write_catalog(&self, catalog: &Catalog, expected: &Version) -> Result<Version> {
        if matches!(self.1, Breaks::CatalogSwapIgnored) {
            let found = self.0.read_catalog().await?.version;
            return self.0.write_catalog(catalog, &found).await;
        }
        self.0.write_catalog(catalog, expected).await
    }

    async fn put_map(&self, id: MapId, map: Bytes) -> Result<()> {
        self.0.put_map(id, map).await
    }

    async fn get_map(&self, id: MapId) -> Result<Bytes> {
        let map = self.0.get_map(id).await;
        if matches!(self.1, Breaks::MapAbsentIsEmpty) { Ok(map.unwrap_or_default()) } else { map }
    }
}

#[tokio::test]
async fn each_broken_promise_of_a_chunk_store_is_found() {
    use Breaks::{
        EncodedForm, ForgetsAtSync, KindOfAbsence, NumberOfAnswers, OrderOfAnswers, Places, PresenceOfAll,
        PresenceOfNone, RangeBounds, RepeatedPut,
    };
    for breaks in [
        OrderOfAnswers,
        NumberOfAnswers,
        KindOfAbsence,
        PresenceOfAll,
        PresenceOfNone,
        RepeatedPut,
        RangeBounds,
        EncodedForm,
        Places,
        ForgetsAtSync,
    ] {
        let suite = chunk_store(Capabilities::FULL, async || broken(breaks));
        assert!(AssertUnwindSafe(suite).catch_unwind().await.is_err(), "{breaks:?} went unnoticed");
    }
    let placed =
        chunk_store(Capabilities::FULL.with_placements(true), async || broken(Breaks::SwapNotAtomic));
    assert!(AssertUnwindSafe(placed).catch_unwind().await.is_err(), "absent placements went unnoticed");
}

#[tokio::test]
async fn each_broken_promise_of_an_index_store_is_found() {
    use Breaks::{
        CatalogSwapIgnored, CreateReplaces, ListUnsorted, LostSwapIsWrongKind, LostSwapSucceeds,
        MapAbsentIsEmpty, RemovesAnyVersion, SwapNotAtomic,
    };
    for breaks in [
        CreateReplaces,
        LostSwapSucceeds,
        LostSwapIsWrongKind,
        RemovesAnyVersion,
        ListUnsorted,
        CatalogSwapIgnored,
        MapAbsentIsEmpty,
        SwapNotAtomic,
    ] {
        let suite = index_store(Capabilities::FULL, async || broken(breaks));
        assert!(AssertUnwindSafe(suite).catch_unwind().await.is_err(), "{breaks:?} went unnoticed");
    }
    // What is admitted is not tried.
    index_store(Capabilities::FULL.with_atomic_cas(false), async || broken(SwapNotAtomic)).await;
}
