//! Power failures at every file operation: of volumes, their checkpoints, and the stores below.
//!
//! A test lives on a `CrashFs` while a model beside it keeps what was written and what was promised. Every operation
//! leaves a point; afterwards the images of each are opened, recovered, and held against the model: what was flushed
//! is there, everything else is old or new per sector, and what is named is whole.
//!
//! `GABION_SEED` repeats a run, as far as threads allow. `GABION_CRASH_IMAGES` says how many images all tests
//! together survive at least, 10,000 by default; `scripts/crash` sums up what they print.

#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

mod budget;
mod concurrent;
mod disk;
mod ends;
mod hints;
mod images;
mod left;
mod lies;
mod life;
mod rig;
mod single;
mod store;
mod survive;
mod volume;
