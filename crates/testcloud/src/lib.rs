//! A cloud on loopback for tests and benches: buckets in memory, spoken to as S3, as Google Cloud Storage, or
//! as a plain web server, that count what is asked of them and are slow, full of faults or untrustworthy on
//! demand.
//!
//! ```text
//! connection ─► serve: body in ─► latency ─► fault before? ─► rest: S3, GCS or HTTP ─► bucket
//!                                               paced body ◄── fault after? ◄─────────────┘
//! ```
//!
//! - [`Cloud`]: one server on a thread of its own, and the handle by which a test steers it
//! - [`Rule`], [`Fault`]: what goes wrong, and when
//! - [`Stats`]: requests and bytes per operation and kind of object
//! - `testcloud`, the binary: the same behind flags and an HTTP path, for benches and by hand
//!
//! It is no store to keep anything in: signatures are not verified, nothing outlives the process, versions,
//! multipart uploads and copies are refused. Panics are how the library reports that it can't be set up.

mod body;
mod bucket;
mod cloud;
mod control;
mod faults;
mod link;
mod operation;
mod rest;
mod serve;
pub mod servers;
mod stats;
mod xml;

pub use bucket::Conditions;
pub use cloud::{Cloud, Settings};
pub use faults::{Fault, Rule, When};
pub use operation::{Class, Operation};
pub use stats::{Entry, Row, Stats};
