//! Which buckets pass, and what a probe leaves behind.

use std::sync::Arc;

use object_store::{ObjectStore, path::Path};

use super::*;
use crate::{
    scripted::{Act, Scripted},
    timeouts::Timeouts,
};

fn requests(bucket: &Arc<Scripted>, place: &str) -> Requests {
    let bucket = Arc::clone(bucket) as Arc<dyn ObjectStore>;
    Requests::new(bucket, Path::from("p"), place, Timeouts::default())
}

#[tokio::test(start_paused = true)]
async fn a_good_bucket_passes_and_is_marked() {
    let bucket = Scripted::new();
    let here = requests(&bucket, "s3://bucket/p");
    probe(&here).await.unwrap();
    let left = here.list(layout::PROBES).await.unwrap();
    assert_eq!(left.len(), 1, "the mark alone stays: {left:?}");
    assert!(bucket.requests().len() > ROUNDS * RACERS);
    probe(&here).await.unwrap();
    assert_eq!(bucket.requests().len(), 1);
    // A copy of the bucket is another place, and so is another server.
    probe(&requests(&bucket, "s3://copy/p")).await.unwrap();
    assert!(bucket.requests().len() > 1);
    probe(&here.clone().at_endpoint("http://127.0.0.1:9000")).await.unwrap();
    assert!(bucket.requests().len() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_mark_is_none() {
    let bucket = Scripted::new();
    let here = requests(&bucket, "s3://bucket/p");
    let mark = layout::probe_mark_key(chunk_id(b"s3://bucket/p").as_bytes());
    here.put(&mark, "GABIPROB".into()).await.unwrap();
    bucket.requests();
    probe(&here).await.unwrap();
    assert!(bucket.requests().len() > 2);
    probe(&here).await.unwrap();
    assert_eq!(bucket.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_ignores_conditions_is_refused() {
    let bucket = Scripted::new();
    let here = requests(&bucket, "s3://bucket/p");
    bucket.always(Act::Unconditional);
    for _ in 0..2 {
        let e = probe(&here).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(
            e.to_string().contains("s3://bucket/p") && e.to_string().contains("single_writer=true"),
            "{e}"
        );
    }
    bucket.always(None);
    assert!(here.list(layout::PROBES).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn conditions_that_fail_once_under_a_race_are_noticed() {
    // The second writer of one race gets through.
    for round in 0..ROUNDS {
        for race in [0, RACERS] {
            let bucket = Scripted::new();
            let late = round * (2 * RACERS + 1) + race + 1;
            bucket.puts((0..late).map(|_| Act::Pass).chain([Act::Unconditional]));
            let e = probe(&requests(&bucket, "s3://bucket/p")).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unsupported, "round {round}, race {race}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_is_no_verdict() {
    let bucket = Scripted::new();
    let here = requests(&bucket, "s3://bucket/p");
    bucket.puts(vec![Act::status(403); RACERS]);
    assert_eq!(probe(&here).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    bucket.always(Act::status(503));
    assert_eq!(probe(&here).await.unwrap_err().kind(), ErrorKind::Unavailable);
    bucket.always(None);
    // Answers that got lost are none that were wrong.
    bucket.puts([Act::status_after(500), Act::status(409), Act::status_after(503), Act::status(503)]);
    probe(&here).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_remembered_and_trouble_is_not() {
    use crate::objects::{Objects, Writes};
    let bucket = Scripted::new();
    let objects = Objects::new(requests(&bucket, "s3://bucket/p"), Writes::Shared);
    bucket.always(Act::status(403));
    assert_eq!(objects.may_write().await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    bucket.always(Act::Unconditional);
    assert_eq!(objects.may_write().await.unwrap_err().kind(), ErrorKind::Unsupported);
    bucket.requests();
    assert_eq!(objects.put("key", "x".into()).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(bucket.requests(), [""; 0]);
}
