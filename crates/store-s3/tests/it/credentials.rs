//! Credentials that are missing, wrong, or past their time; and that nothing ever shows them. Row 28.

use gabion_store_core::{Error, ErrorKind};
use gabion_store_s3::{ObjectUrl, RemoteStore};
use gabion_testcloud::{Cloud, Fault, Operation, Rule, When};

use super::support::{Place, add, history, in_process_with, memory, noise, options, push, read};

const SECRETS: [&str; 2] = ["se/cr+et-of-the-test", "to/ken+of-the-test"];

const VARIABLES: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", SECRETS[0]), ("AWS_SESSION_TOKEN", SECRETS[1])];

fn signed(cloud: &Cloud) -> Place {
    Place::new("s3://bucket", format!("?endpoint={}", cloud.s3_endpoint()))
}

/// All that can be said of an error, and of a store.
fn assert_silent(error: &Error, store: Option<&RemoteStore>) {
    let said = format!("{error:?} {error:#?} {error} {} {store:?} {store:#?}", error.report());
    for secret in SECRETS {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        assert!(!said.contains(secret) && !said.contains(&encoded), "{said}");
    }
    for part in ["Signature", "X-Amz-", "AWS4-HMAC", "Authorization", "authorization"] {
        assert!(!said.contains(part), "{said}");
    }
}

/// Row 28, at every request of a push: the old name is as it was, and a rerun finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_28_credentials_expire_in_the_middle_of_a_push() {
    if !in_process_with(&VARIABLES) {
        return;
    }
    for fault in [Fault::denied(), Fault::expired(), Fault::skewed()] {
        for expired in 1.. {
            let cloud = Cloud::new();
            let url = signed(&cloud).fresh();
            let there = RemoteStore::init(&url, options()).await.unwrap();
            let here = memory();
            add(&here, &noise(1 << 20, 1)).await;
            push(&here, &there).await.unwrap();
            add(&here, &noise(1 << 20, 2)).await;
            cloud.reset_stats();
            cloud.add_fault(Rule::new(fault.clone()).when(When::From(expired)));
            let pushed = push(&here, &there).await;
            let happened = cloud.stats().faults;
            cloud.clear_faults();
            let elsewhere = RemoteStore::open(&url, options()).await.unwrap();
            match pushed {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{expired}: {}", error.report());
                    assert_silent(&error, Some(&there));
                    assert!(happened < 30, "{happened} requests that were in vain");
                    // The record is written in one step, so it is the old or the new one.
                    let disk = noise(1 << 20, history(&elsewhere).await as u64);
                    assert!(read(&elsewhere).await.unwrap() == disk);
                    push(&here, &elsewhere).await.unwrap();
                }
                Ok(_) if happened == 0 => {
                    assert!(expired > 4, "a push has more requests");
                    break;
                }
                Ok(_) => {}
            }
            let elsewhere = RemoteStore::open(&url, options()).await.unwrap();
            assert_eq!(history(&elsewhere).await, 2);
            assert!(read(&elsewhere).await.unwrap() == noise(1 << 20, 2));
        }
    }
}

/// Every failure there is, with secrets at hand that must not be shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failure_shows_a_secret() {
    if !in_process_with(&VARIABLES) {
        return;
    }
    let cloud = Cloud::new();
    let url = signed(&cloud).fresh();
    let there = RemoteStore::init(&url, options()).await.unwrap();
    let here = memory();
    add(&here, &noise(1 << 20, 1)).await;
    for fault in [Fault::denied(), Fault::expired(), Fault::Reset, Fault::ErrorBody, Fault::internal()] {
        for operation in [Operation::Get, Operation::Put, Operation::Create, Operation::Replace] {
            cloud.clear_faults();
            cloud.add_fault(Rule::new(fault.clone()).on(operation));
            if let Err(error) = push(&here, &there).await {
                assert_silent(&error, Some(&there));
            }
        }
    }
    cloud.clear_faults();
    cloud.set_access_key(Some("another"));
    let error = RemoteStore::open(&url, options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert_silent(&error, None);
}

/// No credentials: said at once, and which variables were looked for.
#[tokio::test]
async fn missing_credentials_are_named() {
    // Nobody answers at the metadata service's address, and nothing is configured.
    let nobody = [
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_METADATA_ENDPOINT", "http://localhost:1"),
        ("AWS_ACCESS_KEY_ID", ""),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ];
    if !in_process_with(&nobody) {
        return;
    }
    let cloud = Cloud::new();
    let error = RemoteStore::open(&signed(&cloud).fresh(), options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.report());
    assert!(error.report().contains("AWS_ACCESS_KEY_ID"), "{}", error.report());
    assert_eq!(cloud.stats().requests(), 0);
}

/// A bucket that is none, and one that is no store.
#[tokio::test]
async fn a_wrong_place_is_named() {
    let cloud = Cloud::new();
    let no_store = RemoteStore::open(&Place::s3(&cloud).fresh(), options()).await.unwrap_err();
    assert_eq!(no_store.kind(), ErrorKind::NotFound);
    assert!(no_store.report().contains("init"), "{}", no_store.report());

    let url: ObjectUrl =
        format!("s3://no-such-bucket/a?endpoint={}&anonymous=true", cloud.s3_endpoint()).parse().unwrap();
    for error in [
        RemoteStore::open(&url, options()).await.unwrap_err(),
        RemoteStore::init(&url, options()).await.unwrap_err(),
    ] {
        // No store was found missing: nobody could be asked.
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
        assert!(error.report().contains("there is no such bucket as '"), "{}", error.report());
    }
}
