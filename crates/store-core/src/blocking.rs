//! Work that blocks: the one way to the threads that may wait.
//!
//! Everything in this project that waits for a disk, or takes the processor for long, goes through here, and so a
//! simulation can run it one piece at a time, in an order that a seed decides: see `testing::Conductor`.

use std::{
    error, fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::sync::{self, Handle, JoinError, JoinHandle};
#[cfg(any(test, feature = "testing"))]
use crate::testing::Turn;

/// Runs `work` on a thread of the current runtime that may block. It is finished even if nobody waits for it any more.
///
/// # Panics
/// Outside of a runtime.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    #[cfg(any(test, feature = "testing"))]
    if let Some(turn) = Turn::next() {
        return Blocking(Kind::Conducted(turn.spawn(work)));
    }
    #[cfg_attr(not(feature = "shuttle"), expect(clippy::disallowed_methods, reason = "this is the one way"))]
    Blocking(Kind::Thread(sync::spawn_blocking(work)))
}

/// Waits for a future of `runtime`, on a thread of [`spawn_blocking`].
///
/// # Panics
/// On a thread that drives a runtime.
pub fn wait_for<F: Future>(runtime: &Handle, future: F) -> F::Output {
    #[cfg(any(test, feature = "testing"))]
    if let Some(turn) = Turn::current() {
        return turn.wait_for(future);
    }
    runtime.block_on(future)
}

/// Work on its way: a future of what it gives. Dropping it leaves the work running.
#[derive(Debug)]
#[must_use = "drop it to go on without waiting"]
pub struct Blocking<T>(Kind<T>);

#[derive(Debug)]
enum Kind<T> {
    Thread(JoinHandle<T>),
    #[cfg(any(test, feature = "testing"))]
    Conducted(tokio::sync::oneshot::Receiver<T>),
}

/// Work that came to no end: it panicked, or its runtime was shut down before it began.
#[derive(Debug)]
pub struct Stopped(Option<JoinError>);

impl<T> Future for Blocking<T> {
    type Output = Result<T, Stopped>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match &mut self.0 {
            Kind::Thread(handle) => ready!(Pin::new(handle).poll(cx)).map_err(|e| Stopped(Some(e))),
            #[cfg(any(test, feature = "testing"))]
            Kind::Conducted(done) => ready!(Pin::new(done).poll(cx)).map_err(|_| Stopped(None)),
        })
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(error) => error.fmt(f),
            None => f.write_str("a task died"),
        }
    }
}

impl error::Error for Stopped {}
