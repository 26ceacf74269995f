//! A bucket in memory whose answers tests decide: faults before and after the effect, cut bodies, delays. For
//! tests of this crate.

use std::{collections::VecDeque, fmt, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory,
    path::Path,
};
use parking_lot::Mutex;

use crate::refusal::{Asked, Refusal};

/// What happens to one request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Nothing special.
    Pass,
    /// The server refuses, and nothing changes.
    Refuse(Refusal),
    /// The request takes effect, and then this is the answer.
    RefuseAfter(Refusal),
    /// The body ends after so many bytes.
    Cut(usize),
    /// One bit of the body is another.
    Flip,
    /// The answer takes that long.
    Slow(Duration),
    /// There is no answer.
    Hang,
    /// A conditional put is taken for a plain one.
    Unconditional,
}

impl Act {
    pub(crate) fn status(status: u16) -> Self {
        Self::Refuse(Refusal::new(Asked::Bucket, status))
    }

    pub(crate) fn status_after(status: u16) -> Self {
        Self::RefuseAfter(Refusal::new(Asked::Bucket, status))
    }

    pub(crate) fn code(status: u16, code: &str) -> Self {
        Self::Refuse(Refusal { code: Some(code.into()), ..Refusal::new(Asked::Bucket, status) })
    }
}

/// The bucket. Each request takes the next act of its kind; without any, it passes.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    pub(crate) bucket: InMemory,
    puts: Mutex<VecDeque<Act>>,
    gets: Mutex<VecDeque<Act>>,
    /// What all further requests get.
    always: Mutex<Option<Act>>,
    /// Requests so far: `PUT key`, `GET key`, `LIST key`, `DELETE key`.
    log: Mutex<Vec<String>>,
}

impl Scripted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The next puts.
    pub(crate) fn puts(&self, acts: impl IntoIterator<Item = Act>) {
        self.puts.lock().extend(acts);
    }

    /// The next gets.
    pub(crate) fn gets(&self, acts: impl IntoIterator<Item = Act>) {
        self.gets.lock().extend(acts);
    }

    /// Every request from now on, after those that were given one by one.
    pub(crate) fn always(&self, act: impl Into<Option<Act>>) {
        *self.always.lock() = act.into();
    }

    /// Requests since this was asked last.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock())
    }

    fn next(&self, queue: &Mutex<VecDeque<Act>>, verb: &str, key: &Path) -> Act {
        self.log.lock().push(format!("{verb} {key}"));
        queue.lock().pop_front().or_else(|| self.always.lock().clone()).unwrap_or(Act::Pass)
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

fn refused(refusal: Refusal) -> object_store::Error {
    object_store::Error::Generic { store: "Scripted", source: Box::new(refusal) }
}

/// The body of an answer, changed.
async fn changed(
    found: GetResult,
    change: impl FnOnce(Vec<u8>) -> Vec<u8>,
) -> object_store::Result<GetResult> {
    let GetResult { meta, range, attributes, extensions, .. } = found;
    let bytes = Bytes::from(change(found_bytes(found.payload).await?));
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

async fn found_bytes(payload: GetResultPayload) -> object_store::Result<Vec<u8>> {
    let GetResultPayload::Stream(mut stream) = payload else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Scripted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> object_store::Result<PutResult> {
        match self.next(&self.puts, "PUT", location) {
            Act::Refuse(refusal) => return Err(refused(refusal)),
            Act::RefuseAfter(refusal) => {
                // Whatever the answer would have been, it is lost.
                let _ = self.bucket.put_opts(location, payload, options).await;
                return Err(refused(refusal));
            }
            Act::Hang => std::future::pending().await,
            Act::Slow(time) => tokio::time::sleep(time).await,
            Act::Unconditional => options.mode = PutMode::Overwrite,
            Act::Pass | Act::Cut(_) | Act::Flip => {}
        }
        self.bucket.put_opts(location, payload, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let act = self.next(&self.gets, "GET", location);
        match &act {
            Act::Refuse(refusal) | Act::RefuseAfter(refusal) => return Err(refused(refusal.clone())),
            Act::Hang => std::future::pending().await,
            Act::Slow(time) => tokio::time::sleep(*time).await,
            _ => {}
        }
        let found = self.bucket.get_opts(location, options).await?;
        match act {
            Act::Cut(len) => {
                changed(found, |mut bytes| {
                    bytes.truncate(len);
                    bytes
                })
                .await
            }
            Act::Flip => {
                changed(found, |mut bytes| {
                    bytes[0] ^= 1;
                    bytes
                })
                .await
            }
            _ => Ok(found),
        }
    }

    async fn put_multipart_opts(
        &self,
        _location: &Path,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        panic!("this crate makes no multipart uploads")
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        self.bucket.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.bucket.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.log.lock().push(format!("LIST {}", prefix.cloned().unwrap_or_default()));
        match &*self.always.lock() {
            Some(Act::Refuse(refusal)) => {
                let error = refused(refusal.clone());
                futures::stream::once(async { Err(error) }).boxed()
            }
            _ => self.bucket.list(prefix),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.bucket.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.bucket.copy_opts(from, to, options).await
    }

    async fn rename_opts(
        &self,
        from: &Path,
        to: &Path,
        options: object_store::RenameOptions,
    ) -> object_store::Result<()> {
        self.bucket.rename_opts(from, to, options).await
    }
}
