//! The locks and tasks that this crate and those above it share state with.
//!
//! Always `parking_lot` and `tokio`, but with the feature `shuttle`: then every lock, every task and every piece of
//! blocking work is a place at which [shuttle](https://docs.rs/shuttle) chooses who goes on, and the very code that
//! runs in production runs in an order that a seed decides (`interleave` in `store-local/tests`). Code behind this
//! seam therefore uses these names, never `parking_lot` or `tokio::spawn` directly.
//!
//! What is *not* here, and why that loses nothing: the channels and locks of `tokio::sync` need no runtime, only wakers,
//! and are used as they are, each call of them one step; atomics are counters and flags beside a lock, and
//! count as part of the step that touches them. Memory orderings are not explored. Time does not pass there: who sleeps
//! lets others go ahead, and no attempt takes too long.
//!
//! What blocks goes through [`blocking`](crate::blocking), which stands on this.
//!
//! Not part of the public interface.

#[cfg(feature = "shuttle")]
mod explored;

#[cfg(feature = "shuttle")]
pub use explored::{
    AbortOnDropHandle, Condvar, Elapsed, Handle, JoinError, JoinHandle, Mutex, MutexGuard, RwLock,
    RwLockReadGuard, RwLockWriteGuard, sleep, spawn, spawn_blocking, timeout,
};
/// For the tests, which choose schedules.
#[cfg(feature = "shuttle")]
pub use shuttle;

#[cfg(not(feature = "shuttle"))]
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(not(feature = "shuttle"))]
pub use tokio::{
    runtime::Handle,
    spawn,
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{error::Elapsed, sleep, timeout},
};
#[cfg(not(feature = "shuttle"))]
pub use tokio_util::task::AbortOnDropHandle;
