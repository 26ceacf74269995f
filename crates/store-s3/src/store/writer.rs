//! Writing: entries are collected in memory, full packs are uploaded in the background, and each sync
//! writes one locator over what is durable by then.
//!
//! ```text
//! put ─► section ─► sealed pack ─► uploaded (rows) ─► locator ─► (publish) catalog
//! ```
//!
//! Everything here belongs to the store's handle, not to the caller's future: a caller that goes away stops
//! no upload that others rely on. Memory is bounded by the packs in flight and the one that is being
//! filled; a put waits while there is no room. **What failed is kept**: a pack that could not be uploaded
//! stays in memory and readable, and the next sync, or the next put that needs its room, tries again.
//!
//! Uploads end in any order, locators name packs in that of their sealing: what is live is a prefix of what was put, so a
//! node is never there without what was put before it.
//!
//! An entry is *recent*, and found here, until a locator of this handle names it; so memory for entries is
//! bounded, however many there are: a locator is written early if they become many.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    ChunkKind, Error, ErrorKind, Result,
    format::{catalog::LocatorRef, codec::Encoded, layout, locator::Outline, rows::EntryKey},
    store::Placement,
    sync::{Mutex, spawn},
    types::{LocatorId, PackId},
};
use object_store::PutPayload;
use tokio::sync::watch;

use super::{
    blocking,
    locators::Locators,
    pack::{Prepared, SealedPack, Section},
};
use crate::objects::Objects;

/// Bytes of index nodes after which they get a pack of their own.
const NODES_TARGET: u64 = 4 << 20;
/// Entries after which a pack is sealed however small they are, so that their tables stay small.
const MAX_ENTRIES: usize = 1 << 15;
/// Entries after which a locator is written before anyone syncs: some 2 GiB of disk, and 6 MiB of memory.
const MAX_ROWS: usize = 1 << 16;

/// The writing half of a remote store.
#[derive(Debug)]
pub(super) struct Writer {
    objects: Objects,
    /// Bytes after which a pack is sealed.
    target: u64,
    /// Packs in flight at most.
    uploads: usize,
    state: Mutex<State>,
    /// Told whenever an upload has ended.
    ended: watch::Sender<()>,
    /// Held by the one sync that runs.
    syncing: tokio::sync::Mutex<()>,
    /// Where locators go once they are written.
    locators: Arc<Locators>,
}

#[derive(Debug, Default)]
struct State {
    data: Section,
    nodes: Section,
    /// Packs that are not durable yet, by the number of their sealing.
    flight: BTreeMap<u64, Flight>,
    sealed: u64,
    /// Uploads that have failed so far.
    failures: u64,
    /// Entries of durable packs that no locator of ours names, all of them put before what is not durable.
    rows: Rows,
    /// Those of durable packs that were sealed behind one that is not, by the number of their sealing: with a name they
    /// could lead to what is not there.
    behind: BTreeMap<u64, Rows>,
    /// Those of which a locator is being written, or could not be.
    naming: Option<Arc<Rows>>,
}

type Rows = BTreeMap<EntryKey, Placement>;

#[derive(Debug)]
struct Flight {
    pack: Arc<SealedPack>,
    /// Why its upload failed; `None` while it runs.
    failed: Option<Error>,
}

/// Where an entry is that was put through this handle.
#[derive(Debug)]
pub(super) enum Recent {
    /// In memory; with its place, once that is known.
    Memory(Encoded, Option<Placement>),
    /// In a durable pack.
    Placed(Placement),
}

impl Writer {
    pub(super) fn new(objects: Objects, locators: Arc<Locators>, target: u64, uploads: usize) -> Self {
        Self {
            objects,
            locators,
            target: target.min(512 << 20),
            uploads: uploads.max(1),
            state: Mutex::default(),
            ended: watch::Sender::new(()),
            syncing: tokio::sync::Mutex::default(),
        }
    }

    /// An entry that was put through this handle.
    pub(super) fn recent(&self, key: &EntryKey) -> Option<Recent> {
        self.state.lock().recent(key)
    }

    /// An entry was found damaged in a durable pack: it may be put again.
    pub(super) fn forget(&self, key: &EntryKey, pack: PackId) {
        let mut state = self.state.lock();
        let State { rows, behind, .. } = &mut *state;
        for rows in std::iter::once(rows).chain(behind.values_mut()) {
            if rows.get(key).is_some_and(|place| place.pack == pack) {
                rows.remove(key);
            }
        }
    }

