//! [`RemoteStore`]: a store in a bucket.
//!
//! - `pack`, `writer`: put ► pack in memory ► uploaded pack ► locator, for the publish to name
//! - `maps`: where the nodes and chunks of an image lie
//! - `locators`, `allowance`: which entries are live, and where; what finding out may cost
//! - `merge`: many locators become few
//! - `read`, `windows`: entries out of packs; nodes with their neighbours
//! - `fetch`, `chunks`: the above as a `ChunkStore`
//! - `damaged`: entries that count as absent
//! - `shelf`: what was fetched, once at a time and within a number of bytes
//! - `records`: image records and catalog, by conditional put

use std::sync::Arc;

use gabion_store_core::{
    Error, ErrorKind, Result, Store,
    blocking::spawn_blocking,
    clock::{Clock, SystemClock},
    format::{
        catalog::Catalog,
        codec::Compression,
        descriptor::{DESCRIPTOR_KEY, Descriptor},
        layout::CATALOG_KEY,
    },
    sync::Mutex,
    types::WriteId,
};
use object_store::{ObjectStore, path::Path};

use crate::{
    connect::{Bucket, Environment, connect},
    objects::{Objects, Writes},
    requests::{Created, Requests},
    timeouts::Timeouts,
    url::ObjectUrl,
};

mod allowance;
mod chunks;
mod damaged;
mod fetch;
mod locators;
mod maps;
mod merge;
#[cfg(test)]
mod opening_tests;
mod pack;
mod read;
mod recalled;
mod records;
mod shelf;
#[cfg(test)]
mod tests;
mod usage;
mod windows;
mod writer;

pub use usage::RemoteUsage;

use damaged::Damaged;
use locators::Locators;
use maps::Maps;
use read::Packs;
use recalled::Recalled;
use windows::Windows;
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
    /// Only this process writes, so the bucket's conditional writes need not hold. Data is lost if that is not
    /// so.
    pub single_writer: bool,
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
            single_writer: false,
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
    recalled: Recalled,
    options: RemoteOptions,
    writer: Arc<Writer>,
    locators: Arc<Locators>,
    maps: Maps,
    packs: Packs,
    windows: Windows,
    damaged: Damaged,
    /// Oldest condemn generation under which an entry was said to be here.
    answered: Mutex<Option<u64>>,
    /// Held by the one merge of locators that runs.
    merging: Arc<tokio::sync::Mutex<()>>,
}

impl RemoteStore {
    /// Makes a store at `url` and opens it. Credentials come from the environment.
    ///
    /// **Errors**: `AlreadyExists` if there is one, `ReadOnly` for a web server, `PermissionDenied` without
    /// credentials, `Unsupported` if the bucket's conditional writes don't hold.
    pub async fn init(url: &ObjectUrl, options: RemoteOptions) -> Result<Self> {
        Self::make(Self::objects_at(url, &options)?, options).await
    }

    /// Opens the store at `url`. Credentials come from the environment. Nothing is written, and whether it can be
    /// is not asked before the first write.
    ///
    /// **Errors**: `NotFound` if there is none, `Unsupported` for a newer format, `PermissionDenied` without
    /// credentials.
    pub async fn open(url: &ObjectUrl, options: RemoteOptions) -> Result<Self> {
        Self::load(Self::objects_at(url, &options)?, &url.to_string(), options).await
    }

    /// Makes a store below `prefix` of a bucket and opens it; as [`init`](Self::init). Errors call it `place`.
    pub async fn init_in(
        bucket: Arc<dyn ObjectStore>,
        prefix: Path,
        place: &str,
        options: RemoteOptions,
    ) -> Result<Self> {
        let requests = Requests::new(bucket, prefix, place, options.timeouts);
        Self::make(Objects::new(requests, writes(options.single_writer)), options).await
    }

    /// Opens the store below `prefix` of a bucket; as [`open`](Self::open). Errors call it `place`.
    pub async fn open_in(
        bucket: Arc<dyn ObjectStore>,
        prefix: Path,
        place: &str,
        options: RemoteOptions,
    ) -> Result<Self> {
        let requests = Requests::new(bucket, prefix, place, options.timeouts);
        Self::load(Objects::new(requests, writes(options.single_writer)), place, options).await
    }

    /// Whether the store can't be written through this handle, because it is behind a web server.
    pub fn read_only(&self) -> bool {
        self.0.objects.read_only()
    }

    fn objects_at(url: &ObjectUrl, options: &RemoteOptions) -> Result<Objects> {
        let Bucket { store, prefix, endpoint } = connect(url, &options.timeouts, &Environment::of_process())?;
        let mut requests = Requests::new(store, prefix, &url.place(), options.timeouts);
        if let Some(endpoint) = endpoint {
            requests = requests.at_endpoint(&endpoint);
        }
        let writes = match url.read_only() {
            true => Writes::None,
            false => writes(options.single_writer || url.options().single_writer),
        };
        Ok(Objects::new(requests, writes))
    }

    async fn make(objects: Objects, options: RemoteOptions) -> Result<Self> {
        let exists =
            || Error::new(ErrorKind::AlreadyExists, format!("{} is a store already", objects.place()));
        if !objects.read_only() && objects.get(DESCRIPTOR_KEY, MAX_DESCRIPTOR).await?.is_some() {
            return Err(exists());
        }
        let descriptor = Descriptor::new(options.clock.now())?;
        // One that is there already is that of somebody who died before the descriptor, or is about to write it.
        objects.create(CATALOG_KEY, Catalog::empty(WriteId::random()?).encode()?.into()).await?;
        match objects.create(DESCRIPTOR_KEY, descriptor.encode().into()).await? {
            Created::Done(_) => Ok(Self::with(objects, descriptor, options)),
            Created::Exists(_) => Err(exists()),
        }
    }

    async fn load(objects: Objects, url: &str, options: RemoteOptions) -> Result<Self> {
        let place = objects.place();
        let found = objects.get_decoded(DESCRIPTOR_KEY, MAX_DESCRIPTOR, Descriptor::decode).await;
        let Some((descriptor, _)) =
            found.map_err(|e| e.context(format!("the store at {place} can't be opened")))?
        else {
            return Err(Error::not_found(format!(
                "there is no store at {place}: make one with \"gabion init '{}'\"",
                url.replace('\'', "%27")
            )));
        };
        let refusal = descriptor.features.check_write(&format!("the store at {place}")).err();
        let objects = objects.refusing_writes(refusal);
        Ok(Self::with(objects, descriptor, options))
    }

    fn with(objects: Objects, descriptor: Descriptor, options: RemoteOptions) -> Self {
        let locators = Arc::new(Locators::new(objects.clone()));
        let (target, uploads) = (options.pack_target, options.uploads);
        Self(Arc::new(Inner {
            writer: Arc::new(Writer::new(objects.clone(), locators.clone(), target, uploads)),
            locators,
            maps: Maps::new(objects.clone()),
            packs: Packs::new(objects.clone()),
            windows: Windows::new(objects.clone()),
            damaged: Damaged::default(),
            answered: Mutex::default(),
            merging: Arc::default(),
            recalled: Recalled::default(),
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

fn writes(single: bool) -> Writes {
    if single { Writes::Single } else { Writes::Shared }
}

/// Runs what takes the processor's time, or blocks, where that is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(Error::with_source(ErrorKind::Cancelled, "the store's work was cut off", e)),
    }
}
