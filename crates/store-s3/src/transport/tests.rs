//! What is kept of a server's answer, and what is not believed.

use object_store::client::HttpRequestBody;
use parking_lot::Mutex;

use super::*;
use crate::requests::{Cause, Failure};

/// Answers once, with this.
#[derive(Debug)]
struct Server(Mutex<Option<Result<HttpResponse, HttpError>>>);

#[async_trait]
impl HttpService for Server {
    async fn call(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.lock().take().expect("one request")
    }
}

fn response(status: u16, headers: &[(&'static str, &str)], body: &str) -> HttpResponse {
    let mut response = HttpResponse::new(HttpResponseBody::from(body.to_owned()));
    *response.status_mut() = status.try_into().unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().unwrap());
    }
    response
}

fn request(method: &str, url: &str, ranged: bool) -> HttpRequest {
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = url.parse().unwrap();
    if ranged {
        request.headers_mut().insert("range", "bytes=0-1".parse().unwrap());
    }
    request
}

const OBJECT: &str = "http://127.0.0.1:9000/bucket/p/key";

async fn answered(
    request: HttpRequest,
    answer: Result<HttpResponse, HttpError>,
) -> Result<HttpResponse, HttpError> {
    let address = Address { bucket: "bucket".into(), server: Some("127.0.0.1:9000".into()) };
    let client = HttpClient::new(Server(Mutex::new(Some(answer))));
    Keeping { client, address }.call(request).await
}

async fn refusal(request: HttpRequest, answer: HttpResponse) -> Refusal {
    let e = answered(request, Ok(answer)).await.unwrap_err();
    e.source().and_then(|source| source.downcast_ref::<Refusal>()).expect("a refusal").clone()
}

#[tokio::test]
async fn a_refusal_keeps_status_code_region_and_when_to_come_back() {
    let body = "<?xml?><Error><Code>SlowDown</Code><Message>hush</Message></Error>";
    let kept = refusal(request("GET", OBJECT, false), response(503, &[("retry-after", "7")], body)).await;
    assert_eq!((kept.status, kept.code.as_deref()), (503, Some("SlowDown")));
    assert_eq!((kept.asked, kept.retry_after), (Asked::Bucket, Some(Duration::from_secs(7))));
    assert!(!kept.to_string().contains("hush"));

    let moved = response(301, &[("x-amz-bucket-region", "eu-west-1")], "");
    assert_eq!(refusal(request("GET", OBJECT, false), moved).await.region.as_deref(), Some("eu-west-1"));
    let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
    let kept = refusal(request("GET", OBJECT, false), response(400, &[], body)).await;
    assert_eq!(kept.region.as_deref(), Some("eu-west-1"));
    let azure = response(409, &[("x-ms-error-code", "BlobAlreadyExists")], "not xml");
    assert_eq!(
        refusal(request("PUT", OBJECT, false), azure).await.code.as_deref(),
        Some("BlobAlreadyExists")
    );
}

#[tokio::test]
async fn foreign_words_are_kept_only_if_they_are_words() {
    for code in ["", "a b", "https://host/?sig=hush", &"x".repeat(65)] {
        let body = format!("<Error><Code>{code}</Code></Error>");
        let kept = refusal(request("GET", OBJECT, false), response(403, &[], &body)).await;
        assert_eq!(kept.code, None);
    }
    let endless = "x".repeat(MAX_ERROR_BODY + 1) + "<Code>Late</Code>";
    assert_eq!(refusal(request("GET", OBJECT, false), response(403, &[], &endless)).await.code, None);
    let late = response(503, &[("retry-after", "99999999")], "");
    let kept = refusal(request("GET", OBJECT, false), late).await;
    assert_eq!(kept.retry_after, Some(MAX_RETRY_AFTER));
    let date = response(503, &[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], "");
    assert_eq!(refusal(request("GET", OBJECT, false), date).await.retry_after, None);
}

