//! The cloud as `object_store`'s clients find it.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use gabion_testcloud::{Class, Cloud, Conditions, Fault, Operation, Rule, Settings, When};
use object_store::{
    ClientOptions, Error, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutResult, RetryConfig,
    UpdateVersion, aws::AmazonS3Builder, gcp::GoogleCloudStorageBuilder, http::HttpBuilder, path::Path,
};

/// Faults are to be seen, not retried.
fn no_retry() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn s3(cloud: &Cloud) -> impl ObjectStore + use<> {
    AmazonS3Builder::new()
        .with_endpoint(cloud.s3_endpoint())
        .with_allow_http(true)
        .with_bucket_name("bucket")
        .with_access_key_id("id")
        .with_secret_access_key("secret")
        .with_retry(no_retry())
        .build()
        .unwrap()
}

fn gcs(cloud: &Cloud) -> impl ObjectStore + use<> {
    GoogleCloudStorageBuilder::new()
        .with_base_url(&cloud.gcs_endpoint())
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_bucket_name("bucket")
        .with_bearer_token("id")
        .with_retry(no_retry())
        .build()
        .unwrap()
}

fn update(put: PutResult) -> PutMode {
    PutMode::Update(UpdateVersion { e_tag: put.e_tag, version: put.version })
}

async fn put(
    store: &dyn ObjectStore,
    key: &Path,
    text: &'static str,
    mode: PutMode,
) -> Result<PutResult, Error> {
    store.put_opts(key, Bytes::from_static(text.as_bytes()).into(), mode.into()).await
}

async fn text(store: &dyn ObjectStore, key: &Path) -> Bytes {
    store.get(key).await.unwrap().bytes().await.unwrap()
}

/// What both clouds promise.
async fn behaves(store: &dyn ObjectStore) {
    let key = Path::from("a/packs/b c&d%");
    assert!(matches!(store.get(&key).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&key).await, Err(Error::NotFound { .. })));

    let first = put(store, &key, "first", PutMode::Create).await.unwrap();
    assert!(matches!(put(store, &key, "x", PutMode::Create).await, Err(Error::AlreadyExists { .. })));
    let second = put(store, &key, "second", update(first.clone())).await.unwrap();
    assert!(matches!(put(store, &key, "x", update(first)).await, Err(Error::Precondition { .. })));
    assert_eq!(text(store, &key).await, "second");

    let head = store.head(&key).await.unwrap();
    assert_eq!((head.size, head.e_tag.clone()), (6, second.e_tag));
    assert_eq!(store.get_range(&key, 1..3).await.unwrap(), "ec");
    assert_eq!(store.get_ranges(&key, &[0..2, 4..6]).await.unwrap(), ["se", "nd"]);
    let matching = |etag: &str| GetOptions { if_match: Some(etag.to_owned()), ..GetOptions::default() };
    assert!(store.get_opts(&key, matching(head.e_tag.as_deref().unwrap())).await.is_ok());
    assert!(matches!(store.get_opts(&key, matching("\"x\"")).await, Err(Error::Precondition { .. })));
    let unless = GetOptions { if_none_match: head.e_tag, ..GetOptions::default() };
    assert!(matches!(store.get_opts(&key, unless).await, Err(Error::NotModified { .. })));

    let missing = Path::from("missing");
    let gone = PutMode::Update(UpdateVersion { e_tag: Some("\"x\"".into()), version: Some("7".into()) });
    assert!(matches!(put(store, &missing, "x", gone).await, Err(Error::Precondition { .. })));

    for name in ["a/1", "a/2", "b/3"] {
        put(store, &Path::from(name), "x", PutMode::Overwrite).await.unwrap();
    }
    let all: Vec<_> = store.list(None).map_ok(|meta| meta.location).try_collect().await.unwrap();
    assert_eq!(all, [Path::from("a/1"), Path::from("a/2"), key, Path::from("b/3")]);
    let folder = store.list_with_delimiter(Some(&Path::from("a"))).await.unwrap();
    assert_eq!((folder.objects.len(), folder.common_prefixes), (2, vec![Path::from("a/packs")]));

    let doomed = futures::stream::iter(all.into_iter().map(Ok)).boxed();
    let deleted: Vec<_> = store.delete_stream(doomed).try_collect().await.unwrap();
    assert_eq!(deleted.len(), 4);
    assert!(store.list(None).next().await.is_none());
}

#[tokio::test]
async fn speaks_s3() {
    let cloud = Cloud::new();
    behaves(&s3(&cloud)).await;
}

