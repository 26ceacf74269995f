//! A disk cache one of whose segments is foreign bytes.

use std::{path::Path, sync::Arc};

use gabion_store_core::{ChunkId, ChunkKind, types::id_of};
use gabion_store_local::{
    cache::DiskCache,
    fs::{Fs as _, FsFileExt as _, MemFs, OpenMode},
};

use crate::nbd::block_on;

/// Lengths of the format, `docs/format.md`.
const HEADER_LEN: usize = 42;
const HEAD_LEN: usize = 48;
const ROW_LEN: usize = 44;
const TRAILER_LEN: usize = 28;

/// Opens it and asks for what the bytes might name: damage is no error, and what is answered is what was asked for.
pub(crate) fn disk_cache(segment: &[u8]) {
    let fs = MemFs::new();
    let dir = Path::new("/cache");
    fs.create_dir(dir).expect("a folder in memory");
    let file = fs.open(&dir.join("00000000.segment"), OpenMode::CreateNew).expect("a file in memory");
    file.write_all_at(segment, 0).expect("write to memory");
    drop(file);
    let cache = DiskCache::open(Arc::new(fs), dir, 8 << 20).expect("damage is no error");
    let entries = cache.stats().entries;
    if entries == 0 {
        return;
    }
    let ids = ids(segment);
    for kind in [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint] {
        let answers = block_on(cache.get(kind, &ids));
        for (id, answer) in ids.iter().zip(answers) {
            assert!(answer.is_none_or(|bytes| id_of(kind, &bytes) == *id));
        }
    }
    assert!(cache.stats().entries <= entries, "what can't be read is forgotten");
}

/// Ids at the places where entries have theirs, if they stand one behind the other, and rows of a table at the end.
fn ids(segment: &[u8]) -> Vec<ChunkId> {
    let mut places = Vec::new();
    let mut at = HEADER_LEN;
    while let Some(len) = segment.get(at + ChunkId::LEN + 4..).and_then(|bytes| bytes.first_chunk()) {
        places.push(at);
        at = at.saturating_add(HEAD_LEN).saturating_add(u32::from_le_bytes(*len) as usize);
    }
    let mut end = segment.len().saturating_sub(TRAILER_LEN);
    while let Some(row) = end.checked_sub(ROW_LEN) {
        places.push(row);
        end = row;
    }
    let id = |at: usize| Some(ChunkId::from_bytes(*segment.get(at..)?.first_chunk()?));
    places.into_iter().filter_map(id).collect()
}
