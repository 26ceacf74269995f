//! From a store's URL to a stack.
//!
//! ```text
//! Opened.store   Cached (memory) ─► DiskCached (for remote stores) ─► the store
//!                                ─► Healing (for folders, if told)  ─► the store, and another one in need
//! Opened.uncached()                 Healing                         ─► the same
//! Opened.direct                                                        the store
//! ```
//!
//! The caches verify what enters them, `Healing` what it answers.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use futures::future::join_all;
use gabion_store_core::{
    CheckpointId, ChunkStore, Error, ErrorKind, ImageName, Result, Store,
    format::image_record::ImageRecord,
    index::{Index, NodeCache},
    stores::{Cached, Healing, MemoryCache},
    types::MapId,
    volume::{IndexBase, Readahead},
};
use gabion_store_local::{
    cache::{DiskCache, DiskCached},
    fs::StdFs,
    store::LocalStore,
};
use gabion_store_s3::{ObjectUrl, RemoteOptions, RemoteStore, Timeouts};

use crate::settings::default_memory_cache;

/// A store's place. No secret is part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreUrl {
    /// A folder of this host, by absolute path.
    Folder(PathBuf),
    /// A bucket, or a store's folder behind a web server.
    Remote(ObjectUrl),
}

impl FromStr for StoreUrl {
    type Err = Error;

    /// A path, `file:///folder`, or what [`ObjectUrl`] understands.
    fn from_str(text: &str) -> Result<Self> {
        let path = match text.split_once("://") {
            None => text,
            // In any case, as schemes are: FILE:///folder must not be the bucket that a folder can stand for.
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => match path.starts_with('/') {
                true => path,
                false => {
                    return Err(Error::invalid(format!("'{text}': a file URL is file:///ABSOLUTE/PATH")));
                }
            },
            Some(_) => return text.parse().map(Self::Remote),
        };
        if path.is_empty() {
            return Err(Error::invalid("a store's place is a folder or a URL, as s3://BUCKET/PREFIX"));
        }
        let path = std::path::absolute(path).map_err(|e| Error::io(format!("'{text}' is no path"), e))?;
        Ok(Self::Folder(path))
    }
}

impl StoreUrl {
    /// The place alone, without the options of a URL: for people.
    pub fn place(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Remote(url) => url.place(),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file://{}", path.display()),
            Self::Remote(url) => url.fmt(f),
        }
    }
}

/// An open store, with the caches in front of it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Where it is.
    pub url: StoreUrl,
    /// Entries through verification and the caches, images and catalog.
    pub store: Store,
    /// Its index nodes.
    pub nodes: Arc<NodeCache>,
    /// The store itself, past every cache: for checks and transfers, and what is read once.
    pub direct: Store,
    /// What is known of the kind of store it is.
    pub kind: StoreKind,
    readahead: Readahead,
    healing: Option<Healing>,
}

/// The store behind an [`Opened`], for what only its kind can tell.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// A folder of this host.
    Local(Arc<LocalStore>),
    /// A bucket, or a store's folder behind a web server.
    Remote(RemoteStore),
}

impl Opened {
    /// The store past the caches, damage made good from elsewhere if the host is told so: for what is read once.
    pub fn uncached(&self) -> Store {
        let chunks = self.healing.clone().map(|healing| Arc::new(healing) as Arc<dyn ChunkStore>);
        Store {
            chunks: chunks.unwrap_or_else(|| Arc::clone(&self.direct.chunks)),
            index: Arc::clone(&self.direct.index),
        }
    }

    /// Waits for what is still done in the background: locators of a bucket that are merged, entries of a folder
    /// that are healed. A process that ends without it loses nothing, but leaves that work to others.
    pub async fn settle(&self) {
        match (&self.kind, &self.healing) {
            (StoreKind::Remote(store), _) => store.settle().await,
            (_, Some(healing)) => healing.settle().await,
            _ => {}
        }
    }

    /// Whether reading it takes requests over a network.
    pub fn is_remote(&self) -> bool {
        matches!(self.kind, StoreKind::Remote(_))
    }

    /// The disk of an index of this store, with the maps of its image; sequential reads are fetched ahead of if the
    /// store is remote.
    pub fn base(&self, index: Index, maps: &[MapId]) -> IndexBase {
        let base = IndexBase::new(index).with_maps(maps);
        if self.is_remote() { base.with_readahead(&self.readahead) } else { base }
    }

    /// The record of the first of these images that has a checkpoint, if the store is remote: its maps spare
    /// requests. What can't be had is left out.
    pub(crate) async fn origin(
        &self,
        images: &[&ImageName],
        checkpoint: CheckpointId,
    ) -> Option<ImageRecord> {
        if !self.is_remote() {
            return None;
        }
        let records = images.iter().map(|image| self.store.index.recall_image(image));
        let has = |record: &ImageRecord| record.history.iter().any(|entry| entry.checkpoint == checkpoint);
        join_all(records).await.into_iter().flatten().flatten().map(|found| found.value).find(has)
    }
}

/// What stands in front of stores, and how remote ones are reached. Stores that are opened with clones of one
/// share its caches.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Memory for decoded entries.
    pub memory: Arc<MemoryCache>,
    /// Memory for index nodes of each store, in bytes.
    pub nodes: usize,
    /// Disk cache of what remote stores answer.
    pub disk: Option<DiskCache>,
    /// What may be on its way from remote stores ahead of the reader.
    pub readahead: Readahead,
    /// What stores in folders make damage good from; a bucket, say, that their images were pulled from.
    pub heal_from: Option<Arc<dyn ChunkStore>>,
    /// How buckets are used.
    pub remote: RemoteOptions,
}

