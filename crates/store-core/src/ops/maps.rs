//! Image maps of published checkpoints: written for what a publish added, folded so that an image names few.
//!
//! **Folding**: an image names at most four maps. When a publish would make them five, the newest become one, and
//! with them those behind that are not much larger than what was folded already. So sizes grow like powers, each
//! row is written anew a few times only, however many checkpoints there are, and the large map of an image's
//! first checkpoint is hardly ever read. Lengths are asked for first: only what is folded is fetched.
//!
//! **Memory**: a map that is made takes its own length, a fold at most [`FOLD_MAX`] twice. Maps too large to be
//! folded stay as they are; if no room can be made, the smallest goes: it is a hint, and what it told is asked
//! of the locators.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    CheckpointId, ChunkId, ChunkKind, ErrorKind, NodeId, Result, Store,
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

/// A map that was written.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewMap {
    id: MapId,
    len: u64,
}

/// Writes a map of a checkpoint's new nodes and its chunks; `None` if the store keeps nothing in packs.
pub(super) async fn write(
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
    if map.is_empty() { Ok(None) } else { put(store, map).await.map(Some) }
}

fn in_order(chunks: &[(u64, ChunkId)]) -> Cow<'_, [(u64, ChunkId)]> {
    let mut chunks = Cow::Borrowed(chunks);
    if !chunks.is_sorted_by_key(|(block, _)| *block) {
        chunks.to_mut().sort_unstable_by_key(|(block, _)| *block);
    }
    chunks
}

async fn put(store: &Store, map: MapWriter) -> Result<NewMap> {
    let id = MapId::random()?;
    let bytes = Bytes::from(map.finish(id)?);
    let len = bytes.len() as u64;
    store.index.put_map(id, bytes).await?;
    Ok(NewMap { id, len })
}

/// Adds a map to a record as its newest, folding some if there are too many; returns the maps that are named
/// no more.
pub(super) async fn add(store: &Store, record: &mut ImageRecord, map: Option<NewMap>) -> Result<Vec<MapId>> {
    let Some(map) = map else { return Ok(Vec::new()) };
    record.maps.insert(0, map.id);
    if record.maps.len() <= ImageRecord::MAX_MAPS {
        return Ok(Vec::new());
    }
    let mut lens = vec![map.len];
    for id in &record.maps[1..] {
        // One that is gone leads nowhere: it is folded away.
        lens.push(match store.index.map_len(*id).await {
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            len => len?,
        });
    }
    match run_to_fold(&lens) {
        Some(run) => {
            let folded = fold(store, record, &record.maps[run.clone()]).await?;
            Ok(record.maps.splice(run, [folded.id]).collect())
        }
        None => {
            let smallest = (0..lens.len()).min_by_key(|at| lens[*at]).unwrap_or(0);
            Ok(vec![record.maps.remove(smallest)])
        }
    }
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

/// One map of several, newest first; where two tell of one thing the newer one counts.
async fn fold(store: &Store, record: &ImageRecord, maps: &[MapId]) -> Result<NewMap> {
    let mut sources = Vec::with_capacity(maps.len());
    for id in maps {
        let opened = match store.index.get_map(*id).await {
            Ok(bytes) => ImageMap::of(&bytes).map(|map| (map, bytes)),
            Err(e) => Err(e),
        };
        match opened {
            Ok(source) => sources.push(source),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                tracing::warn!("image '{}': a map is dropped: {}", record.name, e.report());
            }
            Err(e) => return Err(e),
        }
    }
    let chunks = sources.iter().map(|(map, _)| map.header().chunks as usize).sum();
    let mut folded = MapWriter::new(chunks);
    let mut nodes = Vec::new();
    for (map, bytes) in &sources {
        match map.all_nodes(bytes) {
            Ok(more) => nodes.extend(more),
            Err(e) => tracing::warn!("image '{}': nodes of a map are dropped: {}", record.name, e.report()),
        }
    }
    // Stable, so that the newer one stays in front.
    nodes.sort_by_key(|(key, _)| *key);
    nodes.dedup_by_key(|(key, _)| *key);
    nodes.iter().try_for_each(|(key, place)| folded.node(*key, place))?;

    let mut rows: Vec<_> = sources
        .iter()
        .map(|(map, bytes)| {
            // A page that is damaged is left out.
            map.all_chunks(bytes).flat_map(Result::unwrap_or_default).peekable()
        })
        .collect();
    loop {
        let heads = rows.iter_mut().filter_map(|rows| rows.peek().map(|row| row.first_block));
        let Some(block) = heads.min() else { break };
        let mut newest = None;
        for rows in &mut rows {
            // Rows of damaged order must not hold up the rest.
            while let Some(row) = rows.next_if(|row| row.first_block <= block) {
                newest = newest.or(Some(row));
            }
        }
        if let Some(row) = newest {
            folded.chunk(&row)?;
        }
    }
    put(store, folded).await
}
