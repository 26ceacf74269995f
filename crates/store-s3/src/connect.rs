//! From an [`ObjectUrl`] and the environment to a bucket.
//!
//! The environment variables are those that each provider's own tools know. Retries of `object_store` are
//! switched off: [`retry`](crate::retry) is the only policy.

use std::{collections::BTreeMap, sync::Arc};

use gabion_store_core::Result;
use object_store::{ObjectStore, local::LocalFileSystem, memory::InMemory, path::Path};
use parking_lot::Mutex;

use crate::{
    timeouts::Timeouts,
    url::{ObjectUrl, Scheme},
};

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure", feature = "http"))]
mod cloud;
#[cfg(test)]
mod tests;

/// A bucket and where in it a store lies.
pub(crate) struct Bucket {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// The server, if it is not the provider's own.
    pub(crate) endpoint: Option<String>,
}

/// The client holds credentials, so it is not shown.
impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Environment variables, as they were when asked for.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process; what is not UTF-8 is none.
    pub(crate) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// A variable that is set, and not to nothing.
    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables whose names begin with `prefix`.
    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
    fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(name, value)| name.starts_with(prefix) && !value.is_empty())
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Names alone: values may be secrets.
impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Makes a client for a bucket. Asks nothing of it yet.
pub(crate) fn connect(url: &ObjectUrl, timeouts: &Timeouts, environment: &Environment) -> Result<Bucket> {
    let (prefix, endpoint) = (url.prefix().clone(), None);
    match url.scheme() {
        Scheme::Memory => Ok(Bucket { store: memory(url.authority()), prefix, endpoint }),
        Scheme::File => {
            Ok(Bucket { store: Arc::new(LocalFileSystem::new().with_fsync(true)), prefix, endpoint })
        }
        #[cfg(feature = "s3")]
        Scheme::S3 => cloud::s3(url, timeouts, environment),
        #[cfg(feature = "gcs")]
        Scheme::Gcs => cloud::gcs(url, timeouts, environment),
        #[cfg(feature = "azure")]
        Scheme::Azure => cloud::azure(url, timeouts, environment),
        #[cfg(feature = "http")]
        Scheme::Http | Scheme::Https => cloud::http(url, timeouts),
        #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure", feature = "http")))]
        other => {
            // Parsing has refused it before.
            let _ = (timeouts, environment);
            let why = format!("this build can't open {}://", other.as_str());
            Err(gabion_store_core::Error::new(gabion_store_core::ErrorKind::Unsupported, why))
        }
    }
}

/// The bucket of that name in this process: two who open it see the same objects. It lives as long as the
/// process.
fn memory(name: &str) -> Arc<dyn ObjectStore> {
    static BUCKETS: Mutex<BTreeMap<String, Arc<InMemory>>> = Mutex::new(BTreeMap::new());
    BUCKETS.lock().entry(name.to_owned()).or_default().clone()
}
