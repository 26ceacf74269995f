//! Requests for the objects below one prefix of a bucket: tried again where that may help, bodies checked,
//! failures in our own words.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt as _;
use gabion_store_core::{Error, ErrorKind, Result, store::Version};
use object_store::{
    GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    path::Path,
};
use tokio::time::Instant;

use crate::{
    retry::{Tries, in_time},
    timeouts::Timeouts,
};

mod conditional;
mod explain;
mod failure;
#[cfg(test)]
mod tests;

pub(crate) use conditional::Created;
pub(crate) use explain::Action;
pub(crate) use failure::{Again, Cause, Failure};

/// How often an object is fetched whose bytes are not what they must be.
const DECODED_FETCHES: usize = 3;
/// Attempts at an upload that there are in any case: one large one may take longer than all small ones together.
const UPLOADS: u32 = 3;

/// One store's objects.
#[derive(Clone)]
pub(crate) struct Requests {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The store's URL, for messages; without secrets.
    place: Arc<str>,
    /// Place and server: two stores never share it.
    identity: Arc<str>,
    timeouts: Timeouts,
}

/// The client holds credentials, so it is not shown.
impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Requests").field(&self.place).finish()
    }
}

/// An object that was read whole.
#[derive(Clone, Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) version: Version,
}

/// Part of an object whose length was not known.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) bytes: Bytes,
    /// Length of the whole object, in bytes.
    pub(crate) object_len: u64,
}

