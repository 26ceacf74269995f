//! What regions of a disk hold. Each has one writer, who logs an operation before it is begun and counts it
//! when it is answered; so whoever looks at the disk at one moment must find the state after some number of
//! operations between these two.

use std::sync::atomic::{AtomicUsize, Ordering};

use gabion_store_core::testing::Rng;
use parking_lot::Mutex;

/// An operation on a region; offsets count from the region's start.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Bytes derived from a seed.
    Write { at: usize, len: usize, seed: u64 },
    /// Zeros, which may come in several steps.
    Zero { at: usize, len: usize },
    /// The region, which is the disk's end, has so many bytes from now on.
    Grow { len: usize },
}

impl Op {
    pub(crate) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { at, len, seed } => {
                bytes[*at..at + len].copy_from_slice(&Rng::new(*seed).bytes(*len));
            }
            Self::Zero { at, len } => bytes[*at..at + len].fill(0),
            Self::Grow { len } => bytes.resize(*len, 0),
        }
    }
}

/// A part of the disk that one task writes to.
pub(crate) struct Region {
    /// First byte on the disk.
    pub(crate) start: usize,
    log: Mutex<Vec<Op>>,
    answered: AtomicUsize,
    /// State after so many operations, as the last check left it.
    checked: Mutex<(usize, Vec<u8>)>,
}

impl Region {
    pub(crate) fn new(start: usize, initial: Vec<u8>) -> Self {
        let (log, answered) = (Mutex::default(), AtomicUsize::new(0));
        Self { start, log, answered, checked: Mutex::new((0, initial)) }
    }

    pub(crate) fn begin(&self, op: Op) {
        self.log.lock().push(op);
    }

    pub(crate) fn answer(&self) {
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    /// Operations answered so far.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::SeqCst)
    }

    /// Asserts that `disk` shows the region as it was at one moment, after at least `least` operations.
    /// Checks come in the order of the moments.
    pub(crate) fn check(&self, disk: &[u8], least: usize, what: &str) {
        let log = self.log.lock().clone();
        let (count, state) = &mut *self.checked.lock();
        let mut differs = None;
        loop {
            let end = (self.start + state.len()).min(disk.len());
            let shown = &disk[self.start.min(end)..end];
            if *count >= least {
                if shown == state.as_slice() || partly(shown, state, log.get(*count)) {
                    return;
                }
                let at = shown.iter().zip(state.iter()).position(|(a, b)| a != b);
                differs.get_or_insert((*count, at));
            }
            let Some(op) = log.get(*count) else { break };
            op.apply(state);
            *count += 1;
        }
        panic!(
            "{what}: the region at {} shows no state after {least} to {} operations; after (n, byte) {differs:?}, then {:?}",
            self.start,
            log.len(),
            log.get(least.saturating_sub(1)..(least + 2).min(log.len()))
        );
    }
}

/// Whether it is the state with part of `next` done, which must be one that comes in steps.
fn partly(shown: &[u8], state: &[u8], next: Option<&Op>) -> bool {
    let Some(Op::Zero { at, len }) = next else { return false };
    let inside = |n: usize| (*at..at + len).contains(&n);
    shown.len() == state.len()
        && shown.iter().zip(state).enumerate().all(|(n, (a, b))| a == b || (inside(n) && *a == 0))
}
