//! What goes wrong between here and the bucket. Each test names its row in `docs/reliability.md`.

use std::{sync::Arc, time::Duration};

use gabion_store_core::{
    ErrorKind, Store,
    ops::{Depth, Job, check},
    stores::MemoryCache,
};
use gabion_store_s3::{ObjectUrl, RemoteOptions, RemoteStore, Timeouts};
use gabion_testcloud::{Cloud, Fault, Operation, Rule, When};

use super::support::{Place, add, history, memory, noise, options, push, read, read_through};

const DISK: usize = 1 << 20;

/// What a lie is called. One that changes an entry's flags looks as if it were from the future.
const REFUSED: [ErrorKind; 2] = [ErrorKind::Corrupt, ErrorKind::Unsupported];

/// A disk here, and an empty store in a cloud.
struct Bench {
    cloud: Cloud,
    url: ObjectUrl,
    here: Store,
    disk: Vec<u8>,
    there: RemoteStore,
}

impl Bench {
    async fn s3() -> Self {
        Self::at(Place::s3).await
    }

    async fn at(place: impl FnOnce(&Cloud) -> Place) -> Self {
        let cloud = Cloud::new();
        let url = place(&cloud).fresh();
        let there = RemoteStore::init(&url, options()).await.unwrap();
        let (here, disk) = (memory(), noise(DISK, 1));
        add(&here, &disk).await;
        cloud.reset_stats();
        Self { cloud, url, here, disk, there }
    }

    /// The same, with the disk pushed.
    async fn pushed() -> Self {
        let bench = Self::s3().await;
        push(&bench.here, &bench.there).await.unwrap();
        bench.cloud.reset_stats();
        bench
    }

    /// Another handle, as another host has it.
    async fn elsewhere(&self) -> RemoteStore {
        RemoteStore::open(&self.url, options()).await.unwrap()
    }

    /// The disk is there under its name, once, and whole.
    async fn assert_pushed(&self) {
        self.cloud.clear_faults();
        let there = self.elsewhere().await;
        assert_eq!(history(&there).await, 1);
        assert!(read(&there).await.unwrap() == self.disk);
        let report = check(&there.into_store(), Depth::Hashes, &Job::default()).await.unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
    }

    /// No name, or the old one, and nothing that a reader could stumble over.
    async fn assert_not_pushed(&self) {
        self.cloud.clear_faults();
        let there = self.elsewhere().await;
        assert_eq!(history(&there).await, 0);
        let report = check(&there.into_store(), Depth::Hashes, &Job::default()).await.unwrap();
        assert!(report.damage.is_empty(), "{:?}", report.damage);
    }
}

/// Row 19: a write landed, and its answer was lost. It is recognised, on the record, the catalog and the packs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_own_writes_are_recognised_after_a_reset() {
    for place in [Place::s3, Place::gcs] {
        let bench = Bench::at(place).await;
        for key in ["images/", "catalog", "packs/", "locators/", "maps/"] {
            for operation in [Operation::Put, Operation::Create, Operation::Replace] {
                bench
                    .cloud
                    .add_fault(Rule::new(Fault::Reset).on(operation).at(key).when(When::First(1)).after());
            }
        }
        push(&bench.here, &bench.there).await.unwrap();
        assert!(bench.cloud.stats().faults >= 4, "{:?}", bench.cloud.stats().rows);
        bench.assert_pushed().await;
    }
}

/// Row 19, where the reset comes before the effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_writes_that_were_lost_are_sent_again() {
    let bench = Bench::s3().await;
    for key in ["images/", "catalog", "packs/", "locators/", "maps/"] {
        bench.cloud.add_fault(Rule::new(Fault::Reset).at(key).when(When::First(2)));
    }
    push(&bench.here, &bench.there).await.unwrap();
    bench.assert_pushed().await;
}

/// Row 19, when someone else's write came after ours, whose answer was lost: that is no conflict to hide, and no
/// success to invent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_a_create_that_another_won_is_not_taken_for_ones_own() {
    let bench = Bench::s3().await;
    let other = bench.elsewhere().await;
    let theirs = memory();
    add(&theirs, &noise(1 << 20, 2)).await;
    bench.cloud.add_fault(Rule::new(Fault::Stall).on(Operation::Create).at("images/").when(When::Nth(1)));
    let ours = push(&bench.here, &bench.there);
    let meanwhile = async {
        bench.cloud.stalled(1).await;
        push(&theirs, &other).await.unwrap();
        bench.cloud.release();
    };
    let (ours, ()) = tokio::join!(ours, meanwhile);
    let refused = ours.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists),
        "{:?} {}",
        refused.kind(),
        refused.report()
    );
    assert!(read(&other).await.unwrap() == noise(1 << 20, 2));
}