impl Requests {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path, place: &str, timeouts: Timeouts) -> Self {
        Self { store, prefix, place: place.into(), identity: place.into(), timeouts }
    }

    /// The same, at another server than the place's own.
    pub(crate) fn at_endpoint(self, endpoint: &str) -> Self {
        Self { identity: format!("{}\n{endpoint}", self.place).into(), ..self }
    }

    /// Place and server: two stores never share it.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// The store's URL, for messages.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), Path::join)
    }

    fn tries(&self) -> Tries {
        Tries::begin(&self.timeouts)
    }

    /// A whole object of at most `max` bytes; `None` if there is none.
    pub(crate) async fn get(&self, key: &str, max: u64) -> Result<Option<Fetched>> {
        self.fetch(key, max).await.map_err(|failure| self.explain(Action::Read, key, &failure))
    }

    /// As [`get`](Self::get), with what `decode` makes of the bytes. They are fetched again if it finds them
    /// `Corrupt`, as they may have been changed on the way; its last answer counts.
    pub(crate) async fn get_decoded<T>(
        &self,
        key: &str,
        max: u64,
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<(T, Fetched)>> {
        let mut fetches = 1;
        loop {
            let Some(found) = self.get(key, max).await? else { return Ok(None) };
            match decode(&found.bytes) {
                Ok(value) => return Ok(Some((value, found))),
                Err(e) if e.kind() == ErrorKind::Corrupt && fetches < DECODED_FETCHES => {
                    tracing::warn!(%key, error = %e.report(), "fetching damaged bytes again");
                    fetches += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    async fn fetch(&self, key: &str, max: u64) -> Result<Option<Fetched>, Failure> {
        let (path, mut tries) = (self.path(key), self.tries());
        loop {
            match self.try_get(&path, max).await {
                Ok(found) => return Ok(Some(found)),
                Err(Failure { cause: Cause::NotFound, .. }) => return Ok(None),
                Err(failure) => tries.again(failure).await?,
            }
        }
    }

    async fn try_get(&self, path: &Path, max: u64) -> Result<Fetched, Failure> {
        let started = Instant::now();
        let found = in_time(self.timeouts.attempt(), self.store.get(path)).await?;
        let size = found.meta.size;
        if size > max {
            return Err(Failure::new(Cause::WrongLength, format!("{size} bytes, over {max}")));
        }
        let version = version(found.meta.e_tag.as_deref(), found.meta.version.as_deref());
        let bytes = self.body(found, size, started).await?;
        Ok(Fetched { bytes, version })
    }

    /// Part of an object, exactly; `NotFound` if there is no such object, `Corrupt` if it is shorter.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        let Window { bytes, object_len } = self.get_window(key, range.clone()).await?;
        if object_len >= range.end || range.is_empty() {
            return Ok(bytes);
        }
        Err(self.explain(Action::Read, key, &too_short(object_len, &range)))
    }

    /// Part of an object, as far as the object reaches; `NotFound` if there is no such object, `Corrupt` if it ends
    /// before the part begins.
    pub(crate) async fn get_window(&self, key: &str, range: Range<u64>) -> Result<Window> {
        if range.is_empty() {
            return Ok(Window { bytes: Bytes::new(), object_len: 0 });
        }
        let (path, mut tries) = (self.path(key), self.tries());
        loop {
            let failure = match self.try_get_window(&path, range.clone()).await {
                Ok(window) => return Ok(window),
                Err(failure) => failure,
            };
            if let Err(failure) = tries.again(failure).await {
                return Err(self.explain(Action::Read, key, &failure));
            }
        }
    }

    async fn try_get_window(&self, path: &Path, range: Range<u64>) -> Result<Window, Failure> {
        let started = Instant::now();
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let found = match in_time(self.timeouts.attempt(), self.store.get_opts(path, options)).await {
            Ok(found) => found,
            Err(failure) if failure.cause == Cause::Unknown => {
                return Err(self.why_no_range(path, &range).await.unwrap_or(failure));
            }
            Err(failure) => return Err(failure),
        };
        let object_len = found.meta.size;
        if object_len <= range.start {
            return Err(too_short(object_len, &range));
        }
        let bytes = self.body(found, object_len.min(range.end) - range.start, started).await?;
        Ok(Window { bytes, object_len })
    }

    /// A range behind the end fails for no reason that can be told from the error of some stores.
    async fn why_no_range(&self, path: &Path, range: &Range<u64>) -> Option<Failure> {
        let meta = in_time(self.timeouts.attempt(), self.store.head(path)).await.ok()?;
        (meta.size < range.end).then(|| too_short(meta.size, range))
    }

    /// A body of exactly `expected` bytes, in the time that an attempt has.
    async fn body(&self, found: GetResult, expected: u64, started: Instant) -> Result<Bytes, Failure> {
        let left = self.timeouts.download(expected).saturating_sub(started.elapsed());
        let bytes = in_time(left, found.bytes()).await?;
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(Failure::new(Cause::WrongBody, format!("{} bytes came instead of {expected}", bytes.len())))
    }

    /// Writes an immutable object under a key that nobody else uses, as often as it takes to be there.
    pub(crate) async fn put(&self, key: &str, payload: PutPayload) -> Result<()> {
        let limit = self.timeouts.upload(payload.content_length() as u64);
        let (path, mut tries) = (self.path(key), self.tries().at_least(UPLOADS));
        loop {
            let put = self.store.put_opts(&path, payload.clone(), PutOptions::from(PutMode::Overwrite));
            let Err(failure) = in_time(limit, put).await.map_err(Failure::of_bucket) else { return Ok(()) };
            if let Err(failure) = tries.again(failure).await {
                return Err(self.explain(Action::Write, key, &failure));
            }
        }
    }

    /// Keys below `prefix/`, relative to it, with the length of each object; all of the store's if it is empty.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        let path = if prefix.is_empty() { self.prefix.clone() } else { self.path(prefix) };
        let mut tries = self.tries();
        loop {
            let failure = match self.try_list(&path).await {
                Ok(keys) => return Ok(keys),
                Err(failure) => failure,
            };
            if let Err(failure) = tries.again(failure).await {
                return Err(self.explain(
                    Action::List,
                    if prefix.is_empty() { "all objects" } else { prefix },
                    &failure,
                ));
            }
        }
    }

    async fn try_list(&self, path: &Path) -> Result<Vec<(String, u64)>, Failure> {
        let mut pages = self.store.list(Some(path));
        let mut keys = Vec::new();
        // Each answer has its time, however many there are.
        while let Some(meta) =
            in_time(self.timeouts.attempt(), pages.try_next()).await.map_err(Failure::of_bucket)?
        {
            let Some(parts) = meta.location.prefix_match(path) else { continue };
            let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
            keys.push((parts.join("/"), meta.size));
        }
        Ok(keys)
    }

    /// Removes an object; one that is not there is removed already.
    pub(crate) async fn delete(&self, key: &str) -> Result<()> {
        let (path, mut tries) = (self.path(key), self.tries());
        loop {
            match in_time(self.timeouts.attempt(), self.store.delete(&path)).await {
                Ok(()) | Err(Failure { cause: Cause::NotFound, .. }) => return Ok(()),
                Err(failure) => {
                    if let Err(failure) = tries.again(failure).await {
                        return Err(self.explain(Action::Delete, key, &failure));
                    }
                }
            }
        }
    }

    fn explain(&self, action: Action, key: &str, failure: &Failure) -> Error {
        explain::explain(&self.place, action, key, failure)
    }
}

fn too_short(size: u64, range: &Range<u64>) -> Failure {
    Failure::new(Cause::WrongLength, format!("{size} bytes, and bytes {range:?} were asked for"))
}

/// Etag and generation, either of which may be missing: what a store compares with is its own business.
fn version(etag: Option<&str>, generation: Option<&str>) -> Version {
    Version(format!("{}\n{}", etag.unwrap_or_default(), generation.unwrap_or_default()).into())
}
