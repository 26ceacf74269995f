//! Conformance suites: what [`ChunkStore`] and [`IndexStore`] promise, as tests for any implementation.
//!
//! Run them on every store and on every wrapper, under a tokio runtime (several threads find more races):
//!
//! ```
//! use gabion_store_core::{
//!     stores::MemoryStore,
//!     testing::{FixedClock, conformance::{self, Capabilities}},
//! };
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! conformance::chunk_store(Capabilities::FULL, async || {
//!     MemoryStore::new(&FixedClock::default()).unwrap()
//! })
//! .await;
//! # });
//! ```
//!
//! Each case gets a fresh, empty store from the closure; an [`Arc`] of a store is one, too. What the closure must keep alive (a temporary
//! folder, a server) belongs to the caller. A broken promise panics with a message that names it.

mod chunks;
mod model;
mod records;
mod sample;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{ChunkStore, IndexStore};

/// What a store can do. Start from [`FULL`](Self::FULL) and take away what the backend documents that it
/// lacks: a flag is an admission, not a convenience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Compare-and-swap holds under races. Without it, only one writer at a time is tried.
    pub atomic_cas: bool,
    /// Entries, once synced, have a placement.
    pub placements: bool,
}

impl Capabilities {
    /// Every promise of the traits; placements, which are no promise, are accepted and checked if given.
    pub const FULL: Self = Self { atomic_cas: true, placements: false };

    /// The same, where compare-and-swap does or does not hold under races.
    #[must_use]
    pub const fn with_atomic_cas(self, atomic_cas: bool) -> Self {
        Self { atomic_cas, ..self }
    }

    /// The same, where synced entries must have a placement or need not.
    #[must_use]
    pub const fn with_placements(self, placements: bool) -> Self {
        Self { placements, ..self }
    }
}

/// Runs every case for a [`ChunkStore`].
///
/// # Panics
/// If the store breaks a promise.
pub async fn chunk_store<S: ChunkStore + 'static>(capabilities: Capabilities, fresh: impl AsyncFn() -> S) {
    chunks::empty_batches(&fresh().await).await;
    chunks::answers_in_order(&fresh().await).await;
    chunks::kinds_are_apart(&fresh().await).await;
    chunks::puts_are_idempotent(&fresh().await).await;
    chunks::largest_entries(&fresh().await).await;
    chunks::ranges(&fresh().await).await;
    chunks::encoded_forms(&fresh().await).await;
    chunks::sync_keeps(capabilities, &fresh().await).await;
    chunks::one_id_by_many(Arc::new(fresh().await)).await;
    chunks::writers_side_by_side(Arc::new(fresh().await)).await;
    chunks::dropped_calls(&fresh().await).await;
    for seed in 0..4 {
        model::random_calls(seed, &fresh().await).await;
    }
}

/// Runs every case for an [`IndexStore`].
///
/// # Panics
/// If the store breaks a promise.
pub async fn index_store<S: IndexStore + 'static>(capabilities: Capabilities, fresh: impl AsyncFn() -> S) {
    records::fresh_is_empty(&fresh().await).await;
    records::image_is_created_once(&fresh().await).await;
    records::image_is_replaced_by_version(&fresh().await).await;
    records::image_is_removed_by_version(&fresh().await).await;
    records::names_are_listed_sorted(&fresh().await).await;
    records::catalog_is_replaced_by_version(&fresh().await).await;
    records::maps_are_kept(&fresh().await).await;
    if capabilities.atomic_cas {
        records::one_creator_wins(Arc::new(fresh().await)).await;
        records::one_writer_wins_each_round(Arc::new(fresh().await)).await;
        records::removal_races_replacement(Arc::new(fresh().await)).await;
        records::catalog_loses_no_update(Arc::new(fresh().await)).await;
    }
}
