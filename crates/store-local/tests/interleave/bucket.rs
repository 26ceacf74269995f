//! A store in a bucket. Its requests arrive, and are answered, when the scheduler says so, and some of them fail.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use gabion_store_core::{
    format::{codec::Compression, descriptor::DESCRIPTOR_KEY},
    sync::{shuttle::future::yield_now, spawn},
    testing::{FixedClock, Rng},
};
use gabion_store_s3::{
    RemoteOptions, RemoteStore, Timeouts,
    testing::{Fate, FaultBucket, Request, Weather},
};
use object_store::{ObjectStore, memory::InMemory, path::Path};

const PREFIX: &str = "store";
const PLACE: &str = "memory://store";
/// Times that late writes arrive.
const LANDINGS: usize = 8;

/// A bucket with a store, and the network before it.
pub(crate) struct Bucket {
    objects: Arc<InMemory>,
    network: Arc<Network>,
    seen: FaultBucket,
}

/// Lets others go ahead before and after each request.
#[derive(Debug)]
struct Network(Mutex<Trouble>);

#[derive(Debug)]
struct Trouble {
    rng: Rng,
    /// Requests that may still fail.
    left: usize,
    /// Whether some may be refused for good.
    refuses: bool,
}

#[async_trait]
impl Weather for Network {
    async fn fate(&self, request: &Request) -> Fate {
        yield_now().await;
        let Trouble { rng, left, refuses } = &mut *self.0.lock().unwrap();
        // A descriptor is JSON without a checksum, and a handle that can't be opened is of no interest here.
        if *left == 0 || rng.below(5) > 0 || request.key.filename() == Some(DESCRIPTOR_KEY) {
            return Fate::Done;
        }
        *left -= 1;
        match (rng.below(8), request.write) {
            (0 | 1, _) => Fate::Lost,
            (2 | 3, true) => Fate::LostAfter,
            (4 | 5, true) => Fate::Late,
            (2 | 3, false) => Fate::Cut(rng.below(1000)),
            (4 | 5, false) => Fate::Flipped(rng.below(10_000)),
            _ if *refuses => Fate::Refused,
            _ => Fate::Done,
        }
    }

    async fn answered(&self, _: &Request) {
        yield_now().await;
    }
}

fn options(rng: &mut Rng) -> RemoteOptions {
    RemoteOptions {
        compression: Compression::None,
        // Two of the tests' entries, or one.
        pack_target: [1000, 400][rng.below(2)],
        uploads: 1 + rng.below(2),
        // As long as it takes: time stands still.
        timeouts: Timeouts::for_guest_wait(Duration::from_secs(3600)),
        clock: Arc::new(FixedClock::default()),
        ..RemoteOptions::default()
    }
}

impl Bucket {
    /// With an empty store, and nothing that fails.
    pub(crate) async fn new(rng: &mut Rng) -> Self {
        let objects = Arc::new(InMemory::new());
        let made = RemoteStore::init_in(objects.clone(), Path::from(PREFIX), PLACE, options(rng)).await;
        drop(made.unwrap());
        let trouble = Trouble { rng: Rng::new(rng.next()), left: 0, refuses: false };
        let network = Arc::new(Network(Mutex::new(trouble)));
        Self { seen: FaultBucket::new(objects.clone(), network.clone()), network, objects }
    }

    /// From now on so many requests fail, some of them for good.
    pub(crate) fn fail(&self, requests: usize, for_good: bool) {
        let trouble = &mut *self.network.0.lock().unwrap();
        (trouble.left, trouble.refuses) = (requests, for_good);
    }

    /// Late writes arrive, now and then.
    pub(crate) fn land(&self) {
        let bucket = self.seen.clone();
        drop(spawn(async move {
            for _ in 0..LANDINGS {
                yield_now().await;
                bucket.land().await;
            }
        }));
    }

    /// A handle of its own.
    pub(crate) async fn open(&self, rng: &mut Rng) -> RemoteStore {
        RemoteStore::open_in(Arc::new(self.seen.clone()), Path::from(PREFIX), PLACE, options(rng))
            .await
            .unwrap()
    }

    /// Somebody else's handle of a copy of the bucket as it is now.
    pub(crate) fn copy(&self) -> Copy {
        Copy(Arc::new(self.objects.fork()))
    }
}

/// A bucket that nobody else has.
#[derive(Clone)]
pub(crate) struct Copy(Arc<dyn ObjectStore>);

impl Copy {
    pub(crate) async fn open(&self) -> RemoteStore {
        let options = options(&mut Rng::new(0));
        RemoteStore::open_in(self.0.clone(), Path::from(PREFIX), PLACE, options).await.unwrap()
    }
}
