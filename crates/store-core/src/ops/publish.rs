//! Giving a checkpoint a name, in the order that keeps a name from ever pointing at missing data.
//!
//! 1. The store syncs: everything put or found present is durable.
//! 2. One CAS of the catalog adds the locators, the checkpoint as a pending root, and the pin of the volume
//!    that is about to stand on it. It counts only if nothing was condemned since "is it there?" was answered.
//! 3. The image record takes the checkpoint by CAS.
//! 4. The pending root goes, now that the record holds the checkpoint; so do those that earlier publishes left behind.
//!
//! **Requests**: beside what the sync sends, a publish costs a map and three CAS. The first attempt at each
//! CAS starts from what this handle last read or wrote; only one that was lost, or an answer that would be
//! final, reads afresh. So a stale memory costs a request and never decides anything.
//!
//! **Killed in between**: after 1, entries that nothing names. After 2, a root and perhaps a pin too many;
//! they hold what is there, and the next publish of the volume drops the pin. After 3, the image has
//! the checkpoint and the pending root is one root too many. So a name leads to data that was
//! durable and a root before the name was.
//!
//! Publishes of one checkpoint to one image each have a root of their own, so that one that fails takes none from the
//! other. All of them go once the record holds the checkpoint; if the image is removed then, before the other has
//! noticed, that one gives back a name that had no root for a moment: a collector must mark again before it deletes.
//!
//! **Pins**: a volume's new base is pinned in step 2, so before the volume's record names it, and the base it
//! stands on meanwhile stays pinned until the *next* publish: whichever of the two the record names after a
//! crash is a root. All other pins of the volume go in the same CAS. They are of publishes that failed, or
//! of bases that its record, which is saved before the next publish begins, has left behind.
//!
//! **Epochs**: who takes an image over for writing puts a new epoch into its record ([`claim`]) and publishes with
//! it. The epoch is compared in the record whose version the CAS compares, so that a displaced writer can't
//! publish from the moment of the claim on. Epochs are drawn at random, so that none ever has two owners, even if the
//! image is removed and made anew.

use futures::future::try_join;

use super::maps::{self, NewMap};
use crate::{
    CheckpointId, ChunkId, ChunkKind, Error, ErrorKind, ImageName, NodeId, Result, Store,
    clock::{Clock, Timestamp},
    format::{
        catalog::{Catalog, PendingRoot, Pin, Replaced},
        checkpoint::Checkpoint,
        image_record::{HistoryEntry, ImageRecord},
    },
    store::{Synced, Version, Versioned},
    types::{MapId, VolumeId, WriteId},
};

/// Attempts at one compare-and-swap; each lost one means that someone else made progress.
pub(super) const ATTEMPTS: usize = 64;

/// A checkpoint to be named.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    /// The image that gets it as its newest.
    pub image: &'a ImageName,
    /// The checkpoint, stored with [`store_checkpoint`].
    pub checkpoint: CheckpointId,
    /// Its disk's size, in bytes.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// New index nodes, for the image map.
    pub nodes: &'a [NodeId],
    /// Chunks it refers to that its parent may not, by first block in disk order, for the image map.
    pub chunks: &'a [(u64, ChunkId)],
    /// Fail with `AlreadyExists` if the image is there, rather than append to it.
    pub create: bool,
    /// Fail with `Conflict` unless this checkpoint is the image's newest.
    pub after: Option<CheckpointId>,
    /// The epoch under which this writer owns the image, from [`claim`], or from [`new_epoch`] if it makes it. `Conflict`
    /// if the image has another by now; one that is gone is made anew, under this epoch. Without one the checkpoint is
    /// appended and the epoch stays.
    pub epoch: Option<u64>,
    /// The volume that will stand on the checkpoint.
    pub pin: Option<NewBase>,
    /// If this makes the image: another of the store that it goes on from. Its maps and its boot trace, which tell
    /// of what they have in common, are the new image's, too.
    pub maps_of: Option<&'a ImageName>,
    /// A boot trace that the store holds, for an image that has none.
    pub boot_trace: Option<MapId>,
}

/// A volume that is about to change its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewBase {
    /// The volume.
    pub volume: VolumeId,
    /// What it stands on until then: stays pinned, as the new base will be. The volume's other pins go.
    pub base: Option<CheckpointId>,
}

impl<'a> Publish<'a> {
    /// Appends `entry`, whatever is there, with no image map.
    pub fn append(image: &'a ImageName, entry: HistoryEntry) -> Self {
        Self {
            image,
            checkpoint: entry.checkpoint,
            size: entry.size,
            created: entry.created,
            nodes: &[],
            chunks: &[],
            create: false,
            after: None,
            epoch: None,
            pin: None,
            maps_of: None,
            boot_trace: None,
        }
    }

