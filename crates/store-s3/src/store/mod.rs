//! [`RemoteStore`]: a store in a bucket.
//!
//! - `pack`, `writer`: put ► pack in memory ► uploaded pack ► locator, for the publish to name
//! - `locators`: which entries are live, and where
//! - `read`: entries out of packs
//! - `chunks`: the above as a `ChunkStore`
//! - `records`: image records and catalog, by conditional put

use std::sync::Arc;

use gabion_store_core::{
    Error, ErrorKind, Result, Store,
    clock::{Clock, SystemClock},
    format::{
        catalog::Catalog,
        codec::Compression,
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        layout::CATALOG_KEY,
    },
    types::WriteId,
};
use object_store::{ObjectStore, path::Path};
use parking_lot::Mutex;

use crate::{
    connect::{Environment, connect},
    objects::Objects,
    timeouts::Timeouts,
    url::ObjectUrl,
};

mod chunks;
mod locators;
#[cfg(test)]
mod opening_tests;
mod pack;
mod read;
mod records;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

pub use usage::RemoteUsage;

use locators::Locators;
use writer::Writer;

/// Longest descriptor, in bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;

/// How a remote store is used. Nothing here is stored in it.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// How entries are encoded that are put decoded.
    pub compression: Compression,
    /// Bytes after which a pack is uploaded and a new one begun; at most 512 MiB.
    pub pack_target: u64,
    /// Packs that are uploaded at once; with the one being filled they bound the memory.
    pub uploads: usize,
    /// How long the bucket may take.
    pub timeouts: Timeouts,
    /// Tells the times that stand in records, for people.
    pub clock: Arc<dyn Clock>,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd(3),
            pack_target: 16 << 20,
            uploads: 3,
            timeouts: Timeouts::default(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// A store in a bucket. A clone is the same handle.
#[derive(Clone, Debug)]
pub struct RemoteStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Objects,
    descriptor: Descriptor,
    options: RemoteOptions,
    writer: Arc<Writer>,
    locators: Locators,
    /// Oldest condemn generation under which an entry was said to be here.
    answered: Mutex<Option<u64>>,
}

impl RemoteStore {
    /// Makes a store at `url` and opens it. Credentials come from the environment.
    ///
    /// **Errors**: `AlreadyExists` if there is one, `ReadOnly` for a web server, `PermissionDenied` without
    /// credentials.
    pub async fn init(url: &ObjectUrl, options: RemoteOptions) -> Result<Self> {
        if url.read_only() {
            return Err(read_only(&url.place()));
        }
        let bucket = connect(url, &options.timeouts, &Environment::of_process())?;
        Self::init_in(bucket.store, bucket.prefix, &url.place(), options).await
    }

    /// Opens the store at `url`. Credentials come from the environment.
    ///
    /// **Errors**: `NotFound` if there is none, `Unsupported` for a newer format, `PermissionDenied` without
    /// credentials.
    pub async fn open(url: &ObjectUrl, options: RemoteOptions) -> Result<Self> {
        let bucket = connect(url, &options.timeouts, &Environment::of_process())?;
        Self::open_in(bucket.store, bucket.prefix, &url.place(), options).await
    }

    /// Makes a store below `prefix` of a bucket and opens it; `AlreadyExists` if there is one.
    pub async fn init_in(
        bucket: Arc<dyn ObjectStore>,
        prefix: Path,
        place: &str,
        options: RemoteOptions,
    ) -> Result<Self> {
        let objects = Objects::new(bucket, prefix, place);
        if objects.get(DESCRIPTOR_KEY, MAX_DESCRIPTOR).await?.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{place} is a store already")));
        }
        let descriptor = Descriptor::new(options.clock.now())?;
        let catalog = Catalog::empty(WriteId::random()?).encode()?;
        match objects.create(CATALOG_KEY, catalog.into()).await {
            // Whoever was here before died before the descriptor, or is about to write it.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            other => drop(other?),
        }
        objects.create(DESCRIPTOR_KEY, descriptor.encode().into()).await?;
        Ok(Self::with(objects, descriptor, options))
    }

    /// Opens the store below `prefix` of a bucket. `NotFound` if there is none.
    pub async fn open_in(
        bucket: Arc<dyn ObjectStore>,
        prefix: Path,
        place: &str,
        options: RemoteOptions,
    ) -> Result<Self> {
        let objects = Objects::new(bucket, prefix, place);
        let Some(found) = objects.get(DESCRIPTOR_KEY, MAX_DESCRIPTOR).await? else {
            return Err(Error::not_found(format!(
                "there is no store at {place}: make one with 'gabion init {place}'"
            )));
        };
        let descriptor = Descriptor::decode(&found.bytes).map_err(|e| e.context(format!("store {place}")))?;
        Ok(Self::with(objects, descriptor, options))
    }

    fn with(objects: Objects, descriptor: Descriptor, options: RemoteOptions) -> Self {
        Self(Arc::new(Inner {
            writer: Arc::new(Writer::new(objects.clone(), options.pack_target, options.uploads)),
            locators: Locators::new(objects.clone()),
            answered: Mutex::default(),
            objects,
            descriptor,
            options,
        }))
    }

    /// Both halves of the store, for the layers above.
    pub fn into_store(self) -> Store {
        let this = Arc::new(self);
        Store { chunks: this.clone(), index: this }
    }
}

/// What a mutation of a store that can only be read is answered.
fn read_only(place: &str) -> Error {
    Error::new(ErrorKind::ReadOnly, format!("{place} is behind a web server and can only be read"))
}
