//! A home far away, whose answers are late, lost or wrong: a store in memory whose calls fail (`FaultStore`), or one in a
//! bucket, whose requests do (`FaultBucket`).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::FutureExt as _;
use gabion_store_core::{
    ErrorKind, Result, Store,
    clock::Clock,
    stores::MemoryStore,
    testing::{Call, Fault, FaultStore, Gate, Rng},
};
use gabion_store_s3::{
    RemoteOptions, RemoteStore,
    testing::{Fate, FaultBucket, Request, Weather},
};
use object_store::{ObjectStore, memory::InMemory, path::Path};
use parking_lot::Mutex;

use super::facts::Facts;

const PREFIX: &str = "home";
const PLACE: &str = "memory://home";

/// A store far away; it outlives the machine.
#[derive(Clone)]
pub(crate) enum Far {
    /// As it is, and as it is seen from the machine.
    Store {
        truth: Store,
        seen: Arc<FaultStore>,
    },
    Bucket {
        objects: Arc<InMemory>,
        seen: FaultBucket,
        storm: Arc<Storm>,
        clock: Arc<dyn Clock>,
    },
}

/// What becomes of requests, as a seed says.
pub(crate) struct Storm {
    facts: Facts,
    now: Mutex<Now>,
}

struct Now {
    rng: Rng,
    /// One in so many requests fails; 0 for none.
    one_in: usize,
    /// Whether all that fail are lost.
    outage: bool,
    /// Longest time that a request or an answer is on its way, in milliseconds.
    slow: usize,
}

impl Now {
    fn pause(&mut self) -> Duration {
        Duration::from_millis(if self.slow == 0 { 0 } else { self.rng.below(self.slow) as u64 })
    }
}

impl fmt::Debug for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storm")
    }
}

#[async_trait]
impl Weather for Storm {
    async fn fate(&self, request: &Request) -> Fate {
        let (pause, fate) = {
            let now = &mut *self.now.lock();
            let Now { rng, one_in, outage, .. } = now;
            let fate = match (*one_in > 0 && rng.below(*one_in) == 0, rng.below(7), request.write) {
                (false, ..) => Fate::Done,
                (true, ..) if *outage => Fate::Lost,
                (_, 0 | 1, _) => Fate::Lost,
                (_, 2, _) => Fate::LostAfter,
                (_, 3 | 4, true) => Fate::Late,
                (_, 3, false) => Fate::Cut(rng.below(5000)),
                (_, 4, false) => Fate::Flipped(rng.below(40_000)),
                (_, 5, true) => Fate::LostAfter,
                (_, 5, false) => Fate::Flipped(rng.below(800)),
                _ => Fate::Refused,
            };
            (now.pause(), fate)
        };
        self.facts.count(|counts| {
            counts.in_bucket += 1;
            counts.failed_in_bucket += u64::from(fate != Fate::Done);
        });
        let verb = if request.write { "writes" } else { "reads" };
        self.facts.note(format!("home: {verb} {}: {fate:?}, in {pause:?}", request.key));
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        fate
    }