    /// Appends entries; those that were put before are left out. Waits for room. After an error, or when
    /// dropped, some of the entries may have been stored.
    pub(super) async fn append(self: &Arc<Self>, entries: Vec<Prepared>) -> Result<()> {
        let failures = self.state.lock().failures;
        let mut entries = entries.into_iter();
        let mut next = entries.next();
        while next.is_some() {
            let mut ended = self.ended.subscribe();
            {
                let mut state = self.state.lock();
                while let Some(entry) = next.take_if(|entry| state.has_room(self, entry.key().kind)) {
                    if !state.holds(&entry.key()) {
                        state.section(entry.key().kind).push(&entry);
                        self.seal_full(&mut state)?;
                    }
                    next = entries.next();
                }
                if next.is_none() {
                    break;
                }
                if state.flight.values().all(|flight| flight.failed.is_some()) {
                    if state.failures > failures {
                        return Err(state.failure().unwrap_or_else(cut_off));
                    }
                    self.retry(&mut state);
                }
            }
            // The sender is ours: it can't be gone.
            let _ = ended.changed().await;
        }
        Ok(())
    }

    /// Seals what is full, as far as there is room in flight.
    fn seal_full(self: &Arc<Self>, state: &mut State) -> Result<()> {
        for kind in [ChunkKind::Data, ChunkKind::Node] {
            if state.flight.len() < self.uploads && !state.has_room(self, kind) {
                // Nodes are sealed behind the chunks that were put before them.
                if kind == ChunkKind::Node && state.data.count() > 0 {
                    let id = PackId::random()?;
                    let data = std::mem::take(&mut state.data);
                    self.launch(state, SealedPack::seal(id, [data]));
                }
                let id = PackId::random()?;
                let full = std::mem::take(state.section(kind));
                self.launch(state, SealedPack::seal(id, [full]));
            }
        }
        Ok(())
    }

    /// Seals all there is, room or not: it is in memory already. Nodes share a pack with the data if they fit.
    fn seal_all(self: &Arc<Self>, state: &mut State) -> Result<()> {
        let together = state.data.len() + state.nodes.len() <= self.target + NODES_TARGET;
        let ids = [PackId::random()?, PackId::random()?];
        let (data, nodes) = (std::mem::take(&mut state.data), std::mem::take(&mut state.nodes));
        let packs = if together { vec![vec![data, nodes]] } else { vec![vec![data], vec![nodes]] };
        for (id, sections) in ids.into_iter().zip(packs) {
            if sections.iter().any(|section| section.count() > 0) {
                self.launch(state, SealedPack::seal(id, sections));
            }
        }
        Ok(())
    }

    fn launch(self: &Arc<Self>, state: &mut State, pack: SealedPack) {
        let number = state.sealed;
        state.sealed += 1;
        let pack = Arc::new(pack);
        state.flight.insert(number, Flight { pack: pack.clone(), failed: None });
        self.upload(number, pack);
    }

    /// Starts failed uploads anew.
    fn retry(self: &Arc<Self>, state: &mut State) {
        for (number, flight) in &mut state.flight {
            if flight.failed.take().is_some() {
                self.upload(*number, flight.pack.clone());
            }
        }
    }

    fn upload(self: &Arc<Self>, number: u64, pack: Arc<SealedPack>) {
        let upload = Upload { writer: self.clone(), number, outcome: Err(cut_off()) };
        drop(spawn(async move {
            let mut upload = upload;
            let payload: PutPayload = pack.parts.iter().cloned().collect();
            upload.outcome = upload.writer.objects.put(&layout::pack_key(&pack.id), payload).await;
            let writer = upload.writer.clone();
            drop((upload, pack));
            writer.spill().await;
        }));
    }

    /// Makes everything put before durable and writes a locator of it. After an error everything is kept for the
    /// next sync.
    pub(super) async fn sync(self: &Arc<Self>) -> Result<()> {
        let _one = self.syncing.lock().await;
        self.upload_all().await?;
        // What is uploaded from now on is the next sync's.
        if self.state.lock().naming.is_some() {
            self.write_locator().await?;
        }
        self.write_locator().await
    }

    /// Writes a locator of what is durable, if that has become much.
    async fn spill(&self) {
        let much = || self.state.lock().rows.len() >= MAX_ROWS;
        if !much() {
            return;
        }
        let _one = self.syncing.lock().await;
        // Whoever was here before may have done it.
        if much()
            && let Err(error) = self.write_locator().await
        {
            tracing::warn!(error = %error.report(), "writing a locator failed; the next sync writes it");
        }
    }

    /// Names in a locator what is durable and has no name. Entries are found by the state or by a
    /// locator at every moment; a locator that could not be written is tried again before the next one is begun.
    async fn write_locator(&self) -> Result<()> {
        let rows = {
            let mut state = self.state.lock();
            if state.naming.is_none() && !state.rows.is_empty() {
                state.naming = Some(Arc::new(std::mem::take(&mut state.rows)));
            }
            state.naming.clone()
        };
        let Some(rows) = rows else { return Ok(()) };
        let id = LocatorId::random()?;
        let (reference, bytes) = blocking(move || encode(id, &rows)).await?;
        self.objects.put(&layout::locator_key(&id), bytes.clone().into()).await?;
        self.locators.adopt(reference, bytes)?;
        self.state.lock().naming = None;
        Ok(())
    }

