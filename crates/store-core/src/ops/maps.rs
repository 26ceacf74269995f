//! Image maps.

use crate::{ChunkId, NodeId, Result, Store, clock::Clock, format::image_record::ImageRecord, types::MapId};

pub(super) async fn write(
    _store: &Store,
    _nodes: &[NodeId],
    _chunks: &[(u64, ChunkId)],
) -> Result<Option<MapId>> {
    Ok(None)
}

pub(super) async fn add(
    _store: &Store,
    _clock: &dyn Clock,
    _record: &mut ImageRecord,
    _map: Option<MapId>,
) -> Result<Vec<MapId>> {
    Ok(Vec::new())
}
