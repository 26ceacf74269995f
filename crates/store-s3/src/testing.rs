//! [`FaultBucket`]: a bucket whose requests take their time and fail, before or *after* their effect, as a test says.
//! Behind the feature `testing`.
//!
//! ```
//! # use std::sync::Arc;
//! use gabion_store_s3::testing::{Fate, FaultBucket, Request, Weather};
//! use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path};
//!
//! /// The answer to every write is lost.
//! #[derive(Debug)]
//! struct Storm;
//!
//! #[async_trait::async_trait]
//! impl Weather for Storm {
//!     async fn fate(&self, request: &Request) -> Fate {
//!         if request.write { Fate::LostAfter } else { Fate::Done }
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
//! let bucket = FaultBucket::new(Arc::new(InMemory::new()), Arc::new(Storm));
//! bucket.put(&Path::from("key"), "value".into()).await.expect_err("it is not known to be there");
//! assert_eq!(bucket.get(&Path::from("key")).await?.bytes().await?, "value");
//! # Ok::<_, object_store::Error>(())
//! # })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

use std::{collections::VecDeque, fmt, io, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, TryFutureExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, path::Path,
};
use parking_lot::Mutex;

/// A request, as a bucket sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether it changes something, or would.
    pub write: bool,
    /// The object, or what a list is about.
    pub key: Path,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is done.
    Done,
    /// It does not arrive.
    Lost,
    /// It is done, and the answer does not arrive.
    LostAfter,
    /// There is no answer, and it arrives only when the bucket is told to [`land`](FaultBucket::land) it; a read or a
    /// delete never does.
    Late,
    /// It is refused for good, and nothing is done.
    Refused,
    /// The body of the answer ends after so many bytes.
    Cut(usize),
    /// A bit of the body of the answer is another.
    Flipped(usize),
}

/// Decides what becomes of requests.
#[async_trait]
pub trait Weather: Send + Sync + fmt::Debug {
    /// A request is on its way, for as long as this takes.
    async fn fate(&self, request: &Request) -> Fate;

    /// It was done, and the answer is on its way, for as long as this takes.
    async fn answered(&self, request: &Request) {
        let _ = request;
    }
}

/// A bucket with a weather. A clone is the same one.
#[derive(Clone, Debug)]
pub struct FaultBucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bucket: Arc<dyn ObjectStore>,
    weather: Arc<dyn Weather>,
    late: Mutex<VecDeque<(Path, PutPayload, PutOptions)>>,
}

impl FaultBucket {
    /// `bucket`, in that weather.
    pub fn new(bucket: Arc<dyn ObjectStore>, weather: Arc<dyn Weather>) -> Self {
        Self(Arc::new(Inner { bucket, weather, late: Mutex::default() }))
    }

    /// The first of the late writes arrives, as far as its conditions hold by now; whether there was one.
    pub async fn land(&self) -> bool {
        let Some((path, payload, options)) = self.0.late.lock().pop_front() else { return false };
        // Nobody waits for the answer any more.
        let _unheard = self.0.bucket.put_opts(&path, payload, options).await;
        true
    }

    async fn begin(&self, write: bool, key: &Path) -> Result<(Request, Fate)> {
        let request = Request { write, key: key.clone() };
        match self.0.weather.fate(&request).await {
            Fate::Lost => Err(unreached()),
            Fate::Refused => Err(object_store::Error::PermissionDenied {
                path: key.to_string(),
                source: "by the weather".into(),
            }),
            fate => Ok((request, fate)),
        }
    }

    async fn end<T>(&self, request: &Request, fate: Fate, answer: Result<T>) -> Result<T> {
        self.0.weather.answered(request).await;
        if fate == Fate::LostAfter { Err(unreached()) } else { answer }
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let (request, fate) = self.begin(true, &location).await?;
        if fate == Fate::Late {
            return Err(unreached());
        }
        let deleted = self.0.bucket.delete(&location).await;
        self.end(&request, fate, deleted.map(|()| location)).await
    }
}

fn unreached() -> object_store::Error {
    let source = Box::new(io::Error::new(io::ErrorKind::ConnectionReset, "the connection is lost"));
    object_store::Error::Generic { store: "FaultBucket", source }
}

/// The same answer, with another body.
async fn changed(found: GetResult, fate: Fate) -> Result<GetResult> {
    let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
    let extensions = found.extensions.clone();
    let mut bytes = found.bytes().await?.to_vec();
    match fate {
        Fate::Cut(len) => bytes.truncate(len),
        Fate::Flipped(bit) if !bytes.is_empty() => {
            let bit = bit % (8 * bytes.len());
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        _ => {}
    }
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(Bytes::from(bytes)) }).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

impl fmt::Display for FaultBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultBucket({})", self.0.bucket)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultBucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (request, fate) = self.begin(true, location).await?;
        if fate == Fate::Late {
            self.0.late.lock().push_back((location.clone(), payload, options));
            return Err(unreached());
        }
        let put = self.0.bucket.put_opts(location, payload, options).await;
        self.end(&request, fate, put).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (request, fate) = self.begin(false, location).await?;
        if fate == Fate::Late {
            return Err(unreached());
        }
        let found = self.0.bucket.get_opts(location, options).await;
        let found = self.end(&request, fate, found).await?;
        if matches!(fate, Fate::Cut(_) | Fate::Flipped(_)) { changed(found, fate).await } else { Ok(found) }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.bucket.put_multipart_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.bucket.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Path| {
            let this = this.clone();
            async move { this.delete_one(location).await }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            let (request, fate) = this.begin(false, &prefix.clone().unwrap_or_default()).await?;
            let fate = if fate == Fate::Late { Fate::LostAfter } else { fate };
            this.end(&request, fate, Ok(())).await?;
            Ok::<_, object_store::Error>(this.0.bucket.list(prefix.as_ref()))
        };
        listed.try_flatten_stream().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.bucket.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.bucket.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.bucket.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.bucket.rename_opts(from, to, options).await
    }
}
