//! Volumes over local overlays and local stores, with everything happening at once: writers, flushes,
//! checkpoints, growth, failing stores, callers that go away, several processes.
//!
//! Runs are seeded; `GABION_SEED` repeats one, as far as threads allow.

#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

mod cancel;
mod faults;
mod model;
mod processes;
mod rig;
mod stress;
