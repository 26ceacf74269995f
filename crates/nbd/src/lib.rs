//! An NBD server for any [`BlockDevice`](gabion_store_core::BlockDevice).
//!
//! ```no_run
//! # async fn example(device: std::sync::Arc<dyn gabion_store_core::BlockDevice>) -> gabion_store_core::Result<()> {
//! let server = gabion_nbd::Server::builder().export("vm1", device).serve_unix("/run/vm1.sock").await?;
//! println!("{}", server.uri()); // nbd+unix:///vm1?socket=/run/vm1.sock
//! // …
//! server.shutdown().await
//! # }
//! ```
//!
//! A request passes through: bytes ► [`proto`] (pure codecs) ► `terms` (the one place where it is
//! checked against what was agreed on) ► `connection` (answered in place, or by a task) ► the device.
//! Before that, `handshake` found the export and the terms; around it, `server` accepts, bounds and ends
//! connections, and `socket` keeps the Unix socket's path safe.
//!
//! Spoken: fixed newstyle; simple and structured replies; the context `base:allocation`; READ, WRITE,
//! FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS and DISC, with FUA, DF, NO_HOLE, FAST_ZERO and REQ_ONE.
//! Not spoken: TLS and extended headers. Requests of no bytes succeed and do nothing, except
//! BLOCK_STATUS: it has no answer of no extents, so that is EINVAL.
//!
//! Invariant: this crate knows no chunk, pack or store, only devices.

mod connection;
pub mod errno;
mod export;
mod handshake;
mod limits;
pub mod proto;
mod server;
mod socket;
mod terms;
mod uri;

pub use limits::{Limits, MAX_PAYLOAD};
pub use server::{Server, ServerBuilder, ServerHandle};
pub use socket::SocketFile;