    fn entry(&self) -> HistoryEntry {
        HistoryEntry { checkpoint: self.checkpoint, size: self.size, created: self.created }
    }
}

/// A named checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The image's record as it was written.
    pub record: ImageRecord,
}

/// Stores a checkpoint as an entry; it is not durable before the next sync.
pub async fn store_checkpoint(store: &Store, checkpoint: &Checkpoint) -> Result<CheckpointId> {
    let (id, bytes) = checkpoint.encode()?;
    store.chunks.put(ChunkKind::Checkpoint, vec![(id.as_chunk(), bytes.into())]).await?;
    Ok(id)
}

/// Names a stored checkpoint. On success it is durable and readable under its name.
///
/// **Errors**: `Conflict` if entries that this writer relied on were condemned meanwhile (everything has
/// to be put again), if another writer took the image over, or if the image has another newest checkpoint
/// than it must have. After any error the image is as it was, unless the error is `Unavailable` and the
/// store's answer to the last step was lost. **Cancel safety**: the image is as before or as after.
pub async fn publish(store: &Store, clock: &dyn Clock, what: Publish<'_>) -> Result<Published> {
    let synced = store.chunks.sync().await?;
    let now = clock.now();
    let mut pending = PendingRoot { checkpoint: what.checkpoint, image: what.image.clone(), since: now };
    let named = change_catalog(store, |catalog| {
        add_locators(catalog, &synced)?;
        pending.since = now;
        add_root(catalog, &mut pending);
        if let Some(NewBase { volume, base }) = what.pin {
            let kept = |pin: &Pin| pin.checkpoint == what.checkpoint || Some(pin.checkpoint) == base;
            catalog.pins.retain(|pin| pin.owner != volume || kept(pin));
            add_pin(catalog, Pin { owner: volume, checkpoint: what.checkpoint, since: now });
        }
        Ok(())
    });
    // The record waits for the catalog; what it takes to write it does not.
    let ((), first) = try_join(named, Draft::prepare(store, what)).await?;
    let changed = change_image(store, what, first).await;
    if let Err(error) = &changed
        && error.kind() == ErrorKind::Unavailable
    {
        // The record may hold the checkpoint: it has to stay a root.
        return Err(error.clone());
    }
    let tidied = change_catalog(store, |catalog| {
        let held = |root: &PendingRoot| {
            root.image == pending.image && changed.as_ref().is_ok_and(|(r, _)| has(r, root))
        };
        catalog.pending.retain(|root| *root != pending && !held(root));
        let replaced = changed.iter().flat_map(|(_, replaced)| replaced);
        catalog.retire(replaced.map(|map| Replaced::Map(*map, clock.now())));
        Ok(())
    })
    .await;
    // The image is published or not, whatever became of this: a root too many holds nothing up.
    if let Err(error) = tidied {
        tracing::warn!("image '{}': a pending root stays: {}", what.image, error.report());
    }
    changed.map(|(record, _)| Published { record })
}

/// Whether an image's record has taken a pending root, of this publish or of one whose last step was lost.
fn has(record: &ImageRecord, root: &PendingRoot) -> bool {
    record.history.iter().any(|entry| entry.checkpoint == root.checkpoint)
}

/// Adds a root of this publish's own: one of the same checkpoint that fails takes its own away, and no other's. The
/// time tells them apart.
fn add_root(catalog: &mut Catalog, root: &mut PendingRoot) {
    loop {
        match catalog.pending.binary_search_by(|other| other.key().cmp(&root.key())) {
            Ok(_) => root.since.0 += 1,
            Err(at) => return catalog.pending.insert(at, root.clone()),
        }
    }
}

fn add_locators(catalog: &mut Catalog, synced: &Synced) -> Result<()> {
    if synced.answered_under.is_some_and(|generation| generation != catalog.condemn_generation) {
        return Err(Error::new(
            ErrorKind::Conflict,
            "chunks that this operation relied on were collected meanwhile: run it again",
        ));
    }
    catalog.add_locators(&synced.locators);
    Ok(())
}

/// What a publish finds in the image's record.
enum Fits {
    /// The checkpoint goes on top.
    Yes,
    /// It is there already, as the newest.
    Done,
}

