//! Faults before and after the effect, in paused time.

use std::time::Duration;

use super::*;
use crate::{
    refusal::{Asked, Refusal},
    scripted::{Act, Scripted},
};

fn requests(bucket: &Arc<Scripted>) -> Requests {
    let bucket = Arc::clone(bucket) as Arc<dyn ObjectStore>;
    Requests::new(bucket, Path::from("p"), "s3://bucket/p", Timeouts::default())
}

async fn with_object(bytes: &'static [u8]) -> (Arc<Scripted>, Requests) {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    requests.put("key", bytes.into()).await.unwrap();
    bucket.requests();
    (bucket, requests)
}

async fn read(requests: &Requests) -> Bytes {
    requests.get("key", 100).await.unwrap().expect("it is there").bytes
}

fn done(created: Created) -> Version {
    match created {
        Created::Done(version) => version,
        Created::Exists(found) => panic!("there was {:?}", found.bytes),
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_is_read_whole_or_in_part() {
    let (_, requests) = with_object(b"0123456789").await;
    assert_eq!(read(&requests).await, "0123456789");
    assert_eq!(requests.get_range("key", 2..5).await.unwrap(), "234");
    assert_eq!(requests.get_range("key", 5..5).await.unwrap(), "");
    assert!(requests.get("none", 100).await.unwrap().is_none());
    assert_eq!(requests.get_range("none", 0..1).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(requests.get("key", 9).await.unwrap_err().kind(), ErrorKind::Corrupt);
    for range in [8..11, 10..11, 100..200] {
        assert_eq!(requests.get_range("key", range).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
    for (range, expected) in [(0..100, "0123456789"), (8..12, "89"), (1..3, "12")] {
        let window = requests.get_window("key", range).await.unwrap();
        assert_eq!((&*window.bytes, window.object_len), (expected.as_bytes(), 10));
    }
    assert_eq!(requests.get_window("key", 10..11).await.unwrap_err().kind(), ErrorKind::Corrupt);
    requests.put("dir/a/b", "x".into()).await.unwrap();
    assert_eq!(requests.list("dir").await.unwrap(), [("a/b".to_owned(), 1)]);
    assert_eq!(requests.list("").await.unwrap(), [("dir/a/b".to_owned(), 1), ("key".to_owned(), 10)]);
    requests.delete("key").await.unwrap();
    requests.delete("key").await.unwrap();
    assert!(requests.get("key", 100).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_waited_for() {
    for act in [
        Act::status(500),
        Act::status(503),
        Act::status(429),
        Act::status(408),
        Act::code(400, "RequestTimeout"),
        Act::code(200, "SlowDown"),
        Act::Cut(3),
        Act::Hang,
    ] {
        let (bucket, requests) = with_object(b"0123456789").await;
        bucket.gets([act.clone(), act.clone()]);
        if !matches!(act, Act::Hang) {
            assert_eq!(read(&requests).await, "0123456789", "{act:?}");
            bucket.gets([act.clone(), act.clone()]);
        }
        assert_eq!(requests.get_range("key", 0..5).await.is_ok(), !matches!(act, Act::Hang), "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gone_store_is_an_error_before_the_guest_gives_up() {
    let timeouts = Timeouts::default();
    for act in [Act::status(503), Act::status(500), Act::Hang, Act::Slow(Duration::from_secs(60))] {
        let (bucket, requests) = with_object(b"0123456789").await;
        bucket.always(act.clone());
        let started = Instant::now();
        let e = requests.get_range("key", 0..10).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable, "{act:?}");
        assert!(started.elapsed() <= timeouts.deadline() + Duration::from_millis(1), "{act:?}");
        assert!(e.to_string().contains("key in s3://bucket/p"), "{e}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_does_not_pass_is_said_at_once() {
    for (act, kind, words) in [
        (Act::status(403), ErrorKind::PermissionDenied, "s3:GetObject"),
        (Act::code(403, "InvalidAccessKeyId"), ErrorKind::PermissionDenied, "AWS_SECRET_ACCESS_KEY"),
        (Act::code(403, "ExpiredToken"), ErrorKind::PermissionDenied, "ExpiredToken"),
        (Act::code(403, "RequestTimeTooSkewed"), ErrorKind::PermissionDenied, "clock"),
        (Act::code(404, "NoSuchBucket"), ErrorKind::Unavailable, "no such bucket"),
        (Act::status(301), ErrorKind::Invalid, "region=NAME"),
        (Act::code(501, "NotImplemented"), ErrorKind::Unsupported, "can't do that"),
        (Act::status(400), ErrorKind::Invalid, "status 400"),
        (
            Act::Refuse(Refusal { region: Some("eu-west-1".into()), ..Refusal::new(Asked::Bucket, 301) }),
            ErrorKind::Invalid,
            "region=eu-west-1",
        ),
    ] {
        let (bucket, requests) = with_object(b"0123456789").await;
        bucket.gets([act.clone()]);
        let e = requests.get("key", 100).await.unwrap_err();
        assert_eq!(e.kind(), kind, "{act:?}");
        assert!(e.to_string().contains(words), "{e}");
        assert_eq!(bucket.requests().len(), 1, "{act:?} is not tried again");
    }
}

#[tokio::test(start_paused = true)]
async fn missing_credentials_are_said_soon() {
    let (bucket, requests) = with_object(b"0123456789").await;
    let none = Act::Refuse(Refusal::new(Asked::Credentials, 404));
    bucket.gets([none.clone(), none.clone()]);
    assert_eq!(read(&requests).await, "0123456789");
    bucket.always(none);
    bucket.requests();
    let started = Instant::now();
    let e = requests.get("key", 100).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PermissionDenied);
    assert!(e.to_string().contains("AWS_ACCESS_KEY_ID"), "{e}");
    assert!(bucket.requests().len() == 3 && started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_write_or_list_that_finds_nothing_has_no_bucket() {
    let (bucket, requests) = with_object(b"0123456789").await;
    bucket.always(Act::status(404));
    for e in [
        requests.put("other", "x".into()).await.unwrap_err(),
        requests.list("dir").await.unwrap_err(),
        requests.create("other", "x".into()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(e.kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_upload_is_tried_again_however_long_it_took() {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    let payload = PutPayload::from(vec![7; 4 << 20]);
    let limit = Timeouts::default().upload(4 << 20);
    assert!(limit > Timeouts::default().retry_budget());
    bucket.puts([Act::Hang, Act::Hang]);
    requests.put("key", payload.clone()).await.unwrap();
    // A server that is not there is not waited for so long.
    bucket.always(Act::status(500));
    let started = Instant::now();
    assert_eq!(requests.put("key", payload).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() <= Timeouts::default().retry_budget());
}

#[tokio::test(start_paused = true)]
async fn a_server_says_when_to_come_back() {
    let (bucket, requests) = with_object(b"0123456789").await;
    let slow = Refusal { retry_after: Some(Duration::from_secs(7)), ..Refusal::new(Asked::Bucket, 503) };
    bucket.gets([Act::Refuse(slow)]);
    let started = Instant::now();
    read(&requests).await;
    assert!(started.elapsed() >= Duration::from_secs(7));
    // Later than a guest waits: the error comes now.
    let never = Refusal { retry_after: Some(Duration::from_secs(60)), ..Refusal::new(Asked::Bucket, 503) };
    bucket.gets([Act::Refuse(never)]);
    let started = Instant::now();
    assert_eq!(requests.get("key", 100).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_short_body_is_fetched_again_and_then_reported() {
    let (bucket, requests) = with_object(b"0123456789").await;
    bucket.gets([Act::Cut(9), Act::Cut(0)]);
    assert_eq!(requests.get_range("key", 0..10).await.unwrap(), "0123456789");
    bucket.gets(vec![Act::Cut(9); 3]);
    bucket.requests();
    assert_eq!(requests.get_range("key", 0..10).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(bucket.requests().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_body_is_fetched_again_and_then_reported() {
    let (bucket, requests) = with_object(b"0123456789").await;
    let decode = |bytes: &[u8]| match bytes.first() {
        Some(b'0') => Ok(bytes.len()),
        _ => Err(Error::corrupt("it begins with 0")),
    };
    bucket.gets([Act::Flip, Act::Flip]);
    let (value, found) = requests.get_decoded("key", 100, decode).await.unwrap().unwrap();
    assert_eq!((value, &*found.bytes), (10, &b"0123456789"[..]));
    assert!(requests.get_decoded("none", 100, decode).await.unwrap().is_none());
    bucket.always(Act::Flip);
    bucket.requests();
    assert_eq!(requests.get_decoded("key", 100, decode).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(bucket.requests().len(), DECODED_FETCHES);
    // What is wrong in another way is not fetched again.
    let refuse = |_: &[u8]| -> Result<()> { Err(Error::invalid("no")) };
    assert_eq!(requests.get_decoded("key", 100, refuse).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bucket.requests().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_immutable_object_is_written_until_it_is_there() {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    bucket.puts([Act::status(503), Act::status_after(500), Act::Hang, Act::status(409)]);
    requests.put("key", "value".into()).await.unwrap();
    assert_eq!(read(&requests).await, "value");
    bucket.puts([Act::status(403)]);
    let e = requests.put("key", "value".into()).await.unwrap_err();
    assert!(e.kind() == ErrorKind::PermissionDenied && e.to_string().contains("s3:PutObject"), "{e}");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_landed_without_an_answer_is_recognised() {
    for lost in
        [Act::status_after(500), Act::status_after(503), Act::status_after(409), Act::status_after(412)]
    {
        let bucket = Scripted::new();
        let requests = requests(&bucket);
        bucket.puts([lost.clone()]);
        let version = done(requests.create("key", "mine".into()).await.unwrap());
        // The version is the one that a replacement compares with.
        requests.replace("key", "next".into(), &version).await.unwrap();
        assert_eq!(read(&requests).await, "next", "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_found_another_says_so() {
    for before in
        [Act::Pass, Act::status(500), Act::status_after(500), Act::status(409), Act::status_after(409)]
    {
        let (bucket, requests) = with_object(b"theirs").await;
        bucket.puts([before.clone()]);
        match requests.create("key", "mine".into()).await.unwrap() {
            Created::Exists(found) => assert_eq!(found.bytes, "theirs", "{before:?}"),
            Created::Done(_) => panic!("{before:?}: it was there before"),
        }
        assert_eq!(read(&requests).await, "theirs");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_of_the_moment_is_not_taken_for_existence() {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    bucket.puts(vec![Act::code(409, "ConditionalRequestConflict"); 3]);
    done(requests.create("key", "mine".into()).await.unwrap());
    bucket.always(Act::status(409));
    let e = requests.create("other", "mine".into()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_landed_without_an_answer_is_recognised() {
    for lost in
        [Act::status_after(500), Act::status_after(503), Act::status_after(409), Act::status_after(412)]
    {
        let bucket = Scripted::new();
        let requests = requests(&bucket);
        let first = done(requests.create("key", "first".into()).await.unwrap());
        bucket.puts([lost.clone()]);
        let second = requests.replace("key", "second".into(), &first).await.unwrap();
        requests.replace("key", "third".into(), &second).await.unwrap();
        assert_eq!(
            requests.replace("key", "late".into(), &second).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
        assert_eq!(read(&requests).await, "third", "{lost:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_of_what_is_gone_or_changed_is_a_conflict() {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    let first = done(requests.create("key", "first".into()).await.unwrap());
    requests.replace("key", "second".into(), &first).await.unwrap();
    for before in [Act::Pass, Act::status(503), Act::status_after(500), Act::status(409)] {
        bucket.puts([before]);
        let e = requests.replace("key", "late".into(), &first).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict);
    }
    requests.delete("key").await.unwrap();
    assert_eq!(requests.replace("key", "late".into(), &first).await.unwrap_err().kind(), ErrorKind::Conflict);
    let foreign = Version(Bytes::from_static(b"\xff"));
    assert_eq!(requests.replace("key", "x".into(), &foreign).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_outcome_can_not_be_learnt_is_unavailable() {
    let bucket = Scripted::new();
    let requests = requests(&bucket);
    let version = done(requests.create("key", "first".into()).await.unwrap());
    bucket.always(Act::status_after(500));
    let e = requests.replace("key", "second".into(), &version).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
    bucket.always(Act::Hang);
    let e = requests.replace("key", "third".into(), &version).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_no_empty_list() {
    let (bucket, requests) = with_object(b"0123456789").await;
    bucket.always(Act::status(500));
    assert_eq!(requests.list("dir").await.unwrap_err().kind(), ErrorKind::Unavailable);
    bucket.always(Act::status(403));
    let e = requests.list("dir").await.unwrap_err();
    assert!(e.kind() == ErrorKind::PermissionDenied && e.to_string().contains("s3:ListBucket"), "{e}");
}
