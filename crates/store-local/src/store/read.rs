//! Reading entries out of packs: neighbours in one read, each checked against its header.

use std::{num::NonZeroUsize, ops::Range, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        codec::Encoded,
        layout,
        pack::{ENTRY_HEADER_LEN, EntryHeader},
        rows::EntryKey,
    },
    store::Placement,
    sync::Mutex,
    types::PackId,
};
use lru::LruCache;

use super::folder::Folder;
use crate::fs::{FsFile, FsFileExt as _};

/// Packs kept open for reading.
const OPEN_PACKS: NonZeroUsize = NonZeroUsize::new(64).expect("is not zero");
/// Longest read that neighbours are merged into, in bytes.
const MAX_READ: u64 = 4 << 20;
/// Most bytes between two entries that are read rather than skipped: a read costs as much as these.
const MAX_GAP: u64 = 32 << 10;

/// Files of packs, open for reading.
#[derive(Debug)]
pub(super) struct Packs {
    folder: Folder,
    open: Mutex<LruCache<PackId, Arc<dyn FsFile>>>,
}

impl Packs {
    pub(super) fn new(folder: Folder) -> Self {
        Self { folder, open: Mutex::new(LruCache::new(OPEN_PACKS)) }
    }

    /// The folder they lie in.
    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// A pack's file.
    pub(super) fn file(&self, id: PackId) -> Result<Arc<dyn FsFile>> {
        if let Some(file) = self.open.lock().get(&id) {
            return Ok(file.clone());
        }
        let file = self.folder.open(&layout::pack_key(&id))?;
        self.open.lock().put(id, file.clone());
        Ok(file)
    }

    /// Whether there is a pack that reaches this far. What can't be told now is no reason to say no.
    pub(super) fn reach(&self, place: &Placement) -> bool {
        match self.file(place.pack) {
            Ok(file) => !file.len().is_ok_and(|len| len < place.offset + u64::from(place.stored_len)),
            Err(e) => e.kind() != ErrorKind::NotFound,
        }
    }

    /// Closes a pack that is gone.
    pub(super) fn forget(&self, id: PackId) {
        self.open.lock().pop(&id);
    }

    /// Reads entries, one result each in the order given. `Corrupt` names entry and pack, and says that
    /// the pack does not hold what it was said to hold.
    pub(super) fn read(&self, wanted: &[(EntryKey, Placement)]) -> Vec<Result<Encoded>> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|&n| (wanted[n].1.pack, wanted[n].1.offset));
        let mut results: Vec<Option<Result<Encoded>>> = vec![None; wanted.len()];
        let mut rest = &order[..];
        while let Some((run, span)) = next_run(rest, wanted) {
            let (run, behind) = rest.split_at(run);
            rest = behind;
            let pack = wanted[run[0]].1.pack;
            match self.read_span(pack, span.clone()) {
                Ok(bytes) => {
                    for &n in run {
                        let (key, placement) = &wanted[n];
                        let at = (start_of(placement) - span.start) as usize;
                        // A lone entry keeps its buffer; one of many must not hold the whole run in memory.
                        results[n] = Some(checked(&bytes, at, key, placement, run.len() > 1));
                    }
                }
                // The run may reach beyond a cut pack's end, with whole entries before it.
                Err(_) if run.len() > 1 => {
                    for &n in run {
                        let mut alone = self.read(&wanted[n..=n]);
                        results[n] = alone.pop();
                    }
                }
                Err(e) => results[run[0]] = Some(Err(unreadable(&wanted[run[0]].0, pack, e))),
            }
        }
        results.into_iter().map(|result| result.expect("every entry is in one run")).collect()
    }

    fn read_span(&self, pack: PackId, span: Range<u64>) -> Result<Bytes> {
        let mut bytes = vec![0; (span.end - span.start) as usize];
        let file = self.file(pack)?;
        file.read_exact_at(&mut bytes, span.start).map_err(|e| {
            let is_lost = e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
            let error = self.folder.error("reading", &layout::pack_key(&pack), e);
            // A bad sector: the disk won't have it later either, but another store may.
            if is_lost {
                Error::with_source(ErrorKind::Corrupt, "the disk can't read it", error)
            } else {
                error
            }
        })?;
        Ok(bytes.into())
    }
}

/// Where an entry's header begins.
fn start_of(placement: &Placement) -> u64 {
    placement.offset - ENTRY_HEADER_LEN as u64
}

/// How many of the sorted entries make up the next read, and what it covers: `start..end` of their pack,
/// headers included.
fn next_run(order: &[usize], wanted: &[(EntryKey, Placement)]) -> Option<(usize, Range<u64>)> {
    let first = &wanted[*order.first()?].1;
    let mut span = start_of(first)..first.offset + u64::from(first.stored_len);
    let mut count = 1;
    for &n in &order[1..] {
        let next = &wanted[n].1;
        let end = span.end.max(next.offset + u64::from(next.stored_len));
        let near = start_of(next) <= span.end.saturating_add(MAX_GAP);
        if next.pack != first.pack || !near || end - span.start > MAX_READ {
            break;
        }
        span.end = end;
        count += 1;
    }
    Some((count, span))
}

/// The entry whose header begins at `at` of a read that covers it whole.
fn checked(bytes: &Bytes, at: usize, key: &EntryKey, placement: &Placement, copy: bool) -> Result<Encoded> {
    let damaged = |why: &str| {
        Error::corrupt(format!(
            "entry {} in pack {} at {}: {why}; store it again to heal it",
            key.id, placement.pack, placement.offset
        ))
    };
    let stored = at + ENTRY_HEADER_LEN;
    let header = bytes[at..stored].first_chunk().expect("the read covers the header");
    let header = EntryHeader::decode(header).map_err(|e| damaged(&e.report()))?;
    let stored = bytes.slice(stored..stored + placement.stored_len as usize);
    let as_said = header.key == *key
        && header.codec == placement.codec
        && header.raw_len == placement.raw_len
        && header.stored_len == placement.stored_len;
    if !as_said {
        return Err(damaged("another entry is there"));
    }
    header.check(&stored).map_err(|e| match e.kind() {
        ErrorKind::Unsupported => e,
        _ => damaged(&e.report()),
    })?;
    let bytes = if copy { Bytes::copy_from_slice(&stored) } else { stored };
    Ok(Encoded { codec: header.codec, raw_len: header.raw_len, bytes })
}

/// An entry that was said to be in a pack that can't be read there. A missing or short pack is damage: the
/// caller looks for a newer place before it reports it.
fn unreadable(key: &EntryKey, pack: PackId, e: Error) -> Error {
    let kind = if e.kind() == ErrorKind::NotFound { ErrorKind::Corrupt } else { e.kind() };
    Error::with_source(kind, format!("entry {} can't be read from pack {pack}", key.id), e)
}