    async fn answered(&self, _: &Request) {
        let pause = self.now.lock().pause();
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

fn options(clock: &Arc<dyn Clock>) -> RemoteOptions {
    RemoteOptions { pack_target: 48 << 10, uploads: 2, clock: clock.clone(), ..RemoteOptions::default() }
}

/// What asks a bucket that answers at once.
fn at_once<T>(asked: impl Future<Output = T>) -> T {
    asked.now_or_never().expect("nothing has to wait")
}

impl Far {
    /// A store in memory or in a bucket, empty.
    pub(crate) fn new(mut rng: Rng, clock: Arc<dyn Clock>, facts: &Facts) -> Self {
        if rng.below(2) == 0 {
            let truth = Arc::new(MemoryStore::new(&*clock).unwrap()).store();
            return Self::Store { seen: FaultStore::new(truth.clone(), rng.next()), truth };
        }
        facts.note("home is a bucket");
        let objects = Arc::new(InMemory::new());
        let made = RemoteStore::init_in(objects.clone(), Path::from(PREFIX), PLACE, options(&clock));
        drop(at_once(made).unwrap());
        let now = Mutex::new(Now { rng, one_in: 0, outage: false, slow: 0 });
        let storm = Arc::new(Storm { facts: facts.clone(), now });
        Self::Bucket { seen: FaultBucket::new(objects.clone(), storm.clone()), objects, storm, clock }
    }

    /// As another host sees it, which has nothing of it yet and no faults.
    pub(crate) fn truth(&self) -> Result<Store> {
        match self {
            Self::Store { truth, .. } => Ok(truth.clone()),
            Self::Bucket { objects, clock, .. } => {
                let bucket: Arc<dyn ObjectStore> = objects.clone();
                let opened = RemoteStore::open_in(bucket, Path::from(PREFIX), PLACE, options(clock));
                Ok(at_once(opened)?.into_store())
            }
        }
    }

    /// As a process of the machine opens it.
    pub(crate) async fn open(&self) -> Result<Store> {
        match self {
            Self::Store { seen, .. } => Ok(seen.store()),
            Self::Bucket { seen, clock, .. } => {
                let bucket = Arc::new(seen.clone());
                let opened = RemoteStore::open_in(bucket, Path::from(PREFIX), PLACE, options(clock));
                Ok(opened.await?.into_store())
            }
        }
    }

    /// Something is wrong with it from now on; whether requests may be refused then. What is held back passes at the
    /// gates.
    pub(crate) fn spoil(&self, rng: &mut Rng, gates: &mut Vec<Arc<Gate>>) -> bool {
        let how = rng.below(4);
        match self {
            Self::Store { seen, .. } => spoil_store(seen, how, rng, gates),
            Self::Bucket { storm, .. } => {
                storm.facts.note(format!("home fails: {how}"));
                let now = &mut *storm.now.lock();
                match how {
                    0 => (now.one_in, now.outage) = (1, true),
                    1 => (now.one_in, now.outage) = (2 + rng.below(8), false),
                    2 => (now.one_in, now.outage) = (2 + rng.below(20), true),
                    _ => now.slow = [50, 2000, 30_000][rng.below(3)],
                }
                true
            }
        }
    }

    /// All is well with it again.
    pub(crate) fn heal(&self) {
        match self {
            Self::Store { seen, .. } => seen.heal(),
            Self::Bucket { storm, .. } => {
                let now = &mut *storm.now.lock();
                (now.one_in, now.slow) = (0, 0);
            }
        }
    }

    /// A write arrives that was given up long ago, if there is one.
    pub(crate) fn land(&self) {
        if let Self::Bucket { seen, storm, .. } = self
            && at_once(seen.land())
        {
            storm.facts.note("home: a late write arrives");
        }
    }
}

fn spoil_store(seen: &FaultStore, how: usize, rng: &mut Rng, gates: &mut Vec<Arc<Gate>>) -> bool {
    let unavailable = ErrorKind::Unavailable;
    match how {
        0 => seen.outage(Some(unavailable)),
        1 => {
            let faults =
                vec![Fault::Before(unavailable), Fault::After(unavailable), Fault::Corrupt, Fault::Cut];
            seen.chaos(2 + rng.below(8), faults);
        }
        2 => {
            let calls = [Call::WriteImage, Call::WriteCatalog, Call::PutEncoded, Call::Sync];
            seen.script(calls[rng.below(4)], 0, Fault::After(unavailable));
        }
        _ => {
            // Slow: an answer that comes some time later.
            let gate = Arc::new(Gate::new());
            gates.push(gate.clone());
            let calls = [Call::WriteImage, Call::WriteCatalog, Call::PutEncoded, Call::Get, Call::ReadImage];
            let hold = if rng.below(2) == 0 { Fault::Hold(gate) } else { Fault::HoldAfter(gate) };
            seen.script(calls[rng.below(5)], 0, hold);
            return false;
        }
    }
    true
}
