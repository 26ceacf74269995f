//! Index nodes with their neighbours: the nodes of one publish lie together, so whoever needs one needs others
//! around it soon.
//!
//! A pack is read in aligned windows; the nodes and checkpoints in one are kept in memory. Entries are found by
//! their headers, and only what its own hash vouches for is kept: bytes of a guest's disk that look like an entry
//! do no harm. Where nodes lie scattered among data, windows are given up, and each node is read alone.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use gabion_store_core::{
    ChunkKind, Result,
    format::{
        codec::Encoded,
        layout,
        pack::{self, ENTRY_HEADER_LEN, EntryHeader, HEADER_LEN},
        rows::EntryKey,
    },
    store::Placement,
    types::{PackId, id_of},
};

use super::shelf::Shelf;
use crate::objects::Objects;

/// Bytes of a pack that are read at once.
const WINDOW: u64 = 256 << 10;
/// Bytes behind a window, so that the last entry that begins in it is whole: more than the longest leaf has.
const BEHIND: u64 = 20 << 10;
/// Windows that are read at once, for one call.
const AT_ONCE: usize = 8;
/// Bytes of memory for nodes.
const NODES: usize = 8 << 20;
/// Bytes read before it counts how much of them were nodes, and the least share that makes windows pay.
const TRIAL: u64 = 1 << 20;
const LEAST_SHARE: u64 = 3;
/// Places in a window where entries are looked for; bytes that look like entries all over must not cost more.
const ATTEMPTS: usize = 64;

/// Nodes in memory, and which windows they came from.
#[derive(Debug)]
pub(super) struct Windows {
    objects: Objects,
    nodes: Shelf<EntryKey, Encoded>,
    /// Windows that were read; they weigh what their nodes do, so that they are forgotten with them.
    read: Shelf<(PackId, Window), ()>,
    fetched: AtomicU64,
    useful: AtomicU64,
}

/// Part of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Window {
    /// The one of this number, and what hangs over its end.
    Aligned(u64),
    /// The one that ends with the checkpoint whose stored bytes begin here: its root lies right before it.
    Before(u64),
}

impl Window {
    fn around(kind: ChunkKind, place: &Placement) -> Self {
        match kind {
            ChunkKind::Checkpoint => Self::Before(place.offset),
            _ => Self::Aligned((place.offset - ENTRY_HEADER_LEN as u64) / WINDOW),
        }
    }

    fn range(self, place: &Placement) -> Range<u64> {
        match self {
            Self::Aligned(number) => number * WINDOW..(number + 1) * WINDOW + BEHIND,
            Self::Before(offset) => offset.saturating_sub(WINDOW)..offset + u64::from(place.stored_len),
        }
    }
}

impl Windows {
    pub(super) fn new(objects: Objects) -> Self {
        Self {
            objects,
            nodes: Shelf::new(NODES),
            read: Shelf::new(NODES),
            fetched: AtomicU64::default(),
            useful: AtomicU64::default(),
        }
    }

    /// An entry that is in memory.
    pub(super) fn peek(&self, key: &EntryKey) -> Option<Encoded> {
        self.nodes.peek(key)
    }

    /// Entries that are no data, of those whose windows have them; the others have to be read alone.
    pub(super) async fn get(&self, wanted: &[(EntryKey, Placement)]) -> Vec<Option<Encoded>> {
        let mut together: BTreeMap<(PackId, Window), Vec<usize>> = BTreeMap::new();
        for (at, (key, place)) in wanted.iter().enumerate() {
            together.entry((place.pack, Window::around(key.kind, place))).or_default().push(at);
        }
        let find = |(window, which): ((PackId, Window), Vec<usize>)| async move {
            let there = self.bring(window, &wanted[which[0]].1).await;
            which.into_iter().map(|at| (at, self.peek(&wanted[at].0).filter(|_| there))).collect::<Vec<_>>()
        };
        let mut found = stream::iter(together).map(find).buffer_unordered(AT_ONCE);
        let mut answers = vec![None; wanted.len()];
        while let Some(found) = found.next().await {
            found.into_iter().for_each(|(at, entry)| answers[at] = entry);
        }
        answers
    }

    /// Reads a window, unless that was done or is not worth it. Why it can't be had is found out by reading the
    /// entries.
    async fn bring(&self, window: (PackId, Window), place: &Placement) -> bool {
        let fetched = self.fetched.load(Ordering::Relaxed);
        if fetched > TRIAL && self.useful.load(Ordering::Relaxed) < fetched / LEAST_SHARE {
            return false;
        }
        self.read.get_or(&window, self.read(window.0, window.1.range(place))).await.is_ok()
    }

    async fn read(&self, pack: PackId, range: Range<u64>) -> Result<((), usize)> {
        let bytes = self.objects.get_window(&layout::pack_key(&pack), range).await?.bytes;
        let mut useful = 0;
        for (key, entry) in nodes(&bytes) {
            let weight = entry.bytes.len();
            useful += ENTRY_HEADER_LEN + weight;
            self.nodes.put(key, entry, weight);
        }
        self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.useful.fetch_add(useful as u64, Ordering::Relaxed);
        Ok(((), useful))
    }
}

/// The nodes and checkpoints among bytes of a pack that need not begin with an entry.
fn nodes(bytes: &Bytes) -> BTreeMap<EntryKey, Encoded> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    for _ in 0..ATTEMPTS {
        let rest = &bytes[at..];
        // An offset that an entry may have: where exactly does not matter here.
        let base = HEADER_LEN as u64;
        let mut end = base;
        for scanned in pack::scan(rest, base) {
            end = scanned.entry.end();
            let (key, entry) = (scanned.entry.key, &scanned.entry);
            if key.kind == ChunkKind::Data {
                continue;
            }
            let bytes = Bytes::copy_from_slice(scanned.stored);
            let encoded = Encoded { codec: entry.codec, raw_len: entry.raw_len, bytes };
            if encoded.decode().is_ok_and(|raw| id_of(key.kind, &raw) == key.id) {
                found.insert(key, encoded);
            }
        }
        // Behind these, at least one byte on, something else may begin.
        let behind = at + (end - base) as usize + 1;
        let next = bytes.get(behind..).and_then(|rest| rest.windows(ENTRY_HEADER_LEN).position(may_be_node));
        match next {
            Some(next) => at = behind + next,
            None => break,
        }
    }
    found
}

/// Whether a node or checkpoint can begin here, as far as its header tells.
fn may_be_node(header: &[u8]) -> bool {
    // Its kind, without trying each offset in earnest.
    matches!(header[32], 1 | 2)
        && header.first_chunk().is_some_and(|header| EntryHeader::decode(header).is_ok())
}