    async fn upload_all(self: &Arc<Self>) -> Result<()> {
        let mut ended = self.ended.subscribe();
        let until = {
            let mut state = self.state.lock();
            self.retry(&mut state);
            self.seal_all(&mut state)?;
            state.sealed
        };
        loop {
            ended.borrow_and_update();
            {
                let state = self.state.lock();
                let mut ours = state.flight.range(..until).map(|(_, flight)| flight);
                if ours.clone().all(|flight| flight.failed.is_some()) {
                    return ours.find_map(|flight| flight.failed.clone()).map_or(Ok(()), Err);
                }
            }
            let _ = ended.changed().await;
        }
    }
}

impl State {
    fn section(&mut self, kind: ChunkKind) -> &mut Section {
        if kind == ChunkKind::Data { &mut self.data } else { &mut self.nodes }
    }

    /// Whether an entry of this kind can be appended.
    fn has_room(&mut self, writer: &Writer, kind: ChunkKind) -> bool {
        let target = if kind == ChunkKind::Data { writer.target } else { NODES_TARGET.min(writer.target) };
        !is_full(self.section(kind), target)
    }

    fn holds(&self, key: &EntryKey) -> bool {
        self.data.contains(key)
            || self.nodes.contains(key)
            || self.placed(key).is_some()
            || self.flight.values().any(|flight| flight.pack.contents.find(key).is_some())
    }

    fn recent(&self, key: &EntryKey) -> Option<Recent> {
        if let Some(entry) = self.data.get(key).or_else(|| self.nodes.get(key)) {
            return Some(Recent::Memory(entry, None));
        }
        if let Some((entry, place)) = self.flight.values().find_map(|flight| flight.pack.get(key)) {
            return Some(Recent::Memory(entry, Some(place)));
        }
        self.placed(key).map(Recent::Placed)
    }

    fn placed(&self, key: &EntryKey) -> Option<Placement> {
        let behind = || self.behind.values().find_map(|rows| rows.get(key));
        let naming = || self.naming.as_ref()?.get(key);
        self.rows.get(key).or_else(behind).or_else(naming).copied()
    }

    /// Lets what is durable be named, as far as all that was sealed before it is, too.
    fn catch_up(&mut self) {
        let first = self.flight.keys().next().copied();
        while let Some(next) = self.behind.first_entry()
            && first.is_none_or(|first| *next.key() < first)
        {
            self.rows.extend(next.remove());
        }
    }

    fn failure(&self) -> Option<Error> {
        self.flight.values().find_map(|flight| flight.failed.clone())
    }
}

/// A locator of these entries.
fn encode(id: LocatorId, rows: &Rows) -> Result<(LocatorRef, Bytes)> {
    let mut outline = Outline::new(rows.len() as u64);
    for (key, place) in rows {
        outline.add(key, &place.pack)?;
    }
    let mut encoded = outline.finish(id);
    for (key, place) in rows {
        encoded.push(*key, place)?;
    }
    let reference = encoded.reference();
    let mut bytes = encoded.finish();
    bytes.shrink_to_fit();
    Ok((reference, bytes.into()))
}

fn is_full(section: &Section, target: u64) -> bool {
    section.len() >= target || section.count() >= MAX_ENTRIES
}

fn cut_off() -> Error {
    Error::new(ErrorKind::Cancelled, "the upload of a pack was cut off")
}

/// An upload under way. It is over when this is dropped, whatever became of its task.
struct Upload {
    writer: Arc<Writer>,
    number: u64,
    outcome: Result<()>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.writer.state.lock();
        match std::mem::replace(&mut self.outcome, Ok(())) {
            Ok(()) => {
                if let Some(Flight { pack, .. }) = state.flight.remove(&self.number) {
                    let rows = pack.contents.entries().iter();
                    let rows = rows.map(|entry| (entry.key, pack.placement(entry))).collect();
                    state.behind.insert(self.number, rows);
                    state.catch_up();
                }
            }
            Err(error) => {
                tracing::warn!(error = %error.report(), "uploading a pack failed; it is kept");
                state.failures += 1;
                if let Some(flight) = state.flight.get_mut(&self.number) {
                    flight.failed = Some(error);
                }
            }
        }
        // A put that found no room to seal a full section left that to whoever makes room.
        if let Err(error) = self.writer.seal_full(&mut state) {
            tracing::warn!(error = %error.report(), "sealing a pack failed");
        }
        drop(state);
        self.writer.ended.send_replace(());
    }
}
