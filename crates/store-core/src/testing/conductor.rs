//! [`Conductor`]: blocking work one piece at a time, in an order that a test decides.
//!
//! Code that runs on one thread of a runtime, and on threads that may block beside it, is a history of its own each
//! time. A test that installs a conductor on the thread of its `current_thread` runtime has all work that is given to
//! [`blocking`](crate::blocking) from there wait for its *turn*. The test gives turns, and waits until the work has
//! come to its end or waits itself; so at each moment one thread runs, and which one is the test's choice. Ids that
//! are drawn at random come from the conductor's seed. Then the same choices are the same history.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt,
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::Rng;

/// No piece of work takes so long, unless it waits for what only another piece or the runtime can do.
const STUCK: Duration = Duration::from_secs(60);

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// Whose thread this is.
#[derive(Clone)]
struct Here {
    shared: Arc<Shared>,
    /// The work that runs on it; none on the thread of the runtime.
    number: Option<u64>,
}

/// Decides when blocking work runs. A clone is the same one.
#[derive(Clone)]
pub struct Conductor(Arc<Shared>);

/// Ends what [`Conductor::install`] began.
#[derive(Debug)]
#[must_use = "it is in force until this is dropped"]
pub struct Installed(());

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    begun: u64,
    ready: BTreeSet<u64>,
    running: Option<u64>,
    alive: usize,
    ids: Option<Rng>,
    /// Nobody conducts any more.
    ended: bool,
}

impl Conductor {
    /// One whose work draws random ids by `seed`.
    pub fn new(seed: u64) -> Self {
        let conductor = Self(Arc::default());
        conductor.0.state.lock().ids = Some(Rng::new(seed));
        conductor
    }

    /// Conducts what this thread, and the work it gives away, give to threads that block.
    ///
    /// # Panics
    /// If there is a conductor already.
    pub fn install(&self) -> Installed {
        let here = Here { shared: Arc::clone(&self.0), number: None };
        let before = HERE.replace(Some(here));
        assert!(before.is_none(), "this thread has a conductor");
        Installed(())
    }

    /// Work that waits for its turn, in the order in which it was begun. Numbers are never used again.
    pub fn ready(&self) -> Vec<u64> {
        self.0.state.lock().ready.iter().copied().collect()
    }

    /// Pieces of work that have not come to their end, ready or not.
    pub fn alive(&self) -> usize {
        self.0.state.lock().alive
    }

    /// Runs a piece of work that is ready, until its end or until it waits for a future.
    ///
    /// # Panics
    /// If it waits for anything else, such as a lock that other work holds.
    pub fn run(&self, number: u64) {
        let mut state = self.0.state.lock();
        assert!(state.ready.remove(&number), "work {number} is not ready");
        state.running = Some(number);
        self.0.changed.notify_all();
        while state.running.is_some() {
            let waited = self.0.changed.wait_for(&mut state, STUCK);
            assert!(!waited.timed_out(), "work {number} waits for what is no future");
        }
    }
}

impl Drop for Installed {
    /// Lets go of all that still waits for its turn: from here on it runs as it likes.
    fn drop(&mut self) {
        if let Some(here) = HERE.take() {
            here.shared.state.lock().ended = true;
            here.shared.changed.notify_all();
        }
    }
}

impl fmt::Debug for Conductor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Conductor").field("ready", &state.ready).field("alive", &state.alive).finish()
    }
}

/// Fills `bytes` by the conductor's seed, if this thread has one.
pub(crate) fn conducted_bytes(bytes: &mut [u8]) -> bool {
    let Some(here) = HERE.with_borrow(Clone::clone) else { return false };
    let mut state = here.shared.state.lock();
    let Some(ids) = &mut state.ids else { return false };
    bytes.copy_from_slice(&ids.bytes(bytes.len()));
    true
}

/// A piece of work's right to run, once the conductor says so.
pub(crate) struct Turn {
    shared: Arc<Shared>,
    number: u64,
}

impl Turn {
    /// For work that this thread gives away, if it is conducted.
    pub(crate) fn next() -> Option<Self> {
        let here = HERE.with_borrow(Clone::clone)?;
        let mut state = here.shared.state.lock();
        let number = state.begun;
        state.begun += 1;
        state.alive += 1;
        state.ready.insert(number);
        drop(state);
        Some(Self { shared: here.shared, number })
    }

