//! From a store's URL to a stack.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use gabion_store_core::{
    ChunkStore, Error, ErrorKind, Result, Store,
    index::NodeCache,
    stores::{Cached, MemoryCache},
};
use gabion_store_local::{fs::StdFs, store::LocalStore};

/// A store's place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoreUrl {
    /// A folder of this host, by absolute path.
    Folder(PathBuf),
}

impl FromStr for StoreUrl {
    type Err = Error;

    /// `file:///folder` or a path.
    fn from_str(text: &str) -> Result<Self> {
        let path = match text.split_once("://") {
            None => text,
            Some(("file", path)) if path.starts_with('/') => path,
            Some(("file", _)) => {
                return Err(Error::invalid(format!("'{text}': a file URL is file:///ABSOLUTE/PATH")));
            }
            Some((scheme, _)) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "stores at '{scheme}://' are not supported by this version: use a folder or file:///PATH"
                    ),
                ));
            }
        };
        if path.is_empty() {
            return Err(Error::invalid("a store's place is a folder or file:///PATH, not nothing"));
        }
        let path = std::path::absolute(path).map_err(|e| Error::io(format!("'{text}' is no path"), e))?;
        Ok(Self::Folder(path))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "file://{}", path.display()),
        }
    }
}

/// An open store, with the caches in front of it.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Where it is.
    pub url: StoreUrl,
    /// Entries through verification and the memory cache, images and catalog.
    pub store: Store,
    /// Its index nodes.
    pub nodes: Arc<NodeCache>,
    /// The store itself, past every cache: for checks and transfers, and what is read once.
    pub direct: Store,
    /// What is known of the kind of store it is.
    pub kind: StoreKind,
}

/// The store behind an [`Opened`], for what only its kind can tell.
#[derive(Clone, Debug)]
pub enum StoreKind {
    /// A folder of this host.
    Local(Arc<LocalStore>),
}

impl Opened {
    /// Whether reading it takes requests over a network.
    pub fn is_remote(&self) -> bool {
        !matches!(self.kind, StoreKind::Local(_))
    }
}

/// Part of a memory budget that goes to index nodes.
const NODE_SHARE: u64 = 16;

/// Opens the store at `url` behind a memory cache of its own of `memory` bytes.
///
/// **Errors**: `NotFound` or `Invalid` if there is no store, `Unsupported` for a newer format.
pub async fn open(url: &StoreUrl, memory: u64) -> Result<Opened> {
    open_with(url, &Arc::new(MemoryCache::new(usize::try_from(memory).unwrap_or(usize::MAX))), memory).await
}

/// As [`open`], behind a cache that is shared with other stores.
pub(crate) async fn open_with(url: &StoreUrl, cache: &Arc<MemoryCache>, memory: u64) -> Result<Opened> {
    let StoreUrl::Folder(folder) = url;
    let folder = folder.clone();
    let local = tokio::task::spawn_blocking(move || LocalStore::open(Arc::new(StdFs), &folder))
        .await
        .map_err(|e| Error::with_source(ErrorKind::Unavailable, "opening the store died", e))??;
    let local = Arc::new(local);
    let direct = Store { chunks: Arc::clone(&local) as _, index: Arc::clone(&local) as _ };
    let chunks: Arc<dyn ChunkStore> = Arc::new(Cached::new(Arc::clone(cache), Arc::clone(&direct.chunks)));
    let node_budget = usize::try_from(memory / NODE_SHARE).unwrap_or(usize::MAX);
    Ok(Opened {
        url: url.clone(),
        nodes: Arc::new(NodeCache::new(Arc::clone(&chunks), node_budget)),
        store: Store { chunks, index: Arc::clone(&direct.index) },
        direct,
        kind: StoreKind::Local(local),
    })
}
