//! [`MemoryOverlay`]: layers in memory, for scratch disks and tests. Nothing of it survives the process.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;

use super::{BlockState, BlockStates, Layer, Overlay};
use crate::{BLOCK_SIZE, BlockRange, CheckpointId, Error, Result, sync::RwLock, types::blocks_for};

/// An overlay that is lost with the process: a volume on it promises no flush.
///
/// Memory: each written block takes its 4 KiB and some 30 bytes until it is zeroed or its layer goes.
#[derive(Debug)]
pub struct MemoryOverlay(RwLock<Inner>);

#[derive(Debug)]
struct Inner {
    /// Newest first, never empty.
    layers: Vec<Arc<MemoryLayer>>,
    size: u64,
}

impl MemoryOverlay {
    /// An overlay of one empty layer, for a disk of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(RwLock::new(Inner { layers: vec![Arc::new(MemoryLayer::new(blocks_for(size)))], size }))
    }
}

#[async_trait]
impl Overlay for MemoryOverlay {
    fn layers(&self) -> Vec<Arc<dyn Layer>> {
        self.0.read().layers.iter().map(|layer| layer.clone() as _).collect()
    }

    async fn push_layer(&self) -> Result<Arc<dyn Layer>> {
        let mut inner = self.0.write();
        let layer = Arc::new(MemoryLayer::new(blocks_for(inner.size)));
        inner.layers.insert(0, layer.clone());
        Ok(layer)
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn rebase(&self, _base: CheckpointId, count: usize) -> Result<()> {
        let mut inner = self.0.write();
        let left = inner.layers.len().checked_sub(count).filter(|&left| left > 0).ok_or_else(|| {
            Error::invalid(format!("{count} of {} layers can't go: one must stay", inner.layers.len()))
        })?;
        inner.layers.truncate(left);
        Ok(())
    }

    async fn grow(&self, size: u64) -> Result<()> {
        let mut inner = self.0.write();
        if size < inner.size {
            return Err(Error::invalid(format!("a disk of {} bytes can't shrink to {size}", inner.size)));
        }
        for layer in &inner.layers {
            layer.0.write().states.grow(blocks_for(size));
        }
        inner.size = size;
        Ok(())
    }

    fn is_durable(&self) -> bool {
        false
    }
}

/// A layer whose blocks lie in memory, each on its own.
struct MemoryLayer(RwLock<Blocks>);

struct Blocks {
    states: BlockStates,
    bytes: HashMap<u64, Box<[u8; BLOCK_SIZE]>>,
}

impl MemoryLayer {
    fn new(blocks: u64) -> Self {
        Self(RwLock::new(Blocks { states: BlockStates::new(blocks), bytes: HashMap::new() }))
    }
}

impl fmt::Debug for MemoryLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLayer").field("data_blocks", &self.data_blocks()).finish_non_exhaustive()
    }
}

impl Layer for MemoryLayer {
    fn first_run(&self, range: BlockRange) -> (BlockState, u64) {
        self.0.read().states.first_run(range)
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        Some(self.read(offset, buf))
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let blocks = self.0.read();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (block, within) = (at / BLOCK_SIZE as u64, (at % BLOCK_SIZE as u64) as usize);
            let len = (BLOCK_SIZE - within).min(buf.len() - done);
            let bytes = blocks.bytes.get(&block).ok_or_else(|| {
                Error::invalid(format!("block {block} was read from a layer that has no data for it"))
            })?;
            buf[done..done + len].copy_from_slice(&bytes[within..within + len]);
            done += len;
        }
        Ok(())
    }

    fn write(&self, first: u64, data: &[u8]) -> Result<()> {
        let (whole, rest) = data.as_chunks::<BLOCK_SIZE>();
        debug_assert!(rest.is_empty(), "layers take whole blocks");
        let mut blocks = self.0.write();
        for (block, bytes) in (first..).zip(whole) {
            blocks.bytes.insert(block, Box::new(*bytes));
        }
        blocks.states.set(BlockRange::new(first, first + whole.len() as u64), BlockState::Data);
        Ok(())
    }

    fn zero(&self, range: BlockRange) -> Result<()> {
        let mut blocks = self.0.write();
        blocks.states.set(range, BlockState::Zero);
        if range.count() < blocks.bytes.len() as u64 {
            for block in range.start..range.end {
                blocks.bytes.remove(&block);
            }
        } else {
            blocks.bytes.retain(|block, _| !(range.start..range.end).contains(block));
        }
        Ok(())
    }

    fn runs(&self, from: u64, max: usize) -> Vec<(BlockRange, BlockState)> {
        self.0.read().states.runs(from, max)
    }

    fn data_blocks(&self) -> u64 {
        self.0.read().states.data_blocks()
    }
}
