//! A host: its stores and volumes, behind one memory cache.

mod create;
mod disk;
mod lazy;
mod volume;

use std::{collections::HashMap, sync::Arc};

pub use create::Pinning;
pub use disk::OpenImage;
use gabion_store_core::{
    ChunkStore, Error, ErrorKind, Result,
    clock::{Clock, SystemClock},
    ops::IngestOptions,
    stores::Deferred,
};
use gabion_store_local::{cache::DiskCache, fs::StdFs, overlay::Volumes};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
pub use volume::OpenVolume;

use crate::{
    Opened, Origin, Places, Setting, Settings, StackOptions, StoreUrl,
    open::{blocking, open_with},
    settings::REMOTE_COMPRESSION,
};

/// Name of the default local store.
const LOCAL: &str = "local";

/// Stores and volumes of a host.
#[derive(Debug)]
pub struct Host {
    places: Places,
    settings: Settings,
    clock: Arc<dyn Clock>,
    stack: StackOptions,
    volumes: Volumes,
    stores: Mutex<HashMap<StoreUrl, Opened>>,
    /// Whether remote stores get a disk cache, and the one that they got.
    uses_disk_cache: bool,
    disk_cache: OnceCell<Option<DiskCache>>,
}

impl Host {
    /// A host with these places and settings. Touches nothing.
    pub fn new(places: Places, settings: Settings) -> Self {
        Self {
            volumes: Volumes::new(Arc::new(StdFs), places.volumes()),
            stack: StackOptions::with_memory(settings.memory_cache.value).guest_wait(settings.timeout.value),
            clock: Arc::new(SystemClock),
            stores: Mutex::default(),
            uses_disk_cache: settings.disk_cache.value > 0,
            disk_cache: OnceCell::new(),
            places,
            settings,
        }
    }

    /// Without the disk cache, which one process at a time can have: for what reads little, or nothing twice.
    #[must_use]
    pub fn without_disk_cache(mut self) -> Self {
        self.uses_disk_cache = false;
        self
    }

    /// Where things lie.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// What is in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The volumes, by name.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// How content becomes chunks in a store, by the settings.
    pub fn ingest(&self, store: &Opened) -> IngestOptions {
        let Setting { value, origin } = &self.settings.compression;
        let compression = match origin {
            Origin::Default if store.is_remote() => REMOTE_COMPRESSION,
            _ => *value,
        };
        IngestOptions { chunking: self.settings.chunker.value, compression }
    }

    /// The store that a name or a URL means.
    pub fn store_url(&self, text: &str) -> Result<StoreUrl> {
        self.named_store(text).map_or_else(|| text.parse(), Ok)
    }

    /// Place of a store by its name, or of the store in force.
    pub fn url_of(&self, name: Option<&str>) -> Result<StoreUrl> {
        match (name, &self.settings.store.value) {
            (Some(name), _) => self.named_store(name).ok_or_else(|| self.no_such_store(name)),
            (None, Some(text)) => self.store_url(text),
            (None, None) => Ok(self.local_url()),
        }
    }

    /// A store of the configuration; `local` is the default local one, if the configuration has no other.
    fn named_store(&self, name: &str) -> Option<StoreUrl> {
        let configured = self.settings.stores.get(name).cloned();
        configured.or_else(|| (name == LOCAL).then(|| self.local_url()))
    }

    /// Place of the default local store.
    pub fn local_url(&self) -> StoreUrl {
        StoreUrl::Folder(self.places.store())
    }

    fn no_such_store(&self, name: &str) -> Error {
        let known: Vec<_> =
            [LOCAL].into_iter().chain(self.settings.stores.keys().map(String::as_str)).collect();
        let known = known.join(", ");
        Error::invalid(format!(
            "there is no store '{name}' under [stores] in {} (there: {known})",
            self.places.config.display()
        ))
    }

    /// Opens the store in force. The default local store is made if it is not there.
    pub async fn store(&self) -> Result<Opened> {
        self.store_of(None).await
    }

    /// Opens a store of the configuration by its name, or the store in force.
    pub async fn store_of(&self, name: Option<&str>) -> Result<Opened> {
        self.open_or_default(&self.url_of(name)?).await
    }

    /// Opens a store. The default local one is made if it is not there.
    pub async fn open_or_default(&self, url: &StoreUrl) -> Result<Opened> {
        let open = self.stores.lock().contains_key(url);
        if *url == self.local_url() && !open {
            match self.init_store(url).await {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        self.open_store(url).await
    }

    /// Opens a store, or takes it from those that are open.
    pub async fn open_store(&self, url: &StoreUrl) -> Result<Opened> {
        let open = self.stores.lock().get(url).cloned();
        if let Some(open) = open {
            return Ok(open);
        }
        let mut stack = self.stack.clone();
        if self.uses_disk_cache && matches!(url, StoreUrl::Remote(_)) {
            stack.disk.clone_from(self.disk_cache.get_or_init(|| self.open_disk_cache()).await);
        }
        stack.heal_from = self.heal_from(url)?.map(|far| self.in_need(far));
        let opened = open_with(url, &stack).await?;
        Ok(self.stores.lock().entry(url.clone()).or_insert(opened).clone())
    }

    /// The store that damage in another one, in a folder, is made good from: another store, by the settings.
    pub fn heal_from(&self, of: &StoreUrl) -> Result<Option<StoreUrl>> {
        let Some(text) = &self.settings.heal_from.value else { return Ok(None) };
        let url = self.store_url(text).map_err(|e| e.context("heal_from"))?;
        Ok(Some(url).filter(|url| url != of && matches!(of, StoreUrl::Folder(_))))
    }

    /// Entries of a store that is opened when something in another one is damaged.
    pub fn in_need(&self, url: StoreUrl) -> Arc<dyn ChunkStore> {
        let options = self.stack.clone();
        Arc::new(Deferred::new(move || {
            let (url, options) = (url.clone(), options.clone());
            Box::pin(async move { Ok(open_with(&url, &options).await?.direct.chunks) })
        }))
    }

    /// The disk cache, or a warning.
    async fn open_disk_cache(&self) -> Option<DiskCache> {
        let (folder, capacity) = (self.places.disk_cache(), self.settings.disk_cache.value);
        match blocking(move || DiskCache::open(Arc::new(StdFs), &folder, capacity)).await {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::warn!("going on without the disk cache: {}", error.report());
                None
            }
        }
    }

    /// Waits for what the stores still do in the background: see [`Opened::settle`].
    pub async fn settle(&self) {
        let open: Vec<_> = self.stores.lock().values().cloned().collect();
        for opened in open {
            opened.settle().await;
        }
    }

    /// Makes an empty store; `AlreadyExists` if there is one.
    pub async fn init_store(&self, url: &StoreUrl) -> Result<()> {
        crate::init(url, &self.stack).await
    }
}
