//! Frozen layers as a disk to ingest: what they hold, and nothing of what they show through.

use std::{collections::BTreeSet, sync::Arc};

use super::{Base, Place, View};
use crate::{
    BLOCK_SIZE, BlockRange, Result,
    blocking::wait_for,
    chunking::{DiskSource, Next},
    sync::Handle,
    types::blocks_for,
};

/// Blocks of a window of the fragmentation budget: 64 KiB.
pub(super) const WINDOW: u64 = 16;
/// Most extents of a window; beyond, it is rewritten whole.
const WINDOW_EXTENTS: usize = 8;

/// Reads what the layers of a view hold. Windows to rewrite are read whole, base included.
pub(super) struct FrozenSource {
    view: Arc<View>,
    rewrite: BTreeSet<u64>,
    runtime: Handle,
    at: u64,
}

impl FrozenSource {
    /// The layers of `view`, which no longer change. Must be made inside a runtime, and read outside.
    pub(super) fn new(view: Arc<View>, rewrite: BTreeSet<u64>) -> Self {
        Self { view, rewrite, runtime: Handle::current(), at: 0 }
    }

    fn read_window(&mut self, end: u64, buf: &mut [u8]) -> Result<usize> {
        let len = (end.min(self.view.size) - self.at).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < len {
            let at = self.at + done as u64;
            let (place, run) = self.view.place(BlockRange::covering(at, (len - done) as u64));
            let part = ((run * BLOCK_SIZE as u64 - at) as usize).min(len - done);
            let to = &mut buf[done..done + part];
            match place {
                Place::Zero => to.fill(0),
                Place::Layer(layer) => layer.read(at, to)?,
                Place::Base => wait_for(&self.runtime, self.view.base.read(at, to))?,
            }
            done += part;
        }
        Ok(len)
    }
}

impl DiskSource for FrozenSource {
    fn size(&self) -> Option<u64> {
        Some(self.view.size)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let size = self.view.size;
        if self.at >= size {
            return Ok(Next::End);
        }
        let block = self.at / BLOCK_SIZE as u64;
        if self.rewrite.contains(&(block / WINDOW)) {
            match self.read_window((block / WINDOW + 1) * WINDOW * BLOCK_SIZE as u64, buf) {
                Ok(len) => {
                    self.at += len as u64;
                    return Ok(Next::Data(len));
                }
                // What the layers hold must get into the store though the base be damaged.
                Err(error) => {
                    tracing::warn!("64 KiB at {} stay in many pieces: {}", self.at, error.report());
                    self.rewrite.remove(&(block / WINDOW));
                }
            }
        }
        let until =
            self.rewrite.range(block / WINDOW..).next().map_or(blocks_for(size), |window| window * WINDOW);
        let (place, end) = self.view.place(BlockRange::new(block, until.min(blocks_for(size))));
        let end = (end * BLOCK_SIZE as u64).min(size);
        let next = match place {
            Place::Base => Next::Skip(end - self.at),
            Place::Zero => Next::Zero(end - self.at),
            Place::Layer(layer) => {
                let len = (end - self.at).min(buf.len() as u64) as usize;
                layer.read(self.at, &mut buf[..len])?;
                self.at += len as u64;
                return Ok(Next::Data(len));
            }
        };
        self.at = end;
        Ok(next)
    }
}

/// The windows that would be in too many pieces once the layers' blocks are chunks of their own.
pub(super) async fn fragmented(view: &View) -> Result<BTreeSet<u64>> {
    let Base::Index(base) = &*view.base else { return Ok(BTreeSet::new()) };
    let index = base.index();
    let mut rewrite = BTreeSet::new();
    let blocks = blocks_for(view.size);
    let mut at = 0;
    while at < blocks {
        let (place, end) = view.place(BlockRange::new(at, blocks));
        if matches!(place, Place::Base) {
            at = end;
            continue;
        }
        // Pieces of the window the run begins in; a run that fills its windows leaves them whole.
        let window = BlockRange::new(at / WINDOW * WINDOW, (at / WINDOW + 1) * WINDOW)
            .intersect(&BlockRange::new(0, blocks));
        let (mut pieces, mut block) = (0, window.start);
        while block < window.end {
            let (place, run) = view.place(BlockRange::new(block, window.end));
            block = match place {
                Place::Zero => run,
                Place::Layer(_) => {
                    pieces += 1;
                    run
                }
                Place::Base if block >= index.blocks() => run,
                Place::Base => {
                    let found = index.find(BlockRange::new(block, run.min(index.blocks()))).await?;
                    pieces += usize::from(found.target.is_some());
                    found.range.end
                }
            };
        }
        if pieces > WINDOW_EXTENTS {
            rewrite.insert(window.start / WINDOW);
        }
        at = window.end.max(end / WINDOW * WINDOW);
    }
    Ok(rewrite)
}
