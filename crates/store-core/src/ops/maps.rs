//! Image maps of published checkpoints: written for what a publish added, folded so that an image names few.

use std::collections::BTreeMap;

use crate::{
    CheckpointId, ChunkId, ChunkKind, NodeId, Result, Store,
    format::{
        image_map::{self, MappedChunk},
        image_record::ImageRecord,
        rows::EntryKey,
    },
    store::Placement,
    types::MapId,
};

/// Entries whose places are asked for at a time.
const BATCH: usize = 4096;

/// Nodes and chunks of a map that is being made, by key and by first block.
#[derive(Default)]
struct Rows {
    nodes: BTreeMap<EntryKey, Placement>,
    chunks: BTreeMap<u64, MappedChunk>,
}

/// Writes a map of a checkpoint's new nodes and its chunks; `None` if the store keeps nothing in packs.
pub(super) async fn write(
    store: &Store,
    checkpoint: CheckpointId,
    nodes: &[NodeId],
    chunks: &[(u64, ChunkId)],
) -> Result<Option<MapId>> {
    let mut rows = Rows::default();
    add_nodes(&mut rows, store, ChunkKind::Checkpoint, &[checkpoint.as_chunk()]).await?;
    let ids: Vec<_> = nodes.iter().map(NodeId::as_chunk).collect();
    add_nodes(&mut rows, store, ChunkKind::Node, &ids).await?;
    for batch in chunks.chunks(BATCH) {
        let ids: Vec<_> = batch.iter().map(|(_, id)| *id).collect();
        let places = store.chunks.locate(ChunkKind::Data, &ids).await?;
        for (&(first_block, id), place) in batch.iter().zip(places) {
            // A map is a hint: what has no place is asked of the locators.
            if let Some(placement) = place {
                rows.chunks.insert(first_block, MappedChunk { first_block, id, placement });
            }
        }
    }
    if rows.nodes.is_empty() && rows.chunks.is_empty() { Ok(None) } else { put(store, &rows).await.map(Some) }
}

async fn add_nodes(rows: &mut Rows, store: &Store, kind: ChunkKind, ids: &[ChunkId]) -> Result<()> {
    for batch in ids.chunks(BATCH) {
        let places = store.chunks.locate(kind, batch).await?;
        let placed =
            batch.iter().zip(places).filter_map(|(id, place)| Some((EntryKey::new(kind, *id), place?)));
        rows.nodes.extend(placed);
    }
    Ok(())
}

async fn put(store: &Store, rows: &Rows) -> Result<MapId> {
    let id = MapId::random()?;
    let nodes: Vec<_> = rows.nodes.iter().map(|(key, place)| (*key, *place)).collect();
    let chunks: Vec<_> = rows.chunks.values().copied().collect();
    store.index.put_map(id, image_map::encode(id, &nodes, &chunks)?.into()).await?;
    Ok(id)
}

/// Adds a map to a record as its newest. If that is one too many, the two neighbours that are smallest
/// together become one; returns the maps that are named no more.
pub(super) async fn add(store: &Store, record: &mut ImageRecord, map: Option<MapId>) -> Result<Vec<MapId>> {
    record.maps.splice(0..0, map);
    let mut replaced = Vec::new();
    while record.maps.len() > ImageRecord::MAX_MAPS {
        let mut maps = Vec::with_capacity(record.maps.len());
        for id in &record.maps {
            maps.push(store.index.get_map(*id).await);
        }
        let size = |at: usize| maps[at].as_ref().map_or(0, bytes::Bytes::len);
        let pair = (0..maps.len() - 1).min_by_key(|at| size(*at) + size(*at + 1)).unwrap_or(0);
        let mut rows = Rows::default();
        // The older first, so that the newer one's places win. A map that can't be read is a hint lost.
        for at in [pair + 1, pair] {
            let decoded =
                maps[at].as_ref().map_err(Clone::clone).and_then(|bytes| image_map::decode_all(bytes));
            match decoded {
                Ok((_, (nodes, chunks))) => {
                    rows.nodes.extend(nodes);
                    rows.chunks.extend(chunks.into_iter().map(|chunk| (chunk.first_block, chunk)));
                }
                Err(error) => tracing::warn!("image '{}': a map is dropped: {}", record.name, error.report()),
            }
        }
        let folded = put(store, &rows).await?;
        replaced.extend(record.maps.splice(pair..pair + 2, [folded]));
    }
    Ok(replaced)
}
