//! Image maps of published checkpoints: written for what a publish added, folded so that an image names few.
//!
//! **Folding**: an image names at most four maps. When a publish would make them five, the newest become one, and
//! with them those behind that are not much larger than what was folded already. So sizes grow like powers, each
//! row is written anew a few times only, however many checkpoints there are, and the large map of an image's
//! first checkpoint is hardly ever read. Lengths are asked for first: only what is folded is fetched.
//!
//! A new map that is folded at once is not stored by itself.
//!
//! **Memory**: a map that is made takes its own length, a fold at most [`FOLD_MAX`] twice. Maps too large to be
//! folded stay as they are; if no room can be made, the smallest goes: it is a hint, and what it told is asked
//! of the locators.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    CheckpointId, ChunkId, ChunkKind, Error, ErrorKind, ImageName, NodeId, Result, Store,
    blocking::spawn_blocking,
    format::{
        image_map::{ImageMap, MapWriter, MappedChunk},
        image_record::ImageRecord,
        rows::EntryKey,
    },
    types::MapId,
};

#[cfg(test)]
mod tests;

/// Entries whose places are asked for at a time.
const BATCH: usize = 4096;
/// Most bytes of maps that are folded into one.
const FOLD_MAX: u64 = 32 << 20;
/// A map is folded along if it is at most so many times as large as all that is newer.
const FOLD_ALONG: u64 = 4;

/// A new map.
#[derive(Clone, Debug)]
pub(super) struct NewMap {
    id: MapId,
    bytes: Bytes,
    stored: bool,
}

impl NewMap {
    fn new(map: MapWriter) -> Result<Self> {
        let id = MapId::random()?;
        Ok(Self { id, bytes: map.finish(id)?.into(), stored: false })
    }

    /// Stores the map, unless it is.
    pub(super) async fn store(&mut self, store: &Store) -> Result<MapId> {
        if !self.stored {
            store.index.put_map(self.id, self.bytes.clone()).await?;
            self.stored = true;
        }
        Ok(self.id)
    }
}

/// Makes a map of a checkpoint's new nodes and its chunks; `None` if the store keeps nothing in packs.
pub(super) async fn make(
    store: &Store,
    checkpoint: CheckpointId,
    nodes: &[NodeId],
    chunks: &[(u64, ChunkId)],
) -> Result<Option<NewMap>> {
    let mut map = MapWriter::new(chunks.len());
    let mut rows = Vec::with_capacity(nodes.len() + 1);
    for ids in nodes.chunks(BATCH) {
        let ids: Vec<_> = ids.iter().map(NodeId::as_chunk).collect();
        let places = store.chunks.locate(ChunkKind::Node, &ids).await?;
        let placed = ids.iter().zip(places);
        rows.extend(placed.filter_map(|(id, place)| Some((EntryKey::new(ChunkKind::Node, *id), place?))));
    }
    let id = checkpoint.as_chunk();
    let place = store.chunks.locate(ChunkKind::Checkpoint, &[id]).await?.pop().flatten();
    rows.extend(place.map(|place| (EntryKey::new(ChunkKind::Checkpoint, id), place)));
    rows.sort_unstable_by_key(|(key, _)| *key);
    rows.dedup_by_key(|(key, _)| *key);
    rows.iter().try_for_each(|(key, place)| map.node(*key, place))?;

    let mut last = None;
    for batch in in_order(chunks).chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|(_, id)| *id).collect();
        let places = store.chunks.locate(ChunkKind::Data, &ids).await?;
        for (&(first_block, id), place) in batch.iter().zip(places) {
            // What has no place is asked of the locators.
            if let Some(placement) = place.filter(|_| last < Some(first_block)) {
                map.chunk(&MappedChunk { first_block, id, placement })?;
                last = Some(first_block);
            }
        }
    }
    if map.is_empty() { Ok(None) } else { blocking(move || NewMap::new(map)).await.map(Some) }
}

fn in_order(chunks: &[(u64, ChunkId)]) -> Cow<'_, [(u64, ChunkId)]> {
    let mut chunks = Cow::Borrowed(chunks);
    if !chunks.is_sorted_by_key(|(block, _)| *block) {
        chunks.to_mut().sort_unstable_by_key(|(block, _)| *block);
    }
    chunks
}