    /// Of the work that runs on this thread.
    pub(crate) fn current() -> Option<Self> {
        let here = HERE.with_borrow(Clone::clone)?;
        Some(Self { number: here.number?, shared: here.shared })
    }

    /// Runs `work` on a thread of its own when it is its turn.
    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (done, receiver) = oneshot::channel();
        // However the work ends, and even if it never begins, it is over then.
        let over = Over { shared: Arc::clone(&self.shared), number: self.number };
        #[expect(clippy::disallowed_methods, reason = "this is what the one way leads to")]
        drop(tokio::task::spawn_blocking(move || {
            let _over = over;
            self.wait();
            HERE.set(Some(Here { shared: Arc::clone(&self.shared), number: Some(self.number) }));
            let _clear = Clear;
            // Before the turn ends: whoever waits for it is woken in it. Perhaps nobody does.
            let _unheard = done.send(work());
        }));
        receiver
    }

    fn wait(&self) {
        let mut state = self.shared.state.lock();
        while state.running != Some(self.number) && !state.ended {
            self.shared.changed.wait(&mut state);
        }
    }

    /// Waits for a future, and gives the turn back as long as it has to.
    pub(crate) fn wait_for<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        let again = Arc::new(Again { shared: Arc::clone(&self.shared), number: self.number });
        let waker = Waker::from(again);
        loop {
            if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return done;
            }
            {
                let mut state = self.shared.state.lock();
                if state.ended {
                    // Nobody gives turns: look again when something has changed.
                    self.shared.changed.wait_for(&mut state, Duration::from_millis(1));
                    continue;
                }
                state.running = None;
                self.shared.changed.notify_all();
            }
            self.wait();
        }
    }
}

/// Ends a piece of work.
struct Over {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Over {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.alive -= 1;
        state.ready.remove(&self.number);
        if state.running == Some(self.number) {
            state.running = None;
        }
        self.shared.changed.notify_all();
    }
}

/// The runtime uses its threads again.
struct Clear;

impl Drop for Clear {
    fn drop(&mut self) {
        HERE.set(None);
    }
}

/// Makes work ready again that waits for a future.
struct Again {
    shared: Arc<Shared>,
    number: u64,
}

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        // It may be running: then it is ready as soon as it has given its turn back.
        self.shared.state.lock().ready.insert(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        blocking::{spawn_blocking, wait_for},
        types::VolumeId,
    };

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn work_runs_when_it_is_told_to_and_a_future_is_waited_for_without_a_turn() {
        runtime().block_on(async {
            let conductor = Conductor::new(1);
            let _installed = conductor.install();
            let log = Arc::new(Mutex::new(Vec::new()));
            let note = |what| {
                let log = Arc::clone(&log);
                move || log.lock().push(what)
            };
            let (first, second) = (spawn_blocking(note(1)), spawn_blocking(note(2)));
            let (open, opened) = oneshot::channel::<()>();
            let runtime = tokio::runtime::Handle::current();
            let waits = spawn_blocking({
                let (before, after) = (note(3), note(4));
                move || {
                    before();
                    wait_for(&runtime, opened).unwrap();
                    after();
                }
            });
            assert_eq!(conductor.ready(), [0, 1, 2]);
            conductor.run(1);
            conductor.run(2);
            assert_eq!(*log.lock(), [2, 3]);
            assert_eq!((conductor.ready(), conductor.alive()), (vec![0], 2));
            open.send(()).unwrap();
            assert_eq!(conductor.ready(), [0, 2]);
            conductor.run(2);
            conductor.run(0);
            assert_eq!(*log.lock(), [2, 3, 4, 1]);
            for done in [first, second, waits] {
                done.await.unwrap();
            }
        });
    }

    #[test]
    fn work_that_panics_is_over() {
        runtime().block_on(async {
            let conductor = Conductor::new(1);
            let _installed = conductor.install();
            let dies = spawn_blocking(|| panic!("on purpose"));
            conductor.run(0);
            assert_eq!(conductor.alive(), 0);
            let stopped: Result<(), _> = dies.await;
            assert_eq!(stopped.unwrap_err().to_string(), "a task died");
        });
    }

    #[test]
    fn ids_are_drawn_by_the_seed() {
        let draw = |seed| {
            let _installed = Conductor::new(seed).install();
            (VolumeId::random().unwrap(), VolumeId::random().unwrap())
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_ne!(draw(1).0, draw(1).1);
    }
}