#[tokio::test]
async fn success_is_not_believed_when_the_body_says_otherwise() {
    let body = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code></Error>";
    let kept = refusal(request("PUT", OBJECT, false), response(200, &[], body)).await;
    assert_eq!((kept.status, kept.code.as_deref()), (503, Some("InternalError")));
    for body in ["", "<CopyObjectResult/>"] {
        let passed =
            answered(request("PUT", OBJECT, false), Ok(response(200, &[("etag", "\"1\"")], body))).await;
        let passed = passed.unwrap();
        assert_eq!(passed.headers().get("etag").unwrap(), "\"1\"");
        assert_eq!(passed.into_body().bytes().await.unwrap(), body);
    }
    // An object may hold what it likes.
    let passed = answered(request("GET", OBJECT, false), Ok(response(200, &[], body))).await.unwrap();
    assert_eq!(passed.into_body().bytes().await.unwrap(), body);
}

#[tokio::test]
async fn a_whole_object_is_no_part() {
    let kept = refusal(request("GET", OBJECT, true), response(200, &[], "whole")).await;
    assert!(kept.no_ranges);
    answered(request("GET", OBJECT, true), Ok(response(206, &[], "pa"))).await.unwrap();
}

#[tokio::test]
async fn who_was_asked_is_told_apart() {
    let asked = |bucket: &str, server: Option<&str>, url: &str| {
        let address = Address { bucket: bucket.into(), server: server.map(str::to_owned) };
        address.asked(&request("GET", url, false))
    };
    for (server, url) in [
        (Some("127.0.0.1:9000"), "http://127.0.0.1:9000/bucket/key"),
        (Some("bucket.store:9000"), "http://bucket.store:9000/key"),
        (None, "https://s3.eu-west-1.amazonaws.com/bucket/key"),
        (None, "https://bucket.s3.eu-west-1.amazonaws.com/key"),
        (None, "https://account.blob.core.windows.net/bucket/key"),
        (None, "https://storage.googleapis.com/bucket/key"),
    ] {
        assert_eq!(asked("bucket", server, url), Asked::Bucket, "{url}");
    }
    for url in [
        "http://169.254.169.254/latest/api/token",
        "http://169.254.170.2/v2/credentials/bucket",
        "http://metadata.google.internal/computeMetadata/v1/bucket",
        "https://sts.eu-west-1.amazonaws.com/?Action=AssumeRoleWithWebIdentity",
        "https://oauth2.googleapis.com/token",
        "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
    ] {
        assert_eq!(asked("bucket", None, url), Asked::Credentials, "{url}");
    }
    // Another service of the same machine.
    let metadata = "http://127.0.0.1:1338/latest/api/token";
    assert_eq!(asked("bucket", Some("127.0.0.1:9000"), metadata), Asked::Credentials);
    assert_eq!(asked("", None, "https://cdn.example.org/images/catalog"), Asked::Bucket);
}

#[tokio::test]
async fn a_failed_connection_tells_its_reason_and_no_url() {
    let cases = [
        ("Connection refused (os error 111)", "Connection refused (os error 111)"),
        ("https://host/?X-Amz-Signature=hush", "the connection failed"),
        ("key?sig=hush", "the connection failed"),
    ];
    for (text, shown) in cases {
        let inner = HttpError::new(HttpErrorKind::Connect, std::io::Error::other(text));
        let e = answered(request("GET", OBJECT, false), Err(inner)).await.unwrap_err();
        let kept =
            e.source().and_then(|source| source.downcast_ref::<Unreached>()).expect("it was not reached");
        assert_eq!((kept.why.as_str(), kept.timed_out, kept.asked), (shown, false, Asked::Bucket));
        let e = object_store::Error::Generic { store: "S3", source: Box::new(e) };
        assert_eq!(Failure::from(&e), Failure::new(Cause::Unreached, shown));
    }
}
