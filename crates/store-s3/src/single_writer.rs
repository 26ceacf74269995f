//! Compare-and-swap for a store whose conditional writes don't hold, if only this process writes: read, compare,
//! write, under a lock of the process. Versions are hashes of the content, as such a store's etags may mean nothing.

use bytes::Bytes;
use gabion_store_core::{Error, ErrorKind, Result, store::Version, types::chunk_id};
use tokio::sync::Mutex;

use crate::requests::{Created, Fetched, Requests};

/// Longest object that is changed so, in bytes.
const MAX_LEN: u64 = 64 << 20;
/// Locks by hash of place and key: two stores that share one wait for each other, no more.
static LOCKS: [Mutex<()>; 64] = [const { Mutex::const_new(()) }; 64];

/// Creates an object, unless there is one.
pub(crate) async fn create(requests: &Requests, key: &str, bytes: Bytes) -> Result<Created> {
    let _lock = lock(requests, key).await;
    match requests.get(key, MAX_LEN).await? {
        Some(found) => Ok(Created::Exists(by_content(found))),
        None => write(requests, key, bytes).await.map(Created::Done),
    }
}

/// Replaces the object of version `expected`.
pub(crate) async fn replace(
    requests: &Requests,
    key: &str,
    bytes: Bytes,
    expected: &Version,
) -> Result<Version> {
    let _lock = lock(requests, key).await;
    match requests.get(key, MAX_LEN).await? {
        Some(found) if version_of(&found.bytes) == *expected => write(requests, key, bytes).await,
        _ => Err(Error::new(
            ErrorKind::Conflict,
            format!("{key} in {} was changed by someone else: read it again", requests.place()),
        )),
    }
}

/// What was read, with the version that is compared here.
pub(crate) fn by_content(found: Fetched) -> Fetched {
    Fetched { version: version_of(&found.bytes), bytes: found.bytes }
}

async fn write(requests: &Requests, key: &str, bytes: Bytes) -> Result<Version> {
    let version = version_of(&bytes);
    requests.put(key, bytes.into()).await?;
    Ok(version)
}

fn version_of(bytes: &[u8]) -> Version {
    Version(Bytes::copy_from_slice(chunk_id(bytes).as_bytes()))
}

async fn lock(requests: &Requests, key: &str) -> tokio::sync::MutexGuard<'static, ()> {
    let hash = chunk_id(format!("{}\n{key}", requests.place()).as_bytes());
    LOCKS[usize::from(hash.as_bytes()[0]) % LOCKS.len()].lock().await
}