/// Whether a record takes the checkpoint.
fn fits(found: Option<&ImageRecord>, what: &Publish<'_>) -> Result<Fits> {
    let name = what.image;
    let newest = found.and_then(|record| record.history.first()).map(|newest| newest.checkpoint);
    if what.create && found.is_some() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("image '{name}' exists already")));
    }
    if what.epoch.is_some_and(|epoch| found.is_some_and(|record| record.writer_epoch != epoch)) {
        return Err(displaced(name));
    }
    if newest == Some(what.checkpoint) {
        return Ok(Fits::Done);
    }
    if what.after.is_some_and(|after| newest != Some(after)) {
        return Err(Error::new(ErrorKind::Conflict, format!("image '{name}' was changed by someone else")));
    }
    Ok(Fits::Yes)
}

fn displaced(image: &ImageName) -> Error {
    let why = format!(
        "displaced: another writer took over image '{image}'; your data is kept: publish it under another name"
    );
    Error::new(ErrorKind::Conflict, why)
}

/// What the first attempt at a record starts from.
struct Draft {
    /// The record as it was recalled.
    found: Option<Versioned<ImageRecord>>,
    map: Option<NewMap>,
}

impl Draft {
    async fn prepare(store: &Store, what: Publish<'_>) -> Result<Self> {
        let found = store.index.recall_image(what.image).await?;
        let mut map = match what {
            // The other image's maps tell of all of it.
            Publish { nodes: [], chunks: [], maps_of: Some(_), pin: None, .. } => None,
            _ => maps::make(store, what.checkpoint, what.nodes, what.chunks).await?,
        };
        let maps = match &found {
            Some(found) => found.value.maps.len(),
            // Those of the other image come to it.
            None => what.maps_of.map_or(0, |_| ImageRecord::MAX_MAPS),
        };
        if let Some(map) = map.as_mut().filter(|_| maps < ImageRecord::MAX_MAPS) {
            map.store(store).await?;
        }
        Ok(Self { found, map })
    }
}

async fn change_image(store: &Store, what: Publish<'_>, first: Draft) -> Result<(ImageRecord, Vec<MapId>)> {
    let Draft { mut found, mut map } = first;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            found = store.index.read_image(what.image).await?;
        }
        let mut fit = fits(found.as_ref().map(|found| &found.value), &what);
        if attempt == 0 && !matches!(fit, Ok(Fits::Yes)) {
            // What was recalled may be old, and decides nothing.
            found = store.index.read_image(what.image).await?;
            fit = fits(found.as_ref().map(|found| &found.value), &what);
        }
        let done = matches!(fit?, Fits::Done);
        let mut record = match &found {
            Some(found) => found.value.clone(),
            None => {
                let (maps, boot_trace) = inherited(store, what.maps_of).await?;
                ImageRecord {
                    name: what.image.clone(),
                    history: Vec::new(),
                    maps,
                    boot_trace,
                    writer_epoch: what.epoch.unwrap_or(0),
                    write_id: WriteId::random()?,
                }
            }
        };
        if done {
            store.index.settle().await?;
            return Ok((record, what.boot_trace.into_iter().collect()));
        }
        record.history.insert(0, what.entry());
        // There is nothing better to be had by refusing: replication, and flushes that wait for it, would end for good.
        for gone in record.history.drain(ImageRecord::MAX_HISTORY.min(record.history.len())..) {
            tracing::warn!("the history of image '{}' is full: {} leaves it", what.image, gone.checkpoint);
        }
        let mut replaced = maps::add(store, &mut record, map.as_mut()).await?;
        match record.boot_trace {
            None => record.boot_trace = what.boot_trace,
            Some(_) => replaced.extend(what.boot_trace),
        }
        match write_record(store, &mut record, found.as_ref().map(|found| &found.version)).await {
            Ok(()) => return Ok((record, replaced)),
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists) => {}
            Err(e) => return Err(e),
        }
    }
    Err(busy(&format!("image '{}'", what.image)))
}

/// The maps and the boot trace of an image that another goes on from. Hints: an image that is gone has none.
async fn inherited(store: &Store, from: Option<&ImageName>) -> Result<(Vec<MapId>, Option<MapId>)> {
    let Some(from) = from else { return Ok((Vec::new(), None)) };
    let found = store.index.recall_image(from).await?;
    Ok(found.map_or_else(Default::default, |found| (found.value.maps, found.value.boot_trace)))
}

/// Writes a record under a new write id. If the store's answer is lost, the id tells whether it was written.
async fn write_record(store: &Store, record: &mut ImageRecord, expected: Option<&Version>) -> Result<()> {
    record.write_id = WriteId::random()?;
    let Err(error) = store.index.write_image(record, expected).await else { return Ok(()) };
    if error.kind() == ErrorKind::Unavailable
        && let Ok(Some(found)) = store.index.read_image(&record.name).await
        && found.value.write_id == record.write_id
    {
        return Ok(());
    }
    Err(error)
}

