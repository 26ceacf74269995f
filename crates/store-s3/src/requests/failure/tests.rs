//! What failures are taken for.

use super::*;

fn generic(source: impl StdError + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "test", source: Box::new(source) }
}

fn cause(error: &object_store::Error) -> Cause {
    Failure::from(error).cause
}

fn refused(status: u16, code: Option<&str>) -> Cause {
    cause(&generic(Refusal { code: code.map(str::to_owned), ..Refusal::new(Asked::Bucket, status) }))
}

#[test]
fn a_missing_bucket_is_no_missing_object() {
    assert_eq!(refused(404, None), Cause::NotFound);
    assert_eq!(refused(404, Some("NoSuchKey")), Cause::NotFound);
    assert_eq!(refused(404, Some("BlobNotFound")), Cause::NotFound);
    for code in ["NoSuchBucket", "ContainerNotFound"] {
        let failure = Failure::new(refused(404, Some(code)), "");
        assert_eq!(failure.cause, Cause::NoBucket);
        assert_ne!(failure.kind(), ErrorKind::NotFound);
    }
}

#[test]
fn conflicts_are_told_apart() {
    assert_eq!(refused(412, Some("PreconditionFailed")), Cause::Changed);
    assert_eq!(refused(304, None), Cause::Changed);
    assert_eq!(refused(409, Some("ConditionalRequestConflict")), Cause::Busy);
    assert_eq!(refused(409, None), Cause::Busy);
    assert_eq!(refused(409, Some("BlobAlreadyExists")), Cause::Exists);
}

#[test]
fn credentials_that_can_not_be_had_are_no_trouble_of_the_bucket() {
    let error = |status| generic(Refusal::new(Asked::Credentials, status));
    assert_eq!(cause(&error(404)), Cause::NoCredentials);
    assert_eq!(cause(&error(403)), Cause::NoCredentials);
    assert_eq!(Failure::from(&error(503)).again(), Again::Slowly(None));
    let unreached = |asked, timed_out| generic(Unreached { asked, timed_out, why: "refused".into() });
    assert_eq!(Failure::from(&unreached(Asked::Credentials, true)).again(), Again::AFewTimes);
    assert_eq!(cause(&unreached(Asked::Bucket, true)), Cause::TimedOut);
    assert_eq!(cause(&unreached(Asked::Bucket, false)), Cause::Unreached);
}

#[test]
fn a_refusal_is_found_below_other_errors() {
    let inner = generic(Refusal::new(Asked::Bucket, 503));
    let outer = object_store::Error::NotFound { path: "x".into(), source: Box::new(inner) };
    assert_eq!(cause(&outer), Cause::SlowDown(None));
}

#[test]
fn stores_without_http_are_understood() {
    let io = |kind| generic(io::Error::from(kind));
    assert_eq!(cause(&io(io::ErrorKind::StorageFull)), Cause::NoSpace);
    assert_eq!(cause(&io(io::ErrorKind::PermissionDenied)), Cause::Denied);
    let source = || "s".into();
    let path = || "secret?sig=1".to_owned();
    for (error, expected) in [
        (object_store::Error::NotFound { path: path(), source: source() }, Cause::NotFound),
        (object_store::Error::AlreadyExists { path: path(), source: source() }, Cause::Exists),
        (object_store::Error::Precondition { path: path(), source: source() }, Cause::Changed),
        (object_store::Error::PermissionDenied { path: path(), source: source() }, Cause::Denied),
        (object_store::Error::NotSupported { source: source() }, Cause::Unsupported),
    ] {
        let failure = Failure::from(&error);
        assert_eq!((failure.cause, failure.detail), (expected, String::new()));
    }
}
