//! Which object stores may be written by several processes, and what remains for the others.

use gabion_store_core::ErrorKind;
use gabion_store_s3::{ObjectUrl, RemoteStore};
use gabion_testcloud::{
    Cloud, Conditions, Operation,
    servers::{Moto, S3s},
};

use super::support::{Place, add, history, in_process_with, memory, noise, options, push, read};

/// Several writers are refused, in words that say what to do; one alone works.
async fn is_for_one_writer(place: &Place) {
    let url = place.fresh();
    let refused = RemoteStore::init(&url, options()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{}", refused.report());
    let report = refused.report();
    assert!(report.contains("single_writer=true") || report.contains("single-writer"), "{report}");

    let sign = if url.to_string().contains('?') { '&' } else { '?' };
    let alone: ObjectUrl = format!("{}{sign}single_writer=true", place.fresh()).parse().unwrap();
    let store = RemoteStore::init(&alone, options()).await.unwrap();
    let (here, disk) = (memory(), noise(3 << 20, 1));
    add(&here, &disk).await;
    push(&here, &store).await.unwrap();
    let again = RemoteStore::open(&alone, options()).await.unwrap();
    assert_eq!((history(&again).await, read(&again).await.unwrap() == disk), (1, true));
}

/// Row 26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_a_store_that_ignores_conditions() {
    let cloud = Cloud::new();
    cloud.set_conditions(Conditions::Ignored);
    is_for_one_writer(&Place::s3(&cloud)).await;
    is_for_one_writer(&Place::gcs(&cloud)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_a_store_whose_conditions_do_not_hold_in_a_race() {
    let cloud = Cloud::new();
    cloud.set_conditions(Conditions::Racy);
    is_for_one_writer(&Place::s3(&cloud)).await;
    is_for_one_writer(&Place::gcs(&cloud)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_s3s_fs() {
    let keys = [("AWS_ACCESS_KEY_ID", S3s::ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", S3s::SECRET_KEY)];
    if in_process_with(&keys) {
        let server = S3s::start();
        is_for_one_writer(&Place::new("s3://bucket", format!("?endpoint={}", server.endpoint()))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepts_moto_again_and_again() {
    if in_process_with(&Moto::VARIABLES) {
        let moto = Moto::start();
        let base = format!("s3://{}", moto.new_bucket());
        let place = Place::new(base, format!("?endpoint={}", moto.endpoint()));
        for _ in 0..5 {
            place.init().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn is_asked_once_and_not_by_readers() {
    let cloud = Cloud::new();
    for place in [Place::s3(&cloud), Place::gcs(&cloud)] {
        let url = place.fresh();
        let store = RemoteStore::init(&url, options()).await.unwrap();
        let here = memory();
        add(&here, &noise(1 << 20, 1)).await;
        push(&here, &store).await.unwrap();
        cloud.reset_stats();

        let reader = RemoteStore::open(&url, options()).await.unwrap();
        read(&reader).await.unwrap();
        let stats = cloud.stats();
        assert_eq!(stats.requests(), stats.of(Operation::Get), "{stats:?}");

        let writer = RemoteStore::open(&url, options()).await.unwrap();
        add(&here, &noise(1 << 20, 2)).await;
        push(&here, &writer).await.unwrap();
        assert_eq!(cloud.stats().of(Operation::Delete), 0, "no probe object was there to remove");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_lost_its_conditions_is_found_out_by_what_is_made_there_next() {
    let cloud = Cloud::new();
    let place = Place::s3(&cloud);
    place.init().await;
    cloud.set_conditions(Conditions::Ignored);
    let refused = RemoteStore::init(&place.fresh(), options()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{}", refused.report());
}
