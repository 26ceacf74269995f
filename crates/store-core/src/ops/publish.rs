//! Giving a checkpoint a name, in the order that keeps a name from ever pointing at missing data.
//!
//! 1. The store syncs: everything put or found present is durable.
//! 2. One CAS of the catalog adds the locators and the checkpoint as a pending root. It counts only if
//!    nothing was condemned since "is it there?" was answered.
//! 3. The image record takes the checkpoint by CAS.
//! 4. The pending root goes, now that the record holds the checkpoint.

use crate::{
    CheckpointId, ChunkId, ChunkKind, Error, ErrorKind, ImageName, NodeId, Result, Store,
    clock::{Clock, Timestamp},
    format::{
        catalog::{Catalog, PendingRoot, Pin, Replaced},
        checkpoint::Checkpoint,
        image_record::{HistoryEntry, ImageRecord},
    },
    store::Synced,
    types::{VolumeId, WriteId},
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
/// **Errors**: `Conflict` if entries that this writer relied on were condemned meanwhile: everything has
/// to be put again. After any error the image is as it was, unless the store's answer to the last step was
/// lost. **Cancel safety**: the image is as before or as after.
pub async fn publish(store: &Store, clock: &dyn Clock, what: Publish<'_>) -> Result<Published> {
    let synced = store.chunks.sync().await?;
    let pending = PendingRoot { checkpoint: what.checkpoint, image: what.image.clone(), since: clock.now() };
    change_catalog(store, |catalog| {
        add_locators(catalog, &synced)?;
        let at = catalog.pending.binary_search_by(|root| pending_key(root).cmp(&pending_key(&pending)));
        if let Err(at) = at {
            catalog.pending.insert(at, pending.clone());
        }
        Ok(())
    })
    .await?;
    let map = super::maps::write(store, what.checkpoint, what.nodes, what.chunks).await?;
    let changed = change_image(store, what, map).await;
    if let Err(error) = &changed
        && error.kind() == ErrorKind::Unavailable
    {
        // The record may hold the checkpoint: it has to stay a root.
        return Err(error.clone());
    }
    let tidied = change_catalog(store, |catalog| {
        catalog.pending.retain(|root| pending_key(root) != pending_key(&pending));
        let replaced = changed.iter().flat_map(|(_, replaced)| replaced);
        // What finds no room stays as an orphan; a catalog that is full must not end all publishing.
        for map in replaced.take(Catalog::MAX_LIST.saturating_sub(catalog.replaced.len())) {
            catalog.replaced.push(Replaced::Map(*map, clock.now()));
        }
        Ok(())
    })
    .await;
    // The image is published or not, whatever became of this: a root too many holds nothing up.
    if let Err(error) = tidied {
        tracing::warn!("image '{}': a pending root stays: {}", what.image, error.report());
    }
    changed.map(|(record, _)| Published { record })
}

fn pending_key(root: &PendingRoot) -> (&str, CheckpointId) {
    (root.image.as_str(), root.checkpoint)
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

async fn change_image(
    store: &Store,
    what: Publish<'_>,
    map: Option<crate::types::MapId>,
) -> Result<(ImageRecord, Vec<crate::types::MapId>)> {
    let entry = HistoryEntry { checkpoint: what.checkpoint, size: what.size, created: what.created };
    for _ in 0..ATTEMPTS {
        let found = store.index.read_image(what.image).await?;
        let mut record = match &found {
            Some(found) if what.create => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("image '{}' exists already", found.value.name),
                ));
            }
            Some(found) => found.value.clone(),
            None => ImageRecord {
                name: what.image.clone(),
                history: Vec::new(),
                maps: Vec::new(),
                boot_trace: None,
                writer_epoch: 0,
                write_id: WriteId::random()?,
            },
        };
        if record.history.first().is_some_and(|newest| newest.checkpoint == what.checkpoint) {
            return Ok((record, Vec::new()));
        }
        record.history.insert(0, entry);
        let replaced = super::maps::add(store, &mut record, map).await?;
        record.write_id = WriteId::random()?;
        match store.index.write_image(&record, found.as_ref().map(|found| &found.version)).await {
            Ok(_) => return Ok((record, replaced)),
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists) => {}
            Err(e) => return Err(e),
        }
    }
    Err(busy(&format!("image '{}'", what.image)))
}

/// Makes a checkpoint a root of its store for as long as a volume stands on it. What was put or found
/// present before is durable and named with it, as by [`publish`].
pub async fn pin(store: &Store, clock: &dyn Clock, owner: VolumeId, checkpoint: CheckpointId) -> Result<()> {
    let synced = store.chunks.sync().await?;
    let pin = Pin { owner, checkpoint, since: clock.now() };
    change_catalog(store, |catalog| {
        add_locators(catalog, &synced)?;
        if let Err(at) =
            catalog.pins.binary_search_by_key(&(owner, checkpoint), |pin| (pin.owner, pin.checkpoint))
        {
            catalog.pins.insert(at, pin.clone());
        }
        Ok(())
    })
    .await
}

/// Drops a volume's pins but the one on `keep`.
pub async fn unpin(store: &Store, owner: VolumeId, keep: Option<CheckpointId>) -> Result<()> {
    change_catalog(store, |catalog| {
        catalog.pins.retain(|pin| pin.owner != owner || Some(pin.checkpoint) == keep);
        Ok(())
    })
    .await
}

/// Changes the catalog by CAS, as often as it takes. Writes nothing if nothing changes.
pub(super) async fn change_catalog(
    store: &Store,
    mut change: impl FnMut(&mut Catalog) -> Result<()>,
) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let found = store.index.read_catalog().await?;
        let mut catalog = found.value.clone();
        change(&mut catalog)?;
        if catalog == found.value {
            return Ok(());
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
