//! How many requests things take.

use gabion_store_core::{BlockDevice as _, ops::TransferOptions};
use gabion_store_s3::{RemoteOptions, RemoteStore};
use gabion_testcloud::{Class, Cloud, Fault, Operation, Rule, Stats, When};

use super::support::{Place, add, history, memory, noise, open, options, push, push_with, read};

/// What a push may ask for apart from its packs.
fn beside_packs(stats: &Stats) -> u64 {
    stats.requests() - stats.of_on(Operation::Put, Class::Packs)
}

/// Opening an image takes few requests, in a store of one image as in one of a history.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_open_takes_at_most_six_requests() {
    let cloud = Cloud::new();
    let url = Place::s3(&cloud).fresh();
    let store = RemoteStore::init(&url, options()).await.unwrap();
    let here = memory();
    let mut disk = noise(24 << 20, 0);
    for checkpoint in 1..=12 {
        disk[checkpoint << 20..][..4096].copy_from_slice(&noise(4096, checkpoint as u64));
        add(&here, &disk).await;
        push(&here, &store).await.unwrap();
    }
    assert_eq!(history(&store).await, 12);
    cloud.reset_stats();

    let cold = RemoteStore::open(&url, options()).await.unwrap();
    let volume = open(&cold).await.unwrap();
    let stats = cloud.stats();
    assert!(stats.requests() <= 6, "{:#?}", stats.entries);
    // A leaf and a chunk, each looked for in at most four maps and read from a pack.
    volume.read(0, &mut [0; 4096]).await.unwrap();
    let stats = cloud.stats();
    assert!(stats.requests() <= 6 + 2 * 5, "{:#?}", stats.entries);
    assert_eq!(stats.requests(), stats.of(Operation::Get), "{:#?}", stats.entries);
    assert!(read(&cold).await.unwrap() == disk);
}

/// The first push of a process, to a store that has the parent; and those after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_of_a_delta_takes_few_requests_beside_its_packs() {
    let cloud = Cloud::new();
    let url = Place::s3(&cloud).fresh();
    let here = memory();
    let mut disk = noise(24 << 20, 0);
    add(&here, &disk).await;
    push(&here, &RemoteStore::init(&url, options()).await.unwrap()).await.unwrap();

    let fresh = async || RemoteStore::open(&url, options()).await.unwrap();
    let mut running = None;
    for checkpoint in 1..=12_usize {
        disk[checkpoint << 20..][..4096].copy_from_slice(&noise(4096, checkpoint as u64));
        add(&here, &disk).await;
        cloud.reset_stats();
        // Half of them in one process, half each in one of its own. A transfer asks for the record that a
        // replicator recalls.
        let (store, most) = match (checkpoint % 2, &running) {
            (0, Some(store)) => (RemoteStore::clone(store), 6),
            _ => (fresh().await, 14),
        };
        push(&here, &store).await.unwrap();
        let stats = cloud.stats();
        // Now and then a push folds the image's maps, of which there are at most four, and reads them for that.
        let most = 14.min(most + stats.of_on(Operation::Get, Class::Maps));
        assert!(beside_packs(&stats) <= most, "checkpoint {checkpoint}: {:#?}", stats.entries);
        assert_eq!(stats.of(Operation::List), 0);
        running = Some(store);
    }
    assert!(read(&fresh().await).await.unwrap() == disk);
}

/// A disk of some size in few, large objects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_push_is_one_put_per_pack() {
    let cloud = Cloud::new();
    let store = RemoteStore::init(&Place::s3(&cloud).fresh(), options()).await.unwrap();
    let here = memory();
    add(&here, &noise(100 << 20, 0)).await;
    cloud.reset_stats();
    push(&here, &store).await.unwrap();
    let stats = cloud.stats();
    // 20 GiB in at most 1,500.
    assert!(stats.of_on(Operation::Put, Class::Packs) <= 7, "{:#?}", stats.rows);
    assert!(beside_packs(&stats) <= 14, "{:#?}", stats.entries);
    assert_eq!(stats.of(Operation::List), 0);
}

/// A push that is refused in its middle, and run again by another process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_sends_little_of_what_arrived() {
    const MIB: u64 = 1 << 20;
    let cloud = Cloud::new();
    let url = Place::s3(&cloud).fresh();
    RemoteStore::init(&url, options()).await.unwrap();
    let fresh = async || {
        let options = RemoteOptions { pack_target: MIB, ..options() };
        RemoteStore::open(&url, options).await.unwrap()
    };
    let here = memory();
    let disk = noise(40 << 20, 0);
    add(&here, &disk).await;
    let often = TransferOptions { named_every: 4 * MIB, ..TransferOptions::default() };
    cloud.add_fault(
        Rule::new(Fault::Error { status: 403, code: "AccessDenied".into() })
            .on(Operation::Put)
            .at("packs/")
            .when(When::From(25)),
    );
    push_with(&here, &fresh().await, often).await.unwrap_err();
    cloud.clear_faults();
    let rerun = push_with(&here, &fresh().await, often).await.unwrap();
    // At least 20 of 24 packs were there; two parts of 4 MiB may have been on their way to be named.
    assert!(rerun.bytes < 28 * MIB, "{rerun:?}");
    assert!(read(&fresh().await).await.unwrap() == disk);
}
