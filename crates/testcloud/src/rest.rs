//! Requests on objects, as S3, Google Cloud Storage and web servers understand them.

use bytes::Bytes;
use hyper::{HeaderMap, Method, StatusCode, Uri, header};
use jiff::{fmt::rfc2822, tz::TimeZone};

use crate::{
    bucket::{Buckets, Condition, NoBucket, Object, Query, Unmet},
    operation::Operation,
    xml,
};

/// Most keys on a page of a list, as of S3.
const MAX_KEYS: usize = 1000;

/// The interface that a request is made to: the first part of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    S3,
    Gcs,
    /// A web server that serves ranges, and is read-only.
    Http,
}

/// A request, without its body.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) dialect: Dialect,
    pub(crate) operation: Operation,
    pub(crate) method: Method,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: HeaderMap,
}

/// What to answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) const fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new() }
    }

    fn xml(text: String) -> Self {
        let headers = vec![("content-type", "application/xml".to_owned())];
        Self { status: StatusCode::OK, headers, body: text.into() }
    }

    pub(crate) fn error(status: u16, code: &str, resource: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = status.canonical_reason().unwrap_or("an error of its own");
        Self { status, ..Self::xml(xml::error(code, message, resource)) }
    }
}

impl From<NoBucket> for Answer {
    fn from(_: NoBucket) -> Self {
        Self::error(404, "NoSuchBucket", "")
    }
}

impl Ask {
    /// Reads a request's line and headers; `None` if its path is of no interface.
    pub(crate) fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Self> {
        let mut parts = uri.path().strip_prefix('/')?.splitn(3, '/');
        let dialect = match parts.next()? {
            "s3" => Dialect::S3,
            "gcs" => Dialect::Gcs,
            "http" => Dialect::Http,
            _ => return None,
        };
        let mut name = || {
            let encoded = parts.next().unwrap_or_default();
            percent_encoding::percent_decode_str(encoded).decode_utf8().ok().map(String::from)
        };
        let (bucket, key) = (name()?, name()?);
        let query =
            url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let mut ask = Self {
            dialect,
            operation: Operation::Other,
            method: method.clone(),
            bucket,
            key,
            query,
            headers: headers.clone(),
        };
        ask.operation = ask.tell_operation();
        if ask.operation == Operation::List {
            ask.key = ask.parameter("prefix").unwrap_or_default().to_owned();
        }
        Some(ask)
    }