#[tokio::test]
async fn speaks_gcs() {
    let cloud = Cloud::new();
    behaves(&gcs(&cloud)).await;
    assert!(matches!(gcs(&cloud).delete(&Path::from("missing")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn serves_plain_http_read_only() {
    let cloud = Cloud::new();
    cloud.put_object("bucket", "store/a b", "0123456789");
    let url = format!("{}/store", cloud.http_url("bucket"));
    let options = ClientOptions::new().with_allow_http(true);
    let store =
        HttpBuilder::new().with_url(url).with_client_options(options).with_retry(no_retry()).build().unwrap();
    let key = Path::from("a b");
    assert_eq!(text(&store, &key).await, "0123456789");
    assert_eq!(store.get_range(&key, 2..5).await.unwrap(), "234");
    assert!(put(&store, &key, "x", PutMode::Overwrite).await.is_err());
    assert!(store.delete(&key).await.is_err());
    assert_eq!(cloud.object("bucket", "store/a b").unwrap(), "0123456789");
}

#[tokio::test]
async fn lists_go_on_from_page_to_page() {
    let cloud = Cloud::new();
    for number in 0..2345 {
        cloud.put_object("bucket", &format!("maps/{number:04}"), "");
    }
    assert_eq!(s3(&cloud).list(None).count().await, 2345);
    assert_eq!(cloud.stats().of(Operation::List), 3);
}

#[tokio::test]
async fn one_of_many_writers_wins() {
    let cloud = Cloud::new();
    for store in [&s3(&cloud) as &dyn ObjectStore, &gcs(&cloud)] {
        let key = Path::from("race");
        let creates = (0..16).map(|_| put(store, &key, "x", PutMode::Create));
        let first =
            futures::future::join_all(creates).await.into_iter().filter_map(Result::ok).collect::<Vec<_>>();
        assert_eq!(first.len(), 1);
        let replaces = (0..16).map(|_| put(store, &key, "y", update(first[0].clone())));
        let won = futures::future::join_all(replaces).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1);
        cloud.remove_object("bucket", "race");
    }
}

#[tokio::test]
async fn conditions_can_be_worthless() {
    for conditions in [Conditions::Ignored, Conditions::Racy] {
        let cloud = Cloud::start(&Settings { conditions, ..Settings::default() });
        let (store, key) = (s3(&cloud), Path::from("race"));
        let creates = (0..4).map(|_| put(&store, &key, "x", PutMode::Create));
        let won = futures::future::join_all(creates).await.into_iter().filter(Result::is_ok).count();
        assert!(won > 1, "{conditions:?}");
        let later = put(&store, &key, "x", PutMode::Create).await;
        assert_eq!(later.is_ok(), conditions == Conditions::Ignored);
    }
}

#[tokio::test]
async fn keys_are_asked_for() {
    let cloud = Cloud::start(&Settings { access_key: Some("id".into()), ..Settings::default() });
    let key = Path::from("a");
    put(&s3(&cloud), &key, "x", PutMode::Overwrite).await.unwrap();
    put(&gcs(&cloud), &key, "x", PutMode::Overwrite).await.unwrap();
    cloud.set_access_key(Some("another"));
    assert!(matches!(s3(&cloud).get(&key).await, Err(Error::PermissionDenied { .. })));
    assert!(matches!(gcs(&cloud).get(&key).await, Err(Error::PermissionDenied { .. })));
}

#[tokio::test]
async fn faults_before_and_after_the_effect() {
    let cloud = Cloud::new();
    let (store, key) = (s3(&cloud), Path::from("packs/ab/1"));
    cloud.put_object("bucket", key.as_ref(), vec![7; 1 << 20]);
    let mut faults = 0;
    let mut fails = |rule: Rule| {
        cloud.clear_faults();
        cloud.add_fault(rule);
        faults += 1;
    };

    for (fault, landed) in [(Fault::Reset, false), (Fault::slow_down(), false), (Fault::Reset, true)] {
        let rule = Rule::new(fault).on(Operation::Create).when(When::Nth(1));
        fails(if landed { rule.after() } else { rule });
        let new = Path::from("new");
        assert!(put(&store, &new, "x", PutMode::Create).await.is_err());
        assert_eq!(cloud.object("bucket", "new").is_some(), landed);
    }

    let read = async || store.get(&key).await?.bytes().await;
    fails(Rule::new(Fault::Cut).at("packs/").when(When::First(1)));
    // The client goes on where the body ended: that is what its own retries are for.
    assert!(read().await.is_err());
    fails(Rule::new(Fault::Short).on(Operation::Get));
    assert_eq!(read().await.unwrap().len(), 1 << 19);
    fails(Rule::new(Fault::Flip).on(Operation::Get));
    let flipped = read().await.unwrap();
    assert_eq!(flipped.iter().filter(|byte| **byte != 7).count(), 1);
    fails(Rule::new(Fault::ErrorBody).on(Operation::Get));
    assert!(read().await.unwrap().starts_with(b"<?xml"));
    fails(Rule::new(Fault::denied()));
    assert!(matches!(read().await, Err(Error::PermissionDenied { .. })));

    cloud.clear_faults();
    assert_eq!(read().await.unwrap().len(), 1 << 20);
    assert_eq!(cloud.stats().faults, faults);
}

#[tokio::test]
async fn stalls_last_until_they_are_released() {
    let cloud = Cloud::new();
    let (store, key) = (s3(&cloud), Path::from("a"));
    cloud.add_fault(Rule::new(Fault::Stall).when(When::First(1)));
    let stalled = tokio::spawn(async move { put(&store, &key, "x", PutMode::Overwrite).await });
    cloud.stalled(1).await;
    assert!(cloud.object("bucket", "a").is_none() && !stalled.is_finished());
    cloud.release();
    stalled.await.unwrap().unwrap();
    assert!(cloud.object("bucket", "a").is_some());
}

#[tokio::test]
async fn unplugged_until_plugged() {
    let cloud = Cloud::new();
    let (store, key) = (s3(&cloud), Path::from("a"));
    put(&store, &key, "x", PutMode::Overwrite).await.unwrap();
    cloud.unplug();
    assert!(store.get(&key).await.is_err());
    cloud.plug();
    // The cloud hears of it on its own thread.
    while store.get(&key).await.is_err() {}
}

#[tokio::test]
async fn counts_what_is_asked() {
    let cloud = Cloud::new();
    let store = s3(&cloud);
    put(&store, &Path::from("vm/packs/ab/1"), "12345", PutMode::Overwrite).await.unwrap();
    store.get_range(&Path::from("vm/packs/ab/1"), 1..3).await.unwrap();
    let _ = store.get(&Path::from("vm/catalog")).await;
    let stats = cloud.stats();
    assert_eq!((stats.requests(), stats.connections), (3, 1));
    assert_eq!((stats.of(Operation::Get), stats.on(Class::Packs)), (2, 2));
    assert_eq!((stats.of_on(Operation::Get, Class::Catalog), stats.bytes_in()), (1, 5));
    let ranged = &stats.entries[1];
    assert_eq!(
        (ranged.key.as_str(), ranged.range.as_deref(), ranged.status),
        ("vm/packs/ab/1", Some("bytes=1-2"), 206)
    );
    assert_eq!(stats.rows.iter().find(|row| row.class == Class::Catalog).unwrap().failed, 1);
    cloud.reset_stats();
    assert_eq!(cloud.stats().requests(), 0);
}

#[tokio::test]
async fn is_steered_by_http() {
    let cloud = Cloud::new();
    let control = HttpBuilder::new()
        .with_url(format!("http://{}/_cloud", cloud.address()))
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(no_retry())
        .build()
        .unwrap();
    let settings = r#"{"latency_ms": 1, "bandwidth": 50000000, "conditions": "ignored", "access_key": "id"}"#;
    put(&control, &Path::from("settings"), settings, PutMode::Overwrite).await.unwrap();
    let (store, key) = (s3(&cloud), Path::from("a"));
    for _ in 0..2 {
        put(&store, &key, "x", PutMode::Create).await.unwrap();
    }
    assert!(put(&control, &Path::from("settings"), r#"{"latncy": 1}"#, PutMode::Overwrite).await.is_err());
    let stats = control.get(&Path::from("stats")).await.unwrap().bytes().await.unwrap();
    assert!(String::from_utf8_lossy(&stats).contains(r#""operation":"create","class":"other","requests":2"#));
    control.delete(&Path::from("stats")).await.unwrap();
    assert_eq!(cloud.stats().requests(), 0);
}

#[tokio::test]
async fn a_limited_link_holds_back_both_directions() {
    let cloud = Cloud::start(&Settings { bandwidth: 20_000_000, ..Settings::default() });
    let (store, key) = (s3(&cloud), Path::from("a"));
    for _ in 0..2 {
        let start = std::time::Instant::now();
        store.put(&key, vec![0; 2_000_000].into()).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().bytes().await.unwrap().len(), 2_000_000);
        // The link can't be faster than it is; how much slower this machine is, is no matter.
        assert!(start.elapsed() > Duration::from_millis(150));
    }
}
