//! The same names over shuttle's: locks that never poison, as those of `parking_lot`, and tasks as those of `tokio`.
//!
//! Outside of a run of shuttle all of it panics.

use std::{
    convert::Infallible,
    fmt,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::PoisonError,
    task::{Context, Poll},
    time::Duration,
};

use shuttle::sync::atomic::{AtomicBool, Ordering};
pub use shuttle::{
    future::{JoinError, JoinHandle, spawn},
    sync::{RwLockReadGuard, RwLockWriteGuard},
};

/// A lock.
#[derive(Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// A [`Mutex`] held. `None` only while a [`Condvar`] has it, and at its end.
pub struct MutexGuard<'a, T: ?Sized>(Option<shuttle::sync::MutexGuard<'a, T>>);

/// A lock that may be shared.
#[derive(Default)]
pub struct RwLock<T: ?Sized>(shuttle::sync::RwLock<T>);

/// Where holders of a [`Mutex`] wait for each other.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

/// A task that ends with this.
#[derive(Debug)]
pub struct AbortOnDropHandle<T>(JoinHandle<T>);

/// Something took too long, which nothing does here.
#[derive(Debug)]
pub struct Elapsed(());

/// The scheduler, in place of a runtime.
#[derive(Clone, Debug)]
pub struct Handle(());

#[expect(missing_docs, reason = "as in parking_lot")]
impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(missing_docs, reason = "as in parking_lot")]
impl<T: ?Sized> Mutex<T> {
    pub fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
    }

    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(missing_docs, reason = "as in parking_lot")]
impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }
}

#[expect(missing_docs, reason = "as in parking_lot")]
impl<T: ?Sized> RwLock<T> {
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(missing_docs, reason = "as in parking_lot")]
impl Condvar {
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }

    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.0.take().expect("held but while waiting");
        guard.0 = Some(self.0.wait(held).unwrap_or_else(PoisonError::into_inner));
    }

    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[expect(missing_docs, reason = "as in tokio")]
impl Handle {
    pub fn current() -> Self {
        Self(())
    }

    pub fn try_current() -> Result<Self, Infallible> {
        Ok(Self(()))
    }

    pub fn spawn<F: Future<Output: Send> + Send + 'static>(&self, future: F) -> JoinHandle<F::Output> {
        spawn(future)
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        shuttle::future::block_on(future)
    }
}

#[expect(missing_docs, reason = "as in tokio-util")]
impl<T> AbortOnDropHandle<T> {
    pub fn new(handle: JoinHandle<T>) -> Self {
        Self(handle)
    }
}

impl<T> Drop for AbortOnDropHandle<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDropHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// Lets others go ahead.
pub async fn sleep(_: Duration) {
    shuttle::future::yield_now().await;
}

/// Waits as long as it takes.
pub async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, Elapsed> {
    Ok(future.await)
}

/// A task of its own: every task has a stack here, and may stop in the midst of its work.
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn(async { work() })
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    /// Shuttle chooses before each step of its own. What follows a release may be none (a channel, a waker of `tokio`), and
    /// others must be able to come before it.
    fn drop(&mut self) {
        drop(self.0.take());
        if !std::thread::panicking() {
            AtomicBool::new(false).load(Ordering::SeqCst);
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("held but while waiting")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("held but while waiting")
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