/// Row 20: 409 says that another conditional write is in flight, not that the object is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_conflicts_in_flight_are_retried() {
    let bench = Bench::s3().await;
    for operation in [Operation::Create, Operation::Replace] {
        bench.cloud.add_fault(Rule::new(Fault::conflict()).on(operation).when(When::First(3)));
    }
    push(&bench.here, &bench.there).await.unwrap();
    assert_eq!(bench.cloud.stats().faults, 6);
    bench.assert_pushed().await;
}

/// Row 21: an error after the effect, then 412 to the retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_a_412_to_ones_own_retry_is_no_conflict() {
    for place in [Place::s3, Place::gcs] {
        let bench = Bench::at(place).await;
        for operation in [Operation::Create, Operation::Replace] {
            bench.cloud.add_fault(Rule::new(Fault::internal()).on(operation).when(When::First(1)).after());
        }
        push(&bench.here, &bench.there).await.unwrap();
        assert_eq!(bench.cloud.stats().faults, 2);
        bench.assert_pushed().await;
    }
}

/// Row 22: what passes is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_a_push_survives_a_rough_sea() {
    for (seed, fault) in
        [Fault::slow_down(), Fault::too_many(), Fault::internal(), Fault::Reset].into_iter().enumerate()
    {
        let bench = Bench::s3().await;
        let when = When::Chance { percent: 25, seed: seed as u64 };
        bench.cloud.add_fault(Rule::new(fault.clone()).when(when));
        let patient = async || RemoteStore::open(&bench.url, RemoteOptions::default()).await.unwrap();
        push(&bench.here, &patient().await).await.unwrap();
        let there = patient().await;
        assert!(read(&there).await.unwrap() == bench.disk, "{fault:?}");
        assert!(bench.cloud.stats().faults > 0);
        bench.assert_pushed().await;
    }
}

/// Row 22: what does not pass ends, in an error that may be tried again, after few requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_a_storm_is_bounded() {
    let bench = Bench::s3().await;
    bench.cloud.add_fault(Rule::new(Fault::slow_down()));
    let refused = push(&bench.here, &bench.there).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{}", refused.report());
    let requests = bench.cloud.stats().requests();
    assert!((2..100).contains(&requests), "{requests} requests");
    bench.assert_not_pushed().await;
    // The storm is over, and what was begun is finished.
    push(&bench.here, &bench.there).await.unwrap();
    bench.assert_pushed().await;
}

/// Row 22: a status of 200 over an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_an_error_with_status_200_is_no_success() {
    let bench = Bench::s3().await;
    for operation in [Operation::Put, Operation::Create, Operation::Replace] {
        bench.cloud.add_fault(Rule::new(Fault::ErrorBody).on(operation).when(When::First(1)));
    }
    push(&bench.here, &bench.there).await.unwrap();
    assert!(bench.cloud.stats().faults >= 3);
    bench.assert_pushed().await;
    for key in ["images/", "packs/", "maps/", "catalog"] {
        bench.cloud.add_fault(Rule::new(Fault::ErrorBody).on(Operation::Get).at(key).when(When::First(1)));
    }
    assert!(read(&bench.elsewhere().await).await.unwrap() == bench.disk);
}

/// Row 23: a body that is cut, short or wrong is fetched again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_bad_bodies_are_fetched_again() {
    let bench = Bench::pushed().await;
    for fault in [Fault::Cut, Fault::Short, Fault::Flip] {
        // The descriptor has no checksum: what of it is wrong is an error, or of no matter.
        for key in ["packs/", "maps/", "images/"] {
            bench.cloud.clear_faults();
            let get = Rule::new(fault.clone()).on(Operation::Get).at(key).when(When::First(1));
            bench.cloud.add_fault(get);
            let there = bench.elsewhere().await;
            let bytes = read(&there).await.unwrap_or_else(|e| panic!("{fault:?} {key}: {}", e.report()));
            assert!(bytes == bench.disk, "{fault:?} {key}");
        }
    }
}

/// Row 23: one that stays bad is an error that names it. Never other bytes, never zeros.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_bodies_that_stay_bad_are_an_error() {
    let bench = Bench::pushed().await;
    for fault in [Fault::Cut, Fault::Short, Fault::Flip] {
        bench.cloud.clear_faults();
        bench.cloud.reset_stats();
        bench.cloud.add_fault(Rule::new(fault.clone()).on(Operation::Get).at("packs/"));
        let failed = read(&bench.elsewhere().await).await.unwrap_err();
        let kinds = [ErrorKind::Corrupt, ErrorKind::Unavailable];
        assert!(kinds.contains(&failed.kind()), "{fault:?}: {:?} {}", failed.kind(), failed.report());
        let requests = bench.cloud.stats().requests();
        assert!(requests < 100, "{fault:?}: {requests} requests");
    }
}

