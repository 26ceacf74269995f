//! What this crate asks of a bucket: whole objects, ranges, and compare-and-swap, below one prefix.
//!
//! The first write through a handle finds out whether the bucket may be written by several processes at once;
//! see [`probe`](crate::probe). Reading never does.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{Error, ErrorKind, Result, store::Version};
use object_store::PutPayload;
use tokio::sync::OnceCell;

use crate::{
    probe,
    requests::{Created, Requests},
    single_writer,
};

pub(crate) use crate::requests::{Fetched, Window};

/// How a bucket may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writes {
    /// By any number of processes: conditional writes must hold.
    Shared,
    /// By this process alone.
    Single,
    /// Not at all.
    None,
}

/// The objects of one store. A clone is the same handle.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    requests: Requests,
    writes: Writes,
    /// Set once it is known whether conditional writes hold; the reason if they don't.
    probed: Arc<OnceCell<Option<Error>>>,
    /// Why nothing may be written, whatever the bucket can do.
    refusal: Option<Error>,
}

impl Objects {
    pub(crate) fn new(requests: Requests, writes: Writes) -> Self {
        Self { requests, writes, probed: Arc::default(), refusal: None }
    }

    /// The same, but every write is answered by `refusal`.
    pub(crate) fn refusing_writes(self, refusal: Option<Error>) -> Self {
        Self { refusal, ..self }
    }

    /// The store's URL, for messages.
    pub(crate) fn place(&self) -> &str {
        self.requests.place()
    }

    /// Whether nothing can be written.
    pub(crate) fn read_only(&self) -> bool {
        self.writes == Writes::None
    }

    /// A whole object of at most `max` bytes; `None` if there is none.
    pub(crate) async fn get(&self, key: &str, max: u64) -> Result<Option<Fetched>> {
        let found = self.requests.get(key, max).await?;
        Ok(found.map(|found| self.as_compared(found)))
    }

    /// A whole object with what `decode` makes of it; fetched again a few times while that is `Corrupt`, since it may
    /// have been damaged on the way only.
    pub(crate) async fn get_decoded<T>(
        &self,
        key: &str,
        max: u64,
        decode: impl Fn(&[u8]) -> Result<T>,
    ) -> Result<Option<(T, Fetched)>> {
        let found = self.requests.get_decoded(key, max, decode).await?;
        Ok(found.map(|(value, found)| (value, self.as_compared(found))))
    }

    /// Part of an object, exactly; `NotFound` if there is no such object, `Corrupt` if it is shorter.
    pub(crate) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes> {
        self.requests.get_range(key, range).await
    }

    /// Part of an object, as far as the object reaches; `NotFound` if there is no such object.
    pub(crate) async fn get_window(&self, key: &str, range: Range<u64>) -> Result<Window> {
        self.requests.get_window(key, range).await
    }

    /// Writes an immutable object under a key that nobody else uses.
    pub(crate) async fn put(&self, key: &str, payload: PutPayload) -> Result<()> {
        self.may_write().await?;
        self.requests.put(key, payload).await
    }

    /// Creates an object, unless there is one that this very call did not write. No two calls give the same
    /// bytes.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        self.may_write().await?;
        match self.writes {
            Writes::Single => single_writer::create(&self.requests, key, bytes).await,
            _ => self.requests.create(key, bytes).await,
        }
    }

    /// Replaces the object of version `expected`; `Conflict` if it has another by now. No two calls give the same
    /// bytes.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes, expected: &Version) -> Result<Version> {
        self.may_write().await?;
        match self.writes {
            Writes::Single => single_writer::replace(&self.requests, key, bytes, expected).await,
            _ => self.requests.replace(key, bytes, expected).await,
        }
    }

    /// Keys below `prefix/`, relative to it.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.list_below(prefix).await?.into_iter().map(|(key, _)| key).collect())
    }

    /// All keys of the store, with the length of each object.
    pub(crate) async fn list_sizes(&self) -> Result<Vec<(String, u64)>> {
        self.list_below("").await
    }

    async fn list_below(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        if self.read_only() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{} is behind a web server, which does not list what it has: name the image",
                    self.place()
                ),
            ));
        }
        self.requests.list(prefix).await
    }

    /// Succeeds if this handle may write, which the first call asks the bucket.
    pub(crate) async fn may_write(&self) -> Result<()> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        match self.writes {
            Writes::None => Err(Error::new(
                ErrorKind::ReadOnly,
                format!("{} is behind a web server and can only be read", self.place()),
            )),
            Writes::Single => Ok(()),
            Writes::Shared => match self.probed.get_or_try_init(|| self.probe()).await? {
                None => Ok(()),
                Some(refused) => Err(refused.clone()),
            },
        }
    }

    /// Concurrent first writers share one probe; if it is dropped or comes to no verdict, the next one asks again.
    async fn probe(&self) -> Result<Option<Error>> {
        match probe::probe(&self.requests).await {
            Ok(()) => Ok(None),
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Some(e)),
            Err(e) => Err(e),
        }
    }

    fn as_compared(&self, found: Fetched) -> Fetched {
        match self.writes {
            Writes::Single => single_writer::by_content(found),
            _ => found,
        }
    }
}
