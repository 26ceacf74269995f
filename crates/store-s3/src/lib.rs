//! The object-store backend: stores in S3, GCS, Azure or behind a web server, in the same layout as
//! a local folder.
//!
//! ```text
//! RemoteStore ─► Objects (keys below a prefix, the only retry policy, errors without secrets) ─► object_store
//! ```
//!
//! - `url`, `connect`: from a URL and the environment to a bucket
//! - `objects`: what this crate asks of a bucket, with retries, checks and error kinds
//! - `probe`: do its conditional writes hold under a race?
//! - `store`: packs, locators, image maps, image records and catalog of one store

mod connect;
mod objects;
mod store;
mod timeouts;
mod url;

pub use store::{RemoteOptions, RemoteStore, RemoteUsage};
pub use timeouts::Timeouts;
pub use url::{ObjectUrl, Scheme, UrlOptions};
