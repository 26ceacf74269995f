//! What this crate asks of a bucket: whole objects, ranges, and compare-and-swap, below one prefix.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{Error, ErrorKind, Result, store::Version};
use object_store::{
    GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload, PutResult,
    UpdateVersion, path::Path,
};

/// The objects of one store.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The store's URL, for messages; without secrets.
    place: Arc<str>,
}

/// An object that was read whole.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) version: Version,
}

/// The client holds credentials, so it is not shown.
impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Objects").field(&self.place).finish()
    }
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, place: &str) -> Self {
        Self { store, prefix, place: place.into() }
    }

    /// The store's URL, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    /// A whole object of at most `max` bytes; `None` if there is none.
    pub(crate) async fn get(&self, key: &str, max: u64) -> Result<Option<Fetched>> {
        let found = match self.store.get(&self.path(key)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(self.error("reading", key, &e)),
        };
        if found.meta.size > max {
            return Err(Error::corrupt(format!(
                "{key} in {} has {} bytes, over {max}",
                self.place, found.meta.size
            )));
        }
        let version = version(found.meta.e_tag.as_deref(), found.meta.version.as_deref());
        let bytes = found.bytes().await.map_err(|e| self.error("reading", key, &e))?;
        Ok(Some(Fetched { bytes, version }))
    }

    /// Part of an object, exactly; `NotFound` if there is no such object, `Corrupt` if it is shorter.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = self.store.get_opts(&self.path(key), options).await;
        let bytes = match found {
            Ok(found) => found.bytes().await,
            Err(e) => Err(e),
        };
        let bytes = bytes.map_err(|e| self.error("reading", key, &e))?;
        if bytes.len() as u64 != range.end - range.start {
            return Err(Error::corrupt(format!("{key} in {} ends before byte {}", self.place, range.end)));
        }
        Ok(bytes)
    }

    /// Writes an immutable object under a key that nobody else uses.
    pub(crate) async fn put(&self, key: &str, payload: PutPayload) -> Result<()> {
        self.store.put(&self.path(key), payload).await.map(drop).map_err(|e| self.error("writing", key, &e))
    }

    /// Creates an object; `AlreadyExists` if there is one that was not written by this very call.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Version> {
        self.put_if(key, bytes, PutMode::Create).await
    }

    /// Replaces the object of version `expected`; `Conflict` if it has another by now.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes, expected: &Version) -> Result<Version> {
        self.put_if(key, bytes, PutMode::Update(update(expected)?)).await
    }

    async fn put_if(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<Version> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store.put_opts(&self.path(key), bytes.into(), options).await {
            Ok(PutResult { e_tag, version: generation, .. }) => {
                Ok(version(e_tag.as_deref(), generation.as_deref()))
            }
            Err(e) => Err(self.error("writing", key, &e)),
        }
    }

    /// Keys below `prefix/`, relative to it.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        use futures::TryStreamExt as _;
        let path = self.path(prefix);
        let listed: Vec<_> = self
            .store
            .list(Some(&path))
            .try_collect()
            .await
            .map_err(|e| self.error("listing", prefix, &e))?;
        let relative = |location: &Path| {
            let parts: Vec<_> = location.prefix_match(&path)?.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        Ok(listed.iter().filter_map(|meta| relative(&meta.location)).collect())
    }

    /// All keys of the store, with the length of each object.
    pub(crate) async fn list_sizes(&self) -> Result<Vec<(String, u64)>> {
        use futures::TryStreamExt as _;
        let listed: Vec<_> = self
            .store
            .list(Some(&self.prefix))
            .try_collect()
            .await
            .map_err(|e| self.error("listing", "objects", &e))?;
        let relative = |location: &Path| {
            let parts: Vec<_> =
                location.prefix_match(&self.prefix)?.map(|part| part.as_ref().to_owned()).collect();
            Some(parts.join("/"))
        };
        Ok(listed.iter().filter_map(|meta| Some((relative(&meta.location)?, meta.size))).collect())
    }

    /// Removes an object; one that is not there is removed already.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error("removing", key, &e)),
        }
    }

    fn error(&self, doing: &str, key: &str, error: &object_store::Error) -> Error {
        let kind = match error {
            object_store::Error::NotFound { .. } => ErrorKind::NotFound,
            object_store::Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            object_store::Error::Precondition { .. } => ErrorKind::Conflict,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                ErrorKind::PermissionDenied
            }
            object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
                ErrorKind::Unsupported
            }
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{doing} {key} in {} failed", self.place))
    }
}

/// Etag and generation, either of which may be missing: what a store compares with is its own business.
fn version(etag: Option<&str>, generation: Option<&str>) -> Version {
    Version(format!("{}\n{}", etag.unwrap_or_default(), generation.unwrap_or_default()).into())
}

fn update(version: &Version) -> Result<UpdateVersion> {
    let text = std::str::from_utf8(&version.0).ok().and_then(|text| text.split_once('\n'));
    let (etag, generation) = text.ok_or_else(|| Error::invalid("a version that no object store gave"))?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(UpdateVersion { e_tag: some(etag), version: some(generation) })
}
