//! A disk cache one of whose segments is foreign bytes.

use std::{path::Path, sync::Arc};

use gabion_store_core::{ChunkId, ChunkKind, types::id_of};
use gabion_store_local::{
    cache::DiskCache,
    fs::{Fs, FsFileExt as _, MemFs, OpenMode},
};

/// Opens it and asks for whatever the bytes might name: what is answered is what was asked for.
pub fn open_with_segment(segment: &[u8]) {
    let fs = MemFs::new();
    let dir = Path::new("/cache");
    fs.create_dir(dir).expect("a folder in memory");
    let file = fs.open(&dir.join("00000000.segment"), OpenMode::CreateNew).expect("a file in memory");
    file.write_all_at(segment, 0).expect("write to memory");
    drop(file);
    let cache = DiskCache::open(Arc::new(fs), dir, 8 << 20).expect("damage is no error");
    let ids: Vec<_> =
        segment.windows(32).step_by(4).map(|id| ChunkId::from_bytes(id.try_into().expect("32"))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for kind in [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint] {
        let answers = runtime.block_on(cache.get(kind, &ids));
        for (id, answer) in ids.iter().zip(answers) {
            assert!(answer.is_none_or(|bytes| id_of(kind, &bytes) == *id));
        }
    }
}
