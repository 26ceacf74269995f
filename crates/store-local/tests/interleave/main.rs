//! What happens at once, in every order that can be tried: requests, flushes, freezes and callers that go away; publishes
//! by compare-and-swap; reads of what caches evict; handles of a store in a bucket, and pushes to it.
//!
//! The code is the one that ships. The feature `shuttle` swaps only what its locks and tasks are made of
//! (`gabion_store_core::sync`), so that all tasks of a test run on one thread, one at a time, and at every lock,
//! every await, every file operation and every request a seed decides who goes on: by chance, or by PCT, which lets one run far ahead
//! of the others and finds what takes a few unlikely steps in one order. A file operation of more than 2 KiB comes in
//! pieces. A deadlock, too, is a failure.
//!
//! Why not `loom`: it tries *all* orders, which is out of reach for more than a few steps of a few threads, and a
//! flush beside two writes is some hundred steps; and it would want a copy of the code. What loom would add are memory
//! orderings; here state is shared by locks, and atomics only count.
//!
//! Each test compares with an oracle: [`history`] finds an order of the requests that explains every answer, or fails.
//!
//! `scripts/interleave` runs it, and says how to repeat a failure.

#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

mod bucket;
mod caches;
mod disk;
mod explore;
mod far;
mod history;
mod names;
mod pieces;
mod requests;