/// Adds a map to a record as its newest, folding some if there are too many; returns the maps that are named
/// no more.
pub(super) async fn add(
    store: &Store,
    record: &mut ImageRecord,
    map: Option<&mut NewMap>,
) -> Result<Vec<MapId>> {
    let Some(new) = map else { return Ok(Vec::new()) };
    if record.maps.len() < ImageRecord::MAX_MAPS {
        record.maps.insert(0, new.store(store).await?);
        return Ok(Vec::new());
    }
    let mut lens = vec![new.bytes.len() as u64];
    for id in &record.maps {
        // One that is gone leads nowhere: it is folded away.
        lens.push(match store.index.map_len(*id).await {
            Err(e) if is_lost(&e) => 0,
            len => len?,
        });
    }
    let Some(run) = run_to_fold(&lens) else {
        // There is no room for the smallest.
        let smallest = (0..lens.len()).min_by_key(|at| lens[*at]).unwrap_or(0);
        if smallest == 0 {
            return Ok(Vec::new());
        }
        let gone = record.maps.remove(smallest - 1);
        record.maps.insert(0, new.store(store).await?);
        return Ok(vec![gone]);
    };
    let with_new = run.start == 0;
    let old = run.start.saturating_sub(1)..run.end - 1;
    let mut sources: Vec<_> = with_new.then(|| new.bytes.clone()).into_iter().collect();
    for id in &record.maps[old.clone()] {
        match store.index.get_map(*id).await {
            Err(e) if is_lost(&e) => tracing::warn!("image '{}' lost a map: {}", record.name, e.report()),
            map => sources.push(map?),
        }
    }
    let image = record.name.clone();
    let folded = blocking(move || fold(&image, &sources)).await?.store(store).await?;
    let replaced = record.maps.splice(old, [folded]).collect();
    if !with_new {
        record.maps.insert(0, new.store(store).await?);
    }
    Ok(replaced)
}

/// Large maps take some hundredths of a second, which a runtime's own threads don't have.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let died = |e| Error::with_source(ErrorKind::Unavailable, "a worker of the publish died", e);
    spawn_blocking(work).await.map_err(died)?
}

fn is_lost(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt)
}

/// Which of the maps of these lengths, newest first, are to be one; `None` if that is too much for any two.
fn run_to_fold(lens: &[u64]) -> Option<std::ops::Range<usize>> {
    let sum = |run: std::ops::Range<usize>| lens[run].iter().fold(0_u64, |sum, len| sum.saturating_add(*len));
    // A new map that is much larger than the one before it has nothing to do with the small ones.
    let start = usize::from(lens.len() > 2 && lens[0] > FOLD_ALONG.saturating_mul(lens[1]));
    if sum(start..start + 2) > FOLD_MAX {
        let pairs = (0..lens.len() - 1).map(|at| at..at + 2);
        return pairs.min_by_key(|pair| sum(pair.clone())).filter(|pair| sum(pair.clone()) <= FOLD_MAX);
    }
    let mut run = start..start + 2;
    while let Some(next) = lens.get(run.end) {
        let along = *next <= FOLD_ALONG * sum(run.clone()) && sum(run.start..run.end + 1) <= FOLD_MAX;
        if !along {
            break;
        }
        run.end += 1;
    }
    Some(run)
}

/// One map of several, newest first; where two tell of one thing the newer one counts. What is damaged is left out.
fn fold(image: &ImageName, maps: &[Bytes]) -> Result<NewMap> {
    let mut sources = Vec::with_capacity(maps.len());
    for bytes in maps {
        match ImageMap::of(bytes) {
            Ok(map) => sources.push((map, bytes)),
            Err(e) => tracing::warn!("image '{image}' lost a map: {}", e.report()),
        }
    }
    let chunks = sources.iter().map(|(map, _)| map.header().chunks as usize).sum();
    let mut folded = MapWriter::new(chunks);
    let mut nodes = Vec::new();
    for (map, bytes) in &sources {
        match map.all_nodes(bytes) {
            Ok(more) => nodes.extend(more),
            Err(e) => tracing::warn!("image '{image}' lost nodes of a map: {}", e.report()),
        }
    }
    // Stable, so that the newer one stays in front.
    nodes.sort_by_key(|(key, _)| *key);
    nodes.dedup_by_key(|(key, _)| *key);
    let mut refused = nodes.iter().filter(|(key, place)| folded.node(*key, place).is_err()).count();

    let mut rows: Vec<_> = sources
        .iter()
        .map(|(map, bytes)| map.all_chunks(bytes).flat_map(Result::unwrap_or_default).peekable())
        .collect();
    loop {
        let heads = rows.iter_mut().filter_map(|rows| rows.peek().map(|row| row.first_block));
        let Some(block) = heads.min() else { break };
        let mut newest = None;
        for rows in &mut rows {
            while let Some(row) = rows.next_if(|row| row.first_block <= block) {
                newest = newest.or(Some(row));
            }
        }
        // What is out of order or out of bounds was in a damaged map.
        refused += usize::from(newest.is_some_and(|row| folded.chunk(&row).is_err()));
    }
    if refused > 0 {
        tracing::warn!("image '{image}' lost {refused} rows of its maps, which are damaged");
    }
    NewMap::new(folded)
}
