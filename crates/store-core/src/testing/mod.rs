//! Tools for tests of this and other crates: conformance suites, a store that fails on demand, a clock
//! that stands still. Behind the feature `testing`; panics are how they report.

pub(crate) mod checksums;
mod clock;
mod conductor;
pub mod conformance;
mod fault_store;
mod gate;
mod rng;

pub use checksums::trust_checksums;
pub use clock::FixedClock;
pub use conductor::{Conductor, Installed};
pub(crate) use conductor::{Turn, conducted_bytes};
pub use fault_store::{BadEntry, Call, Fault, FaultStore};
pub use gate::Gate;
pub use rng::Rng;
