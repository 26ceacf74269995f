//! [`DiskCache`]: decoded entries on disk, in front of what is far away.
//!
//! Bounded in bytes, and nearly least recently used: entries are appended to segments, the oldest segment goes,
//! and what was used in it since it was written is copied to the newest. It survives restarts, and belongs to one
//! process at a time. Entries are named by their content, so one cache serves every store and image of a host.
//!
//! Everything here is a hint. Each entry carries a checksum and its id, and is hashed at every read, so that
//! whatever a crash, a bit flip or a full disk did to it is a miss. Nothing is synced. A failing disk is a warning,
//! once; what can't be read is forgotten, what can't be written is not kept, and no reader gets an error for it.
//!
//! What memory in front of this answers does not count as a use here.

mod index;
mod layer;
mod queue;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, Error, ErrorKind, Result,
    blocking::spawn_blocking,
    sync::{Handle, Mutex, RwLock},
    types::id_of,
};

pub use layer::DiskCached;

use crate::fs::{Fs, FsFile, FsFileExt as _, FsLock, OpenMode, make_folders};
use index::{Index, Place};
use queue::{Entry, Queue};
use segment::{HEAD_LEN, Head};
use writer::{HeadSegment, Writer};

const LOCK: &str = "lock";
const SUFFIX: &str = "segment";
/// The cache is cut into so many segments: as many files are open, and so much goes at a time.
const SEGMENTS: u64 = 128;
/// A shorter segment would hold too few entries to be worth a file.
const LEAST_SEGMENT: u64 = 1 << 20;
/// Reads of more than this go to another thread even if all of it is in the page cache: copying and checking
/// it takes some 0.2 ms.
const READ_HERE_MAX: usize = 1 << 20;

/// A cache of decoded entries in a folder. A clone is the same cache; the last one gone, another process may
/// open it.
#[derive(Clone)]
pub struct DiskCache(Arc<Inner>);

/// What a [`DiskCache`] holds and has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCacheStats {
    /// Entries answered.
    pub hits: u64,
    /// Entries not answered.
    pub misses: u64,
    /// Entries held.
    pub entries: usize,
    /// Bytes of its files. At most the capacity.
    pub bytes: u64,
}

struct Inner {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    capacity: u64,
    segment_len: u64,
    index: Index,
    /// By age.
    segments: RwLock<BTreeMap<u32, Segment>>,
    writer: Mutex<Writer>,
    queue: Arc<Queue>,
    hits: AtomicU64,
    misses: AtomicU64,
    warned: AtomicBool,
    _lock: Box<dyn FsLock>,
}

#[derive(Debug)]
struct Segment {
    file: Arc<dyn FsFile>,
    len: u64,
}

impl DiskCache {
    /// Opens the cache in `dir`, which is made if it is not there, with mode 0700 as all above it that is
    /// missing. Its files take at most `capacity` bytes; what is too much goes, the oldest first, as does what
    /// another version of the format wrote. Blocks: reads a table per segment, 128 of them in a full cache.
    ///
    /// **Errors**: `Conflict` if another process uses the cache; others if the folder can't be used at all.
    /// A caller warns and goes on without. What is damaged in it is no error.
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, capacity: u64) -> Result<Self> {
        let segment_len =
            (capacity / SEGMENTS).clamp(LEAST_SEGMENT, segment::MAX_SEGMENT_LEN).min(capacity / 4);
        Self::open_with(fs, dir, capacity, segment_len)
    }

    fn open_with(fs: Arc<dyn Fs>, dir: &Path, capacity: u64, segment_len: u64) -> Result<Self> {
        let error = |doing, e| Error::io(format!("{doing} disk cache {}", dir.display()), e);
        make_folders(&*fs, dir).map_err(|e| error("making", e))?;
        let lock = fs.lock(&dir.join(LOCK), false).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => Error::new(
                ErrorKind::Conflict,
                format!("disk cache {} is in use by another process", dir.display()),
            ),
            _ => error("locking", e),
        })?;
        let names = fs.read_dir(dir).map_err(|e| error("listing", e))?;
        let mut numbers: Vec<_> = names.iter().filter_map(|name| number_of(name)).collect();
        numbers.sort_unstable();
        let inner = Inner {
            fs,
            dir: dir.to_path_buf(),
            capacity,
            segment_len,
            index: Index::default(),
            segments: RwLock::default(),
            writer: Mutex::new(Writer::new(None, 0, segment_len)),
            queue: Arc::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            _lock: lock,
        };
        let next = numbers.last().map_or(0, |last| last.saturating_add(1));
        let mut head = None;
        for number in numbers {
            head = inner.load(number);
        }
        let mut writer = Writer::new(head, next, segment_len);
        if let Err(error) = inner.make_room(&mut writer) {
            inner.warn_once(&error);
        }
        *inner.writer.lock() = writer;
        Ok(Self(Arc::new(inner)))
    }

    /// Entries of one kind, in the order asked; `None` for those that are not here. Each was
    /// hashed now: it is what its id says, whoever wrote to the files.
    pub async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Option<Bytes>> {
        let mut answers = vec![None; ids.len()];
        let mut wanted: Vec<_> =
            ids.iter().enumerate().filter_map(|(at, id)| self.0.want(at, kind, id)).collect();
        let bytes: usize = wanted.iter().map(|want| want.place.len as usize).sum();
        if bytes <= READ_HERE_MAX {
            wanted.retain(|want| match self.0.read(want, Waiting::Never) {
                Read::WouldWait => true,
                Read::Entry(bytes) => {
                    answers[want.at] = Some(bytes);
                    false
                }
                Read::Miss => false,
            });
        }
        if !wanted.is_empty() {
            let inner = Arc::clone(&self.0);
            let read = move || -> Vec<_> {
                let read = |want: &Want| match inner.read(want, Waiting::Allowed) {
                    Read::Entry(bytes) => Some((want.at, bytes)),
                    Read::Miss | Read::WouldWait => None,
                };
                wanted.iter().filter_map(read).collect()
            };
            let found = match Handle::try_current() {
                // A read that was stopped with its runtime found nothing.
                Ok(_) => spawn_blocking(read).await.unwrap_or_default(),
                Err(_) => read(),
            };
            for (at, bytes) in found {
                answers[at] = Some(bytes);
            }
        }
        let hits = answers.iter().flatten().count() as u64;
        self.0.hits.fetch_add(hits, Ordering::Relaxed);
        self.0.misses.fetch_add(ids.len() as u64 - hits, Ordering::Relaxed);
        answers
    }

    /// Keeps entries, whose bytes the caller has verified: at once if asked, on disk a little later. Does not
    /// wait; what comes faster than the disk takes it is not kept.
    pub fn fill(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) {
        let new = |(id, bytes)| (!self.0.index.contains(kind, &id)).then_some(Entry { kind, id, bytes });
        queue::hand_over(&self.0, entries.into_iter().filter_map(new).collect());
    }

    /// Waits until all that was to be kept so far is written. Needed by nobody but tests and measurements.
    pub async fn settled(&self) {
        self.0.queue.settled().await;
    }

    /// What it holds and has answered.
    pub fn stats(&self) -> DiskCacheStats {
        DiskCacheStats {
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
            entries: self.0.index.len(),
            bytes: self.0.segments.read().values().map(|segment| segment.len).sum(),
        }
    }
}

