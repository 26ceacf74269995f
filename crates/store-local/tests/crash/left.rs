//! What a killed process left is durable once another has reported it, though it had nothing to write.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use gabion_store_core::{
    ImageName, Result, Store,
    clock::Timestamp,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry},
    ops::{ImageRef, Job, Publish, Side, TransferOptions, pin, publish, store_checkpoint, transfer, unpin},
    stores::MemoryStore,
    testing::{FixedClock, Rng},
    types::VolumeId,
};
use gabion_store_local::{
    fs::{CrashFs, FaultFs, Fs, FsFault, MemFs, On},
    store::LocalStore,
};

use super::{budget::Budget, survive::survive_each};

const STORE: &str = "/store";
const IMAGES: usize = 24;
const OWNER: [u8; 16] = [1; 16];

fn image() -> ImageName {
    "vm".parse().unwrap()
}

fn open(fs: Arc<dyn Fs>) -> Result<Store> {
    LocalStore::open(fs, Path::new(STORE)).map(LocalStore::into_store)
}

/// What is reported without a write, if someone else has done it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Publish,
    Transfer,
    Pin,
    Unpin,
}

impl Report {
    async fn run(self, from: &Store, to: &Store, entry: HistoryEntry) -> Result<()> {
        let clock = FixedClock::default();
        let owner = VolumeId::from_bytes(OWNER);
        match self {
            Self::Publish => {
                let done = publish(to, &clock, Publish::append(&image(), entry)).await;
                done.map(drop)
            }
            Self::Transfer => {
                let (from, to) = (Side { store: from, place: "here" }, Side { store: to, place: "there" });
                let (what, options) = (ImageRef::from(image()), TransferOptions::default());
                transfer(from, to, &what, &image(), &clock, options, &Job::default()).await.map(drop)
            }
            Self::Pin => pin(to, &clock, owner, entry.checkpoint).await,
            Self::Unpin => unpin(to, owner, None).await,
        }
    }

    /// Whether the store shows what was reported.
    async fn holds(self, store: &Store, entry: HistoryEntry) -> Result<bool> {
        let catalog = store.index.read_catalog().await?.value;
        Ok(match self {
            Self::Publish | Self::Transfer => {
                let found = store.index.read_image(&image()).await?;
                found.is_some_and(|found| found.value.history[0].checkpoint == entry.checkpoint)
            }
            Self::Pin => catalog.pins.iter().any(|pin| pin.checkpoint == entry.checkpoint),
            Self::Unpin => catalog.pins.is_empty(),
        })
    }
}

/// One process is killed at its `n`th change, the next one reports the same, and the power fails. Gives whether the
/// first one came to its end.
async fn life(report: Report, n: u64, seed: u64, budget: &mut Budget) -> bool {
    let clock = FixedClock::default();
    let from = Arc::new(MemoryStore::new(&clock).unwrap()).store();
    let made = Checkpoint::new(8192, None, Timestamp(1)).unwrap();
    let checkpoint = store_checkpoint(&from, &made).await.unwrap();
    let entry = HistoryEntry { checkpoint, size: 8192, created: Timestamp(1) };
    publish(&from, &clock, Publish::append(&image(), entry)).await.unwrap();

    let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), seed).unwrap();
    LocalStore::init(Arc::new(crash.clone()), Path::new(STORE), &clock).unwrap();
    let store = open(Arc::new(crash.clone())).unwrap();
    store_checkpoint(&store, &made).await.unwrap();
    match report {
        Report::Unpin => pin(&store, &clock, VolumeId::from_bytes(OWNER), checkpoint).await.unwrap(),
        _ => drop(store.chunks.sync().await.unwrap()),
    }
    drop(store);

    let faults = FaultFs::new(Arc::new(crash.clone()));
    let store = open(Arc::new(faults.clone())).unwrap();
    faults.fail(On::change().skip(n).always(), FsFault::EIO);
    let ended = report.run(&from, &store, entry).await.is_ok();
    drop(store);
    // Looking costs no sync, and says nothing of what a power failure leaves.
    let store = open(Arc::new(crash.clone())).unwrap();
    let shown = report.holds(&store, entry).await.unwrap();
    assert!(shown || !ended, "{report:?} ended without being done");
    report.run(&from, &store, entry).await.unwrap();
    let points = vec![(crash.crash(), ())];
    survive_each(points, &mut Rng::new(seed), budget, IMAGES, async |fs, ()| {
        let store = open(fs).map_err(|e| e.report())?;
        match report.holds(&store, entry).await.map_err(|e| e.report())? {
            true => Ok(()),
            false => Err(format!("{report:?} was reported, after one that died at change {n}")),
        }
    })
    .await;
    ended
}

/// Rows 2, 3 and 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_left_is_durable_once_it_is_reported() {
    let mut budget = Budget::new("what_a_killed_process_left_is_durable_once_it_is_reported", 2);
    let mut ended = BTreeSet::new();
    while let Some(seed) = budget.round() {
        for (number, report) in
            [Report::Publish, Report::Transfer, Report::Pin, Report::Unpin].into_iter().enumerate()
        {
            for n in 0.. {
                if life(report, n, seed, &mut budget).await {
                    ended.insert((number, n));
                    break;
                }
            }
        }
    }
    assert!(ended.iter().all(|(_, n)| *n > 3), "{ended:?}");
    budget.end();
}
