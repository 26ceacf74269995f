//! The overlay on both file systems, against a model, under faults, and after damage.

mod faults;
mod life;
mod model;
mod nth;

use std::{path::Path, sync::Arc};

use gabion_store_core::{
    BLOCK_SIZE, BlockRange,
    clock::Timestamp,
    overlay::{BlockState, Layer, Overlay as _},
    types::VolumeId,
};

use super::{LocalOverlay, record::VolumeInfo};
use crate::fs::{Fs, MemFs};

/// What a block of one layer holds, its bytes all being the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Content {
    Base,
    Zero,
    Fill(u8),
}

fn info(size: u64) -> VolumeInfo {
    VolumeInfo {
        id: VolumeId::from_bytes([7; 16]),
        name: "vm/1".parse().unwrap(),
        size,
        base: None,
        home: String::new(),
        lazy_base: None,
        lineage: None,
        created: Timestamp(1),
    }
}

fn create(fs: &Arc<dyn Fs>, blocks: u64) -> LocalOverlay {
    LocalOverlay::create(fs.clone(), Path::new("/vol"), info(blocks * 4096)).unwrap()
}

fn open(fs: &Arc<dyn Fs>) -> LocalOverlay {
    LocalOverlay::open(fs.clone(), Path::new("/vol"), None).unwrap()
}

fn memory() -> (MemFs, Arc<dyn Fs>) {
    let fs = MemFs::new();
    (fs.clone(), Arc::new(fs))
}

/// The layer that takes writes.
fn top(overlay: &LocalOverlay) -> Arc<dyn Layer> {
    overlay.layers().remove(0)
}

fn fill(layer: &dyn Layer, first: u64, count: usize, byte: u8) -> gabion_store_core::Result<()> {
    layer.write(first, &vec![byte; count * BLOCK_SIZE])
}

/// Contents of the first `blocks` blocks of a layer.
fn contents(layer: &dyn Layer, blocks: u64) -> Vec<Content> {
    let mut contents = Vec::new();
    let mut at = 0;
    while at < blocks {
        let (state, end) = layer.first_run(BlockRange::new(at, blocks));
        for block in at..end {
            contents.push(match state {
                BlockState::Base => Content::Base,
                BlockState::Zero => Content::Zero,
                BlockState::Data => {
                    let mut bytes = [0; BLOCK_SIZE];
                    match layer.try_read(block * 4096, &mut bytes) {
                        Some(read) => read.unwrap(),
                        None => layer.read(block * 4096, &mut bytes).unwrap(),
                    }
                    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "block {block} is torn");
                    Content::Fill(bytes[0])
                }
            });
        }
        at = end;
    }
    contents
}