    fn tell_operation(&self) -> Operation {
        let special = ["uploads", "uploadId"].iter().any(|name| self.parameter(name).is_some())
            || self.header("x-amz-copy-source").or(self.header("x-goog-copy-source")).is_some();
        match (self.method.as_str(), self.key.is_empty()) {
            _ if special => Operation::Other,
            ("GET", true) if self.dialect != Dialect::Http => Operation::List,
            ("GET", false) => Operation::Get,
            ("HEAD", false) => Operation::Head,
            ("POST", true) if self.parameter("delete").is_some() => Operation::DeleteMany,
            ("DELETE", false) => Operation::Delete,
            ("PUT", false) => match self.condition() {
                Some(Condition::None) => Operation::Put,
                Some(Condition::Absent) => Operation::Create,
                _ => Operation::Replace,
            },
            _ => Operation::Other,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of its `Range`.
    pub(crate) fn range(&self) -> Option<&str> {
        self.header("range")
    }

    /// On what a write or removal depends; `None` if that can't be read.
    fn condition(&self) -> Option<Condition> {
        match self.dialect {
            Dialect::Gcs => match self.header("x-goog-if-generation-match") {
                None => Some(Condition::None),
                Some("0") => Some(Condition::Absent),
                Some(generation) => generation.parse().ok().map(Condition::Generation),
            },
            Dialect::S3 | Dialect::Http => match (self.header("if-none-match"), self.header("if-match")) {
                (None, None) => Some(Condition::None),
                (Some("*"), None) => Some(Condition::Absent),
                (None, Some(etag)) => Some(Condition::Etag(etag.to_owned())),
                _ => None,
            },
        }
    }

    /// Whether the request carries this access key (S3) or token (GCS). Web servers ask for none.
    pub(crate) fn is_signed_by(&self, access_key: &str) -> bool {
        let authorization = self.header("authorization").unwrap_or_default();
        match self.dialect {
            Dialect::S3 => authorization.contains(&format!("Credential={access_key}/")),
            Dialect::Gcs => authorization.strip_prefix("Bearer ") == Some(access_key),
            Dialect::Http => true,
        }
    }

    /// Does what is asked, and says what to answer.
    pub(crate) async fn run(&self, buckets: &Buckets, body: Bytes) -> Answer {
        self.try_run(buckets, body).await.unwrap_or_else(|answer| answer)
    }

    async fn try_run(&self, buckets: &Buckets, body: Bytes) -> Result<Answer, Answer> {
        let refuse = |status, code| Err(self.error(status, code));
        let writes = !matches!(self.operation, Operation::Get | Operation::Head | Operation::List);
        if self.dialect == Dialect::Http && writes {
            return refuse(405, "MethodNotAllowed");
        }
        match self.operation {
            Operation::Get | Operation::Head => self.read_object(buckets.get(&self.bucket, &self.key)?),
            Operation::Put | Operation::Create | Operation::Replace => {
                let Some(condition) = self.condition() else { return refuse(501, "NotImplemented") };
                let put = buckets.put(&self.bucket, &self.key, body, &condition).await?;
                let object = put.map_err(|unmet| self.unmet(unmet))?;
                Ok(Answer { headers: self.names_of(&object), ..Answer::empty(StatusCode::OK) })
            }
            Operation::Delete => self.delete(buckets),
            Operation::DeleteMany => {
                let Some(keys) = xml::keys_to_delete(&body) else { return refuse(400, "MalformedXML") };
                for key in &keys {
                    let _ = buckets.delete(&self.bucket, key, &Condition::None)?;
                }
                Ok(Answer::xml(xml::deleted(&keys)))
            }
            Operation::List => {
                let text = |name: &str| self.parameter(name).unwrap_or_default().to_owned();
                let max = self.parameter("max-keys").and_then(|max| max.parse().ok()).unwrap_or(MAX_KEYS);
                let after =
                    self.parameter("continuation-token").map_or_else(|| text("start-after"), str::to_owned);
                let (prefix, delimiter) = (text("prefix"), text("delimiter"));
                let query = Query { prefix, delimiter, after, max: max.min(MAX_KEYS) };
                Ok(Answer::xml(xml::list(&self.bucket, &query, &buckets.list(&self.bucket, &query)?)))
            }
            Operation::Other if self.method == Method::PUT && self.key.is_empty() => {
                buckets.create(&self.bucket);
                Ok(Answer::empty(StatusCode::OK))
            }
            Operation::Other => refuse(501, "NotImplemented"),
        }
    }

    fn delete(&self, buckets: &Buckets) -> Result<Answer, Answer> {
        // S3 removes without conditions, and what is not there.
        let gcs = self.dialect == Dialect::Gcs;
        let condition = if gcs { self.condition() } else { Some(Condition::None) };
        let condition = condition.ok_or_else(|| self.error(400, "InvalidArgument"))?;
        match buckets.delete(&self.bucket, &self.key, &condition)? {
            Ok(false) if gcs => Err(self.error(404, "NoSuchKey")),
            Ok(_) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
            Err(unmet) => Err(self.unmet(unmet)),
        }
    }

    fn read_object(&self, found: Option<Object>) -> Result<Answer, Answer> {
        let object = found.ok_or_else(|| self.error(404, "NoSuchKey"))?;
        if let Some(etag) = self.header("if-none-match")
            && (etag == object.etag || etag == "*")
        {
            return Ok(Answer { headers: self.names_of(&object), ..Answer::empty(StatusCode::NOT_MODIFIED) });
        }
        let required = match self.dialect {
            Dialect::Gcs => self.condition().ok_or_else(|| self.error(400, "InvalidArgument"))?,
            Dialect::S3 | Dialect::Http => Condition::None,
        };
        let etag = self.header("if-match").map_or(Condition::None, |etag| Condition::Etag(etag.to_owned()));
        for condition in [required, etag] {
            condition.check(Some(&object)).map_err(|_| self.error(412, "PreconditionFailed"))?;
        }
        if let Some(wanted) = self.parameter("generation")
            && wanted != object.generation.to_string()
        {
            return Err(self.error(404, "NoSuchKey"));
        }
        let mut headers = self.names_of(&object);
        headers.push(("last-modified", http_date(&object)));
        headers.push(("content-type", "application/octet-stream".to_owned()));
        headers.push(("accept-ranges", "bytes".to_owned()));
        let size = object.bytes.len();
        let Some(range) = self.range().and_then(|text| text.strip_prefix("bytes=")) else {
            return Ok(Answer { status: StatusCode::OK, headers, body: object.bytes });
        };
        let Some((start, end)) = within(range, size) else {
            let mut answer = self.error(416, "InvalidRange");
            answer.headers.push(("content-range", format!("bytes */{size}")));
            return Err(answer);
        };
        headers.push(("content-range", format!("bytes {start}-{}/{size}", end - 1)));
        Ok(Answer { status: StatusCode::PARTIAL_CONTENT, headers, body: object.bytes.slice(start..end) })
    }

    /// Headers that name this state of an object.
    fn names_of(&self, object: &Object) -> Vec<(&'static str, String)> {
        let mut headers = vec![(header::ETAG.as_str(), object.etag.clone())];
        if self.dialect == Dialect::Gcs {
            headers.push(("x-goog-generation", object.generation.to_string()));
            headers.push(("x-goog-metageneration", "1".to_owned()));
        }
        headers
    }

    fn unmet(&self, unmet: Unmet) -> Answer {
        match (self.dialect, unmet) {
            (Dialect::S3, Unmet::Missing) => self.error(404, "NoSuchKey"),
            _ => self.error(412, "PreconditionFailed"),
        }
    }

    pub(crate) fn error(&self, status: u16, code: &str) -> Answer {
        Answer::error(status, code, &format!("/{}/{}", self.bucket, self.key))
    }
}

fn http_date(object: &Object) -> String {
    let at = object.modified.to_zoned(TimeZone::UTC);
    rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at.timestamp()).unwrap_or_default()
}

/// First and end of a range such as `1-2`, `1-`, `-2` in an object of that size; `None` if nothing is in it.
fn within(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.split_once('-')?;
    let (start, end) = match (first, last) {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size),
        (first, "") => (first.parse().ok()?, size),
        (first, last) => (first.parse().ok()?, last.parse::<usize>().ok()?.saturating_add(1).min(size)),
    };
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(within("0-0", 3), Some((0, 1)));
        assert_eq!(within("1-", 3), Some((1, 3)));
        assert_eq!(within("-2", 3), Some((1, 3)));
        assert_eq!(within("-9", 3), Some((0, 3)));
        assert_eq!(within("2-9", 3), Some((2, 3)));
        for nothing in ["3-", "3-4", "2-1", "-0", "x-1", "1", "", "0-18446744073709551616"] {
            assert_eq!(within(nothing, 3), None, "{nothing}");
        }
        assert_eq!(within("0-", 0), None);
        assert_eq!(within("0-18446744073709551615", 3), Some((0, 3)));
    }

    #[test]
    fn operations_are_told_by_method_path_and_headers() {
        let ask = |method: &str, uri: &str, headers: &[(&'static str, &str)]| {
            let headers =
                headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
            let uri = uri.parse().unwrap();
            let ask = Ask::read(&method.parse().unwrap(), &uri, &headers).unwrap();
            (ask.operation, ask.bucket, ask.key)
        };
        let told = |operation, key: &str| (operation, "b".to_owned(), key.to_owned());
        assert_eq!(ask("GET", "/s3/b/packs/a%20b", &[]), told(Operation::Get, "packs/a b"));
        assert_eq!(ask("GET", "/gcs/b/packs%2Fa", &[]), told(Operation::Get, "packs/a"));
        assert_eq!(ask("PUT", "/s3/b/k", &[]), told(Operation::Put, "k"));
        assert_eq!(ask("PUT", "/s3/b/k", &[("if-none-match", "*")]), told(Operation::Create, "k"));
        assert_eq!(ask("PUT", "/s3/b/k", &[("if-match", "\"1\"")]), told(Operation::Replace, "k"));
        assert_eq!(
            ask("PUT", "/gcs/b/k", &[("x-goog-if-generation-match", "0")]),
            told(Operation::Create, "k")
        );
        assert_eq!(
            ask("PUT", "/gcs/b/k", &[("x-goog-if-generation-match", "7")]),
            told(Operation::Replace, "k")
        );
        assert_eq!(ask("GET", "/s3/b?list-type=2&prefix=p%2F", &[]), told(Operation::List, "p/"));
        assert_eq!(ask("POST", "/s3/b?delete", &[]), told(Operation::DeleteMany, ""));
        assert_eq!(ask("POST", "/s3/b/k?uploads", &[]), told(Operation::Other, "k"));
        assert!(Ask::read(&Method::GET, &"/elsewhere/b".parse().unwrap(), &HeaderMap::new()).is_none());
    }
}