/// Part of a memory budget that goes to index nodes.
const NODE_SHARE: u64 = 16;
/// Part of a memory budget that may be on its way into it ahead of readers, and the most: two fast streams.
const READAHEAD_SHARE: u64 = 4;
const MOST_READAHEAD: u64 = 64 << 20;

impl StackOptions {
    /// A memory cache of `memory` bytes, and what else follows from it.
    pub fn with_memory(memory: u64) -> Self {
        let bytes = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            memory: Arc::new(MemoryCache::new(bytes(memory))),
            nodes: bytes(memory / NODE_SHARE),
            disk: None,
            heal_from: None,
            readahead: Readahead::new((memory / READAHEAD_SHARE).min(MOST_READAHEAD)),
            remote: RemoteOptions::default(),
        }
    }

    /// Has remote stores answer, by an error if need be, before a guest that waits `longest` gives up.
    #[must_use]
    pub fn guest_wait(mut self, longest: Duration) -> Self {
        self.remote.timeouts = Timeouts::for_guest_wait(longest);
        self
    }
}

impl Default for StackOptions {
    /// Memory: the lesser of 1 GiB and a quarter of the machine's.
    fn default() -> Self {
        Self::with_memory(default_memory_cache())
    }
}

/// Opens the store at `url`, a folder or `s3://bucket/prefix`, behind a memory cache of its own. Credentials come
/// from the environment.
///
/// **Errors**: `NotFound` or `Invalid` if there is no store, `Unsupported` for a newer format.
pub async fn open(url: &str) -> Result<Opened> {
    open_with(&url.parse()?, &StackOptions::default()).await
}

/// As [`open`], with caches that may be shared with other stores.
pub async fn open_with(url: &StoreUrl, options: &StackOptions) -> Result<Opened> {
    let kind = match url {
        StoreUrl::Folder(folder) => {
            let folder = folder.clone();
            let store = blocking(move || LocalStore::open(Arc::new(StdFs), &folder)).await?;
            StoreKind::Local(Arc::new(store))
        }
        StoreUrl::Remote(url) => StoreKind::Remote(RemoteStore::open(url, options.remote.clone()).await?),
    };
    Ok(stack(url.clone(), kind, options))
}

fn stack(url: StoreUrl, kind: StoreKind, options: &StackOptions) -> Opened {
    let direct = match &kind {
        StoreKind::Local(store) => Store { chunks: Arc::clone(store) as _, index: Arc::clone(store) as _ },
        StoreKind::Remote(store) => Store { chunks: Arc::new(store.clone()), index: Arc::new(store.clone()) },
    };
    let (memory, store) = (Arc::clone(&options.memory), Arc::clone(&direct.chunks));
    let healing = match (&kind, &options.heal_from) {
        (StoreKind::Local(_), Some(far)) => Some(Healing::new(Arc::clone(&store), Arc::clone(far))),
        _ => None,
    };
    let chunks: Arc<dyn ChunkStore> = Arc::new(match (&kind, &options.disk, &healing) {
        (StoreKind::Remote(_), Some(cache), _) => {
            Cached::trusting(memory, Arc::new(DiskCached::new(cache.clone(), store)))
        }
        (_, _, Some(healing)) => Cached::trusting(memory, Arc::new(healing.clone())),
        _ => Cached::new(memory, store),
    });
    Opened {
        url,
        nodes: Arc::new(NodeCache::new(Arc::clone(&chunks), options.nodes)),
        store: Store { chunks, index: Arc::clone(&direct.index) },
        direct,
        kind,
        readahead: options.readahead.clone(),
        healing,
    }
}

/// Makes an empty store; `AlreadyExists` if there is one. Of a folder's parents, those that are missing are made,
/// too.
pub async fn init(url: &StoreUrl, options: &StackOptions) -> Result<()> {
    match url {
        StoreUrl::Folder(folder) => {
            let (folder, clock) = (folder.clone(), Arc::clone(&options.remote.clock));
            blocking(move || {
                if let Some(parent) = folder.parent() {
                    make_folders(parent)?;
                }
                LocalStore::init(Arc::new(StdFs), &folder, &*clock).map(drop)
            })
            .await
        }
        StoreUrl::Remote(url) => RemoteStore::init(url, options.remote.clone()).await.map(drop),
    }
}

/// Makes a folder and its parents, durably, readable by their owner alone.
pub(crate) fn make_folders(folder: &std::path::Path) -> Result<()> {
    gabion_store_local::fs::make_folders(&StdFs, folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotADirectory => {
            Error::invalid(format!("{} is a file where a folder is needed", folder.display()))
        }
        _ => Error::io(format!("folder {} can't be made", folder.display()), e),
    })
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    gabion_store_core::blocking::spawn_blocking(work)
        .await
        .map_err(|e| Error::with_source(ErrorKind::Unavailable, "a worker died", e))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_a_folder_however_its_scheme_is_written() {
        for text in ["file:///srv/store", "FILE:///srv/store", "fIle:///srv/store", "/srv/store"] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url, StoreUrl::Folder("/srv/store".into()), "{text}");
            assert_eq!(url.to_string().parse::<StoreUrl>().unwrap(), url);
        }
        for bad in ["", "file://", "File://srv/store", "other://srv/store"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
    }
}
