//! Between `object_store` and the HTTP client: keeps what a server answered instead of success, in a form that
//! can be acted on and shown. `object_store`'s own errors tell neither error code nor `Retry-After`, and print
//! URIs.
//!
//! It also refuses two answers that look like success: a PUT that is answered by an error in its body, and a
//! range request that is answered by the whole object.

use std::{error::Error as StdError, fmt, time::Duration};

use async_trait::async_trait;
use futures::TryStreamExt as _;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService, ReqwestConnector,
    },
};

use crate::refusal::{Asked, Refusal, Unreached};

/// Longest error body that is looked at, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Longest time that a server's `Retry-After` is believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What tells requests to the bucket from those for credentials.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// Bucket or container; empty if every request concerns it.
    pub(crate) bucket: String,
    /// Host and port of the endpoint, if it is not the provider's own.
    pub(crate) server: Option<String>,
}

impl Address {
    fn asked(&self, request: &HttpRequest) -> Asked {
        let host = request.uri().host().unwrap_or_default();
        let server = request.uri().authority().map(ToString::to_string);
        let here = self.bucket.is_empty() || (server.is_some() && self.server == server);
        let link_local = host.starts_with("169.254.") || host.starts_with("metadata");
        let named = host.strip_prefix(&self.bucket).is_some_and(|rest| rest.starts_with('.'))
            || request.uri().path().split('/').any(|part| part == self.bucket);
        if here || (named && !link_local) { Asked::Bucket } else { Asked::Credentials }
    }
}

/// Makes clients that keep refusals.
#[derive(Debug)]
pub(crate) struct Connector(pub(crate) Address);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Keeping { client, address: self.0.clone() }))
    }
}

#[derive(Debug)]
struct Keeping {
    client: HttpClient,
    address: Address,
}

#[async_trait]
impl HttpService for Keeping {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked = self.address.asked(&request);
        let (put, ranged) = (request.method().as_str() == "PUT", request.headers().contains_key("range"));
        let response = self.client.execute(request).await.map_err(|e| unreached(&e, asked))?;
        let status = response.status().as_u16();
        match status {
            200 if ranged && asked == Asked::Bucket => Err(refused(Refusal::no_ranges())),
            200..300 if put && asked == Asked::Bucket => checked_put(response).await,
            // Not modified, and redirects that the client could not follow.
            _ if !response.status().is_success() => Err(refused(read_refusal(response, asked).await)),
            _ => Ok(response),
        }
    }
}

/// The answer to a PUT, whose body is empty or says what was done; an error may stand there, too.
async fn checked_put(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let body = read_bounded(body).await?;
    if body.contains("<Error") {
        return Err(refused(Refusal { code: tag(&body, "Code"), ..Refusal::new(Asked::Bucket, 503) }));
    }
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
}

async fn read_refusal(response: HttpResponse, asked: Asked) -> Refusal {
    let (parts, body) = response.into_parts();
    let header = |name: &str| parts.headers.get(name)?.to_str().ok().and_then(word);
    let seconds = header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let (azure_code, region) = (header("x-ms-error-code"), header("x-amz-bucket-region"));
    // What the body says is a detail: without it there is still the status.
    let body = read_bounded(body).await.unwrap_or_default();
    Refusal {
        code: azure_code.or_else(|| tag(&body, "Code")),
        region: region.or_else(|| tag(&body, "Region")),
        retry_after: seconds.map(|after| after.min(MAX_RETRY_AFTER)),
        ..Refusal::new(asked, parts.status.as_u16())
    }
}

/// The first bytes of a body as text.
async fn read_bounded(body: HttpResponseBody) -> Result<String, HttpError> {
    let mut stream = body.bytes_stream();
    let mut text = Vec::new();
    while let Some(piece) = stream.try_next().await? {
        text.extend_from_slice(&piece[..piece.len().min(MAX_ERROR_BODY - text.len())]);
        if text.len() == MAX_ERROR_BODY {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The word in the first XML element of that name.
fn tag(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    word(rest.split_once("</")?.0)
}

/// A foreign word, if it is one: codes and regions are, what may hold a secret is not.
fn word(text: &str) -> Option<String> {
    let text = text.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!text.is_empty() && text.len() <= 64 && text.chars().all(plain)).then(|| text.to_owned())
}

fn refused(refusal: Refusal) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, refusal)
}

fn unreached(error: &HttpError, asked: Asked) -> HttpError {
    let timed_out = error.kind() == HttpErrorKind::Timeout;
    let mut cause: &dyn StdError = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    HttpError::new(error.kind(), Unreached { asked, timed_out, why: plain_words(cause) })
}

/// The innermost reason of a failed connection, such as "Connection refused", if it can't show a URL.
fn plain_words(cause: &dyn fmt::Display) -> String {
    let text = cause.to_string();
    let shown = text.len() <= 200
        && !text.contains("://")
        && !text.contains('?')
        && !text.chars().any(char::is_control);
    if shown { text } else { "the connection failed".to_owned() }
}

#[cfg(test)]
mod tests;