/// An entry to read.
struct Want {
    /// Position in the answers.
    at: usize,
    kind: ChunkKind,
    id: ChunkId,
    place: Place,
    /// Held by reference: a segment that goes meanwhile stays readable.
    file: Arc<dyn FsFile>,
}

impl Want {
    /// Whether `bytes`, head and content, are what is wanted; a good checksum can be forged, the hash can't.
    fn is(&self, bytes: &[u8]) -> bool {
        Head::matches(self.kind, &self.id, bytes) && id_of(self.kind, &bytes[HEAD_LEN..]) == self.id
    }
}

enum Read {
    Entry(Bytes),
    Miss,
    WouldWait,
}

#[derive(Clone, Copy)]
enum Waiting {
    Allowed,
    Never,
}

impl Inner {
    fn want(&self, at: usize, kind: ChunkKind, id: &ChunkId) -> Option<Want> {
        let place = self.index.find(kind, id)?;
        let file = Arc::clone(&self.segments.read().get(&place.segment)?.file);
        Some(Want { at, kind, id: *id, place, file })
    }

    /// Reads and checks an entry; one that can't be had any more is forgotten.
    fn read(&self, want: &Want, waiting: Waiting) -> Read {
        let mut bytes = vec![0; HEAD_LEN + want.place.len as usize];
        let offset = u64::from(want.place.offset);
        let read = match waiting {
            Waiting::Allowed => want.file.read_exact_at(&mut bytes, offset).map(Some),
            Waiting::Never => want.file.try_read_exact_at(&mut bytes, offset),
        };
        match read {
            Ok(None) => return Read::WouldWait,
            Ok(Some(())) if want.is(&bytes) => return Read::Entry(Bytes::from(bytes).slice(HEAD_LEN..)),
            Ok(Some(())) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(e) => self.warn_once(&self.error("reading", e)),
        }
        self.index.remove(want.kind, &want.id, &want.place);
        Read::Miss
    }

    /// Takes in a segment of an earlier process. The one to go on with, if it is not full.
    fn load(&self, number: u32) -> Option<HeadSegment> {
        let path = self.path(number);
        let loaded = self
            .fs
            .open(&path, OpenMode::ReadWrite)
            .map_err(|e| self.error("opening a segment of", e))
            .and_then(|file| segment::contents(&*file, number).map(|contents| (file, contents)));
        let (file, contents) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                // Torn, of another version, or of a failing disk: it will not get better.
                tracing::debug!("{} is dropped: {}", path.display(), error.report());
                let _stays = self.fs.remove_file(&path);
                return None;
            }
        };
        for row in &contents.rows {
            self.index.insert(number, row);
        }
        let end = contents.end;
        let goes_on = !contents.full && end < self.segment_len && file.set_len(end).is_ok();
        let len = if goes_on { end } else { file.len().unwrap_or(end) };
        self.segments.write().insert(number, Segment { file: Arc::clone(&file), len });
        goes_on.then(|| HeadSegment {
            number,
            file,
            written_rows: contents.rows.len(),
            rows: contents.rows,
            written: end,
            gathered: Vec::new(),
        })
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:08x}.{SUFFIX}"))
    }

    fn error(&self, doing: &str, e: io::Error) -> Error {
        Error::io(format!("{doing} disk cache {}", self.dir.display()), e)
    }

    fn warn_once(&self, error: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("goes on with as much of the disk cache as works: {}", error.report());
        }
    }
}

/// Number of the segment of that name.
fn number_of(name: &Path) -> Option<u32> {
    let digits = name.to_str()?.strip_suffix(SUFFIX)?.strip_suffix('.')?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (format!("{number:08x}") == digits).then_some(number)
}

impl fmt::Debug for DiskCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskCache")
            .field("dir", &self.0.dir)
            .field("capacity", &self.0.capacity)
            .field("stats", &self.stats())
            .finish()
    }
}
