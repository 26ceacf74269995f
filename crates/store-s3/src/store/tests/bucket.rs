//! A bucket in memory that counts what is asked of it, and fails on demand.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory,
    path::Path,
};
use parking_lot::Mutex;
use tokio::sync::watch;

/// A request, as a store sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) write: bool,
    /// Key below the store's prefix.
    pub(super) key: String,
    /// Bytes of its body or answer.
    pub(super) bytes: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is done.
    Done,
    /// It is refused for good.
    Refused,
    /// It is done once the gate is open.
    Held,
    /// Its answer has one byte changed.
    Changed,
}

type Rule = Box<dyn FnMut(&Request) -> Fate + Send>;

/// The bucket.
pub(super) struct Bucket {
    inner: InMemory,
    log: Mutex<Vec<Request>>,
    rule: Mutex<Rule>,
    gate: watch::Sender<bool>,
}

impl Bucket {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: InMemory::new(),
            log: Mutex::default(),
            rule: Mutex::new(Box::new(|_| Fate::Done)),
            gate: watch::Sender::new(false),
        })
    }

    /// What becomes of requests from now on. The bytes of a read are not known when it is asked.
    pub(super) fn rule(&self, rule: impl FnMut(&Request) -> Fate + Send + 'static) {
        *self.rule.lock() = Box::new(rule);
    }

    /// Lets held requests pass, now and later.
    pub(super) fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// Requests since this was last called.
    pub(super) fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.log.lock())
    }

    async fn fate(&self, request: &Request) -> Result<Fate> {
        let fate = (self.rule.lock())(request);
        match fate {
            Fate::Refused => Err(object_store::Error::PermissionDenied {
                path: request.key.clone(),
                source: "a test".into(),
            }),
            Fate::Held => {
                let mut gate = self.gate.subscribe();
                let _ = gate.wait_for(|open| *open).await;
                Ok(Fate::Done)
            }
            fate => Ok(fate),
        }
    }
}

fn key(location: &Path) -> String {
    let text = location.to_string();
    text.strip_prefix("a/prefix/").map(str::to_owned).unwrap_or(text)
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bucket of a test")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let request = Request { write: true, key: key(location), bytes: payload.content_length() as u64 };
        self.log.lock().push(request.clone());
        self.fate(&request).await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        panic!("nothing is uploaded in parts")
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut request = Request { write: false, key: key(location), bytes: 0 };
        let fate = self.fate(&request).await;
        let found = match &fate {
            Ok(_) => self.inner.get_opts(location, options).await,
            Err(_) => Err(object_store::Error::NotImplemented {
                operation: String::new(),
                implementer: String::new(),
            }),
        };
        request.bytes = found.as_ref().map_or(0, |found| found.range.end - found.range.start);
        self.log.lock().push(request);
        let mut found = match fate? {
            Fate::Changed => found?,
            _ => return found,
        };
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let attributes = found.attributes.clone();
        found.payload = GetResultPayload::Stream(futures::stream::empty().boxed());
        let mut bytes = self.inner.get_opts(location, GetOptions::default()).await?.bytes().await?.to_vec();
        bytes.drain(range.end as usize..);
        bytes.drain(..range.start as usize);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let payload =
            GetResultPayload::Stream(futures::stream::once(async { Ok(Bytes::from(bytes)) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, ..found })
    }

    async fn get_ranges(&self, _: &Path, _: &[Range<u64>]) -> Result<Vec<Bytes>> {
        panic!("ranges are asked for one by one")
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.log.lock().push(Request { write: false, key: "LIST".to_owned(), bytes: 0 });
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