/// Row 27: nothing is left behind that costs money and that no list shows: there are no multipart uploads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_27_no_multipart_upload_is_ever_begun() {
    let cloud = Cloud::new();
    let there = RemoteStore::init(&Place::s3(&cloud).fresh(), options()).await.unwrap();
    let here = memory();
    add(&here, &noise(40 << 20, 1)).await;
    push(&here, &there).await.unwrap();
    let stats = cloud.stats();
    assert_eq!((stats.of(Operation::Other), stats.of(Operation::List)), (0, 0));
    assert!(stats.bytes_in() > 40 << 20);
}

/// Row 31: a remote that has other bytes under a right id. They are refused before any cache has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_31_a_lying_remote_is_found_out_before_any_cache() {
    let bench = Bench::pushed().await;
    let honest = bench.cloud.objects("bucket");
    let packs: Vec<_> = honest.keys().filter(|key| key.contains("packs/")).collect();
    assert!(!packs.is_empty());
    for key in &packs {
        // Every byte between the header and the trailer lies.
        let mut bytes = honest[*key].to_vec();
        let end = bytes.len() - 200;
        bytes[200..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        bench.cloud.put_object("bucket", key, bytes);
    }
    let cache = Arc::new(MemoryCache::new(64 << 20));
    let lied = read_through(&bench.elsewhere().await, &cache).await.unwrap_err();
    assert!(REFUSED.contains(&lied.kind()), "{}", lied.report());
    for key in &packs {
        bench.cloud.put_object("bucket", key, honest[*key].clone());
    }
    assert!(read_through(&bench.elsewhere().await, &cache).await.unwrap() == bench.disk);
}

/// Row 31: one pack's bytes under another's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_31_packs_that_changed_places_are_found_out() {
    let cloud = Cloud::new();
    let url = Place::s3(&cloud).fresh();
    let small = RemoteOptions { pack_target: 1 << 20, ..options() };
    let there = RemoteStore::init(&url, small).await.unwrap();
    let here = memory();
    add(&here, &noise(3 * DISK, 1)).await;
    push(&here, &there).await.unwrap();
    let objects = cloud.objects("bucket");
    let packs: Vec<_> = objects.keys().filter(|key| key.contains("packs/")).collect();
    assert!(packs.len() > 2);
    for (at, key) in packs.iter().enumerate() {
        cloud.put_object("bucket", key, objects[packs[(at + 1) % packs.len()]].clone());
    }
    let there = RemoteStore::open(&url, options()).await.unwrap();
    let lied = read(&there).await.unwrap_err();
    assert!(REFUSED.contains(&lied.kind()), "{}", lied.report());
}

/// Row 42: a backend that does not answer is an error in time, and no deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_42_silence_ends_in_an_error() {
    let bench = Bench::pushed().await;
    let impatient = RemoteOptions { timeouts: Timeouts::for_guest_wait(Duration::from_secs(1)), ..options() };
    let there = RemoteStore::open(&bench.url, impatient).await.unwrap();
    bench.cloud.add_fault(Rule::new(Fault::Stall).at("packs/"));
    let failed = read(&there).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{}", failed.report());
    bench.cloud.clear_faults();
    assert!(read(&there).await.unwrap() == bench.disk);
}

/// The network is gone in the middle of a push, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_gone_in_a_push_at_every_request() {
    for gone in 1.. {
        let bench = Bench::s3().await;
        let impatient =
            RemoteOptions { timeouts: Timeouts::for_guest_wait(Duration::from_secs(1)), ..options() };
        let there = RemoteStore::open(&bench.url, impatient).await.unwrap();
        bench.cloud.reset_stats();
        bench.cloud.add_fault(Rule::new(Fault::Reset).when(When::From(gone)));
        let pushed = push(&bench.here, &there).await;
        if bench.cloud.stats().faults == 0 {
            pushed.unwrap();
            assert!(gone > 4, "a push has more requests");
            return;
        }
        bench.cloud.clear_faults();
        match pushed {
            // What is named is whole; tidying up behind it may have failed.
            Ok(_) => bench.assert_pushed().await,
            Err(_) => {
                let there = bench.elsewhere().await;
                let report = check(&there.into_store(), Depth::Hashes, &Job::default()).await.unwrap();
                assert!(report.damage.is_empty(), "{:?}", report.damage);
                push(&bench.here, &bench.elsewhere().await).await.unwrap();
                bench.assert_pushed().await;
            }
        }
    }
}