/// An epoch that no writer has had, from 1 to 2⁵³ - 1: numbers that JSON readers keep.
pub fn new_epoch() -> Result<u64> {
    let random = u128::from_le_bytes(*WriteId::random()?.as_bytes()) as u64;
    Ok((random >> 11).max(1))
}

/// Takes an image over for writing: gives it a new writer epoch and returns that. From then on whoever publishes to
/// it with another is told that he was displaced.
///
/// **Errors**: `NotFound` if there is no such image: its writer makes it, with a [`new_epoch`]. **Cancel safety**: the
/// epoch may have been changed, which displaces the writer before.
pub async fn claim(store: &Store, image: &ImageName) -> Result<u64> {
    for attempt in 0..ATTEMPTS {
        let found = match attempt {
            0 => store.index.recall_image(image).await?,
            _ => store.index.read_image(image).await?,
        };
        let found = match found {
            None if attempt == 0 => store.index.read_image(image).await?,
            found => found,
        };
        let Some(found) = found else {
            return Err(Error::not_found(format!("there is no image '{image}'")));
        };
        match claim_as_found(store, found).await {
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            claimed => return claimed,
        }
    }
    Err(busy(&format!("image '{image}'")))
}

/// As [`claim`], if the image is still as it was found, else `Conflict`.
pub async fn claim_as_found(store: &Store, found: Versioned<ImageRecord>) -> Result<u64> {
    let Versioned { value: mut record, version } = found;
    record.writer_epoch = new_epoch()?;
    write_record(store, &mut record, Some(&version)).await?;
    Ok(record.writer_epoch)
}

/// Makes a checkpoint a root of its store for as long as a volume stands on it. What was put or found
/// present before is durable and named with it, as by [`publish`].
pub async fn pin(store: &Store, clock: &dyn Clock, owner: VolumeId, checkpoint: CheckpointId) -> Result<()> {
    let synced = store.chunks.sync().await?;
    let pin = Pin { owner, checkpoint, since: clock.now() };
    change_catalog(store, |catalog| {
        add_locators(catalog, &synced)?;
        add_pin(catalog, pin.clone());
        Ok(())
    })
    .await
}

/// Makes everything put so far durable and known to every handle of the store, though no name leads to it yet. Not
/// more than that: a collector may take it again after its grace.
pub(super) async fn name_entries(store: &Store) -> Result<()> {
    let synced = store.chunks.sync().await?;
    if synced.locators.is_empty() {
        return Ok(());
    }
    change_catalog(store, |catalog| add_locators(catalog, &synced)).await
}

fn add_pin(catalog: &mut Catalog, pin: Pin) {
    let key = (pin.owner, pin.checkpoint);
    if let Err(at) = catalog.pins.binary_search_by_key(&key, |pin| (pin.owner, pin.checkpoint)) {
        catalog.pins.insert(at, pin);
    }
}

/// Drops a volume's pins but the one on `keep`.
pub async fn unpin(store: &Store, owner: VolumeId, keep: Option<CheckpointId>) -> Result<()> {
    change_catalog(store, |catalog| {
        catalog.pins.retain(|pin| pin.owner != owner || Some(pin.checkpoint) == keep);
        Ok(())
    })
    .await
}

/// Changes the catalog by CAS, as often as it takes. Writes nothing if nothing changes; what is there then is durable,
/// too.
pub(super) async fn change_catalog(
    store: &Store,
    mut change: impl FnMut(&mut Catalog) -> Result<()>,
) -> Result<()> {
    for attempt in 0..ATTEMPTS {
        let recalled = attempt == 0;
        let found =
            if recalled { store.index.recall_catalog().await? } else { store.index.read_catalog().await? };
        let mut catalog = found.value.clone();
        let changed = change(&mut catalog);
        if recalled && (changed.is_err() || catalog == found.value) {
            // What was recalled may be old, and decides nothing.
            continue;
        }
        changed?;
        if catalog == found.value {
            return store.index.settle().await;
        }
        catalog.write_id = WriteId::random()?;
        match store.index.write_catalog(&catalog, &found.version).await {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            Err(e) => return Err(e),
        }
    }
    Err(busy("the catalog"))
}

pub(super) fn busy(what: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("{what} was changed by others {ATTEMPTS} times in a row: try again"),
    )
}

#[cfg(test)]
mod tests;
