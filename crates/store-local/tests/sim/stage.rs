//! One thread at a time: work and tasks go on when the history says so.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use gabion_store_core::testing::Conductor;
use tokio::{runtime::Handle, task::yield_now, time::advance};

/// Rounds in which nothing goes on, before somebody is taken to wait for time to pass.
const STILL: usize = 20;
/// Times that time passes, before nobody is taken to wait for anything.
const PATIENCE: usize = 2000;

/// Whether a future was woken.
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Polls a future that was woken.
pub(crate) fn poll<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>, flag: &Arc<Flag>) -> Poll<T> {
    flag.0.store(false, Ordering::SeqCst);
    future.poll(&mut Context::from_waker(&Waker::from(flag.clone())))
}

/// Lets everything go on in its order until a future has come to its end.
pub(crate) async fn drive<T>(conductor: &Conductor, future: impl Future<Output = T>) -> T {
    let (mut future, flag) = (pin!(future), Flag::new());
    let mut still = 0;
    loop {
        if flag.is_set() {
            if let Poll::Ready(done) = poll(future.as_mut(), &flag) {
                return done;
            }
            still = 0;
        }
        still = if go_on(conductor).await { 0 } else { still + 1 };
        pass_time(still).await;
    }
}

/// Lets everything go on in its order until nothing is left.
pub(crate) async fn drain(conductor: &Conductor) {
    let mut still = 0;
    while conductor.alive() > 0 || Handle::current().metrics().num_alive_tasks() > 0 {
        still = if go_on(conductor).await { 0 } else { still + 1 };
        pass_time(still).await;
    }
}

/// Runs what work is ready, and lets the runtime go on; whether there was any work.
async fn go_on(conductor: &Conductor) -> bool {
    let ready = conductor.ready();
    ready.iter().for_each(|number| conductor.run(*number));
    yield_now().await;
    !ready.is_empty()
}

async fn pass_time(still: usize) {
    assert!(still < STILL * PATIENCE, "everybody waits, and not for time to pass");
    if still > 0 && still.is_multiple_of(STILL) {
        advance(Duration::from_secs(1)).await;
    }
}
