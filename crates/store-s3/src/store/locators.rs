//! The live locators: which entries the store holds for everyone, and where.

use std::{collections::BTreeMap, sync::Arc};

use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        catalog::Catalog,
        layout::{self, CATALOG_KEY},
        locator,
        rows::EntryKey,
    },
    store::Placement,
    types::LocatorId,
};
use parking_lot::Mutex;

use crate::objects::Objects;

/// Longest catalog or locator that is read into memory, in bytes.
const MAX_LEN: u64 = 1 << 30;

type Rows = BTreeMap<EntryKey, Placement>;

#[derive(Debug)]
pub(super) struct Live {
    pub(super) catalog: Catalog,
    /// Newest first.
    locators: Vec<(LocatorId, Arc<Rows>)>,
}

impl Live {
    pub(super) fn find(&self, key: &EntryKey) -> Option<Placement> {
        self.locators.iter().find_map(|(_, rows)| rows.get(key).copied())
    }
}

/// The live locators as last read.
#[derive(Debug)]
pub(super) struct Locators {
    objects: Objects,
    live: Mutex<Option<Arc<Live>>>,
    loading: tokio::sync::Mutex<()>,
}

impl Locators {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects, live: Mutex::default(), loading: tokio::sync::Mutex::default() }
    }

    /// The state last read.
    pub(super) fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().clone()
    }

    /// Reads the catalog and the locators that are new.
    pub(super) async fn reload(&self) -> Result<Arc<Live>> {
        let _loading = self.loading.lock().await;
        let found = self.objects.get(CATALOG_KEY, MAX_LEN).await?;
        let found =
            found.ok_or_else(|| Error::corrupt(format!("{} has no catalog", self.objects.place())))?;
        let catalog = Catalog::decode(&found.bytes)?;
        let before = self.live();
        let mut locators = Vec::with_capacity(catalog.locators.len());
        for reference in catalog.locators.iter().rev() {
            let known = before.iter().flat_map(|live| &live.locators).find(|(id, _)| *id == reference.id);
            let rows = match known {
                Some((_, rows)) => rows.clone(),
                None => Arc::new(self.load(reference.id).await?),
            };
            locators.push((reference.id, rows));
        }
        let live = Arc::new(Live { catalog, locators });
        *self.live.lock() = Some(live.clone());
        Ok(live)
    }

    async fn load(&self, id: LocatorId) -> Result<Rows> {
        let key = layout::locator_key(&id);
        let found = self.objects.get(&key, MAX_LEN).await?;
        let found = found.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{key} in {} is missing", self.objects.place()))
        })?;
        let (_, entries) = locator::decode_all(&found.bytes)
            .map_err(|e| e.context(format!("{key} in {}", self.objects.place())))?;
        Ok(entries.into_iter().collect())
    }
}
