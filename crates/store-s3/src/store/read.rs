//! Reading entries out of packs: neighbours in one request, each checked against its header.

use std::ops::Range;

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        codec::Encoded,
        layout,
        pack::{ENTRY_HEADER_LEN, EntryHeader},
        rows::EntryKey,
    },
    store::Placement,
    types::PackId,
};
use tokio::sync::Semaphore;

use crate::objects::Objects;

/// Longest request that neighbours are merged into, in bytes.
const MAX_READ: u64 = 4 << 20;
/// Most bytes between two entries that are read rather than skipped: a request costs as much as some of these.
const MAX_GAP: u64 = 64 << 10;
/// Bytes in the air at once, of all calls; in units, of which a request takes at least one.
const IN_AIR: usize = 32 << 20;
const UNIT: usize = 64 << 10;

/// Packs, for reading.
#[derive(Debug)]
pub(super) struct Packs {
    objects: Objects,
    air: Semaphore,
}

impl Packs {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects, air: Semaphore::new(IN_AIR / UNIT) }
    }

    /// Reads entries, one result each in the order given. `Corrupt` names entry and pack, and says that the
    /// pack does not hold what it was said to hold.
    pub(super) async fn read(&self, wanted: &[(EntryKey, Placement)]) -> Vec<Result<Encoded>> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        order.sort_unstable_by_key(|&n| (wanted[n].1.pack, wanted[n].1.offset));
        let mut runs = FuturesUnordered::new();
        let mut rest = &order[..];
        while let Some((count, span)) = next_run(rest, wanted) {
            let (run, behind) = rest.split_at(count);
            rest = behind;
            runs.push(self.read_run(wanted, run.to_vec(), span));
        }
        let mut results: Vec<Option<Result<Encoded>>> = vec![None; wanted.len()];
        while let Some((run, read)) = runs.next().await {
            for (n, result) in run.into_iter().zip(read) {
                results[n] = Some(result);
            }
        }
        results.into_iter().map(|result| result.expect("every entry is in one run")).collect()
    }

    /// Reads one run. What is not as it must be is fetched once more, each entry alone.
    async fn read_run(
        &self,
        wanted: &[(EntryKey, Placement)],
        run: Vec<usize>,
        span: Range<u64>,
    ) -> (Vec<usize>, Vec<Result<Encoded>>) {
        let pack = wanted[run[0]].1.pack;
        let read = self.read_span(pack, span.clone()).await;
        let mut results = Vec::with_capacity(run.len());
        for &n in &run {
            let (key, placement) = &wanted[n];
            let first = read.as_ref().map_err(Clone::clone).and_then(|bytes| {
                // A lone entry keeps its buffer; one of many must not hold the whole run in memory.
                checked(bytes, (start_of(placement) - span.start) as usize, key, placement, run.len() > 1)
            });
            let result = match first {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    let span = start_of(placement)..placement.offset + u64::from(placement.stored_len);
                    let again = self.read_span(pack, span).await;
                    again.and_then(|bytes| checked(&bytes, 0, key, placement, false))
                }
                first => first,
            };
            results.push(result.map_err(|e| self.unreadable(key, pack, e)));
        }
        (run, results)
    }

    async fn read_span(&self, pack: PackId, span: Range<u64>) -> Result<Bytes> {
        let units = ((span.end - span.start) as usize).div_ceil(UNIT).min(IN_AIR / UNIT);
        let units = u32::try_from(units).expect("a run is bounded far below");
        let _air = self.air.acquire_many(units).await.expect("it is never closed");
        self.objects.get_range(&layout::pack_key(&pack), span).await
    }

    /// An entry that was said to be in a pack that does not have it. A missing or short pack is damage: the
    /// caller looks for a newer place before it reports it.
    fn unreadable(&self, key: &EntryKey, pack: PackId, e: Error) -> Error {
        let kind = if e.kind() == ErrorKind::NotFound { ErrorKind::Corrupt } else { e.kind() };
        let context = format!("entry {} can't be read from pack {pack} in {}", key.id, self.objects.place());
        Error::with_source(kind, context, e)
    }
}

/// Where an entry's header begins.
fn start_of(placement: &Placement) -> u64 {
    placement.offset - ENTRY_HEADER_LEN as u64
}

/// How many of the sorted entries make up the next request, and what it covers: `start..end` of their pack,
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
    let stored = at + ENTRY_HEADER_LEN;
    let header = bytes[at..stored].first_chunk().expect("the read covers the header");
    let header = EntryHeader::decode(header)?;
    let stored = bytes.slice(stored..stored + placement.stored_len as usize);
    let as_said = header.key == *key
        && header.codec == placement.codec
        && header.raw_len == placement.raw_len
        && header.stored_len == placement.stored_len;
    if !as_said {
        return Err(Error::corrupt("another entry is there"));
    }
    header.check(&stored)?;
    let bytes = if copy { Bytes::copy_from_slice(&stored) } else { stored };
    Ok(Encoded { codec: header.codec, raw_len: header.raw_len, bytes })
}
