//! The object-store backend: stores in S3, GCS, Azure or behind a web server, in the same layout as
//! a local folder.
//!
//! ```text
//! RemoteStore ─► Objects (may it be written?) ─► Requests (the only retry policy, errors in words) ─► object_store
//! ```
//!
//! - `url`, `connect`, `transport`: from a URL and the environment to a bucket
//! - `timeouts`, `retry`: how long, how often
//! - `requests`: objects below a prefix, with retries, checks and error kinds; compare-and-swap
//! - `objects`, `probe`, `single_writer`: the same, once it is known that conditional writes hold
//! - `store`: packs, locators, image maps, image records and catalog of one store

mod connect;
mod objects;
mod probe;
#[cfg_attr(
    not(any(test, feature = "s3", feature = "gcs", feature = "azure", feature = "http")),
    expect(dead_code, reason = "without a provider nobody refuses")
)]
mod refusal;
mod requests;
mod retry;
#[cfg(test)]
mod scripted;
mod single_writer;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod timeouts;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure", feature = "http"))]
mod transport;
mod url;

pub use store::{RemoteOptions, RemoteStore, RemoteUsage};
pub use timeouts::Timeouts;
pub use url::{ObjectUrl, Scheme, UrlOptions};
