//! Writes, trims and zeroes into the topmost layer.
//!
//! Whole blocks never need the base. A partial block is filled up from the volume's own view; if that needs
//! the base, the fill is fetched first, with no lock held, and used only if the block and the base are
//! still what they were: a slow store holds no barrier.

use std::sync::Arc;

use super::{Base, Place, Shared, View};
use crate::{
    BLOCK_SIZE, BlockRange, Result,
    overlay::{Layer, Overlay},
};

/// Content of blocks of a base, fetched to fill up partial blocks. A write has at most two.
#[derive(Default)]
pub(super) struct Fills(Vec<(Arc<Base>, u64, Vec<u8>)>);

/// How far a write got.
pub(super) enum Attempt {
    /// All the way.
    Done,
    /// Nowhere: the base's content of this block is needed first.
    Needs(Arc<Base>, u64),
    /// Nowhere: it would have to wait for the local disk, and must not.
    WouldWait,
}

/// What is written.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    Data(&'a [u8]),
    Zeros(u64),
}

impl Content<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Zeros(len) => *len,
        }
    }

    fn copy_to(&self, to: &mut [u8]) {
        match self {
            Self::Data(data) => to.copy_from_slice(data),
            Self::Zeros(_) => to.fill(0),
        }
    }
}

impl Fills {
    /// Keeps the content of a block of a base.
    pub(super) fn add(&mut self, base: Arc<Base>, block: u64, content: Vec<u8>) {
        self.0.retain(|(_, other, _)| *other != block);
        self.0.push((base, block, content));
    }

    fn get(&self, base: &Arc<Base>, block: u64) -> Option<&[u8]> {
        let same = |fill: &&(Arc<Base>, u64, Vec<u8>)| Arc::ptr_eq(&fill.0, base) && fill.1 == block;
        self.0.iter().find(same).map(|fill| fill.2.as_slice())
    }
}

impl Shared {
    /// Writes, or says what is missing. Unless it `may_wait`, it waits for nothing but locks and copies.
    pub(super) fn attempt_write(
        &self,
        offset: u64,
        content: Content<'_>,
        fills: &Fills,
        may_wait: bool,
    ) -> Result<Attempt> {
        self.overlay()?;
        let blocks = BlockRange::covering(offset, content.len());
        let _barrier = self.barrier.read();
        let view = self.view();
        let whole =
            offset.is_multiple_of(BLOCK_SIZE as u64) && content.len().is_multiple_of(BLOCK_SIZE as u64);
        if let (true, Content::Data(data)) = (whole, content) {
            let _held = self.locks.share(blocks);
            view.top()?.write(blocks.start, data)?;
            return Ok(Attempt::Done);
        }
        let _held = self.locks.hold(blocks);
        let mut buffer = vec![0; blocks.byte_len() as usize];
        let start = (offset - blocks.byte_start()) as usize;
        let end = start + content.len() as usize;
        let head = (start > 0).then_some(blocks.start);
        let tail = (!end.is_multiple_of(BLOCK_SIZE)).then_some(blocks.end - 1);
        for block in head.into_iter().chain(tail.filter(|tail| Some(*tail) != head)) {
            let at = (block - blocks.start) as usize * BLOCK_SIZE;
            match view.fill(block, fills, &mut buffer[at..at + BLOCK_SIZE], may_wait)? {
                Attempt::Done => {}
                other => return Ok(other),
            }
        }
        content.copy_to(&mut buffer[start..end]);
        view.top()?.write(blocks.start, &buffer)?;
        Ok(Attempt::Done)
    }

    /// Makes the blocks zero that lie wholly in a range of bytes, and says which these are.
    pub(super) fn zero_blocks(&self, offset: u64, length: u64) -> Result<BlockRange> {
        self.overlay()?;
        let touched = BlockRange::covering(offset, length);
        if touched.is_empty() {
            return Ok(touched);
        }
        let _barrier = self.barrier.read();
        let _held = self.locks.hold(touched);
        // The size as it is now that the blocks are held: when a disk grows inside its last block, the block's
        // rest takes writes of others.
        let view = self.view();
        let whole = BlockRange::within(offset, length, view.size);
        if !whole.is_empty() {
            view.top()?.zero(whole)?;
        }
        Ok(whole)
    }

    /// Puts `layer` on top: writes before it are in the layers below, writes after it in it. Returns how
    /// long writes were held.
    pub(super) fn switch_to(&self, layer: Arc<dyn Layer>) -> std::time::Duration {
        let start = std::time::Instant::now();
        let _barrier = self.barrier.write();
        self.change_view(|view| view.layers.insert(0, layer));
        start.elapsed()
    }
}

impl View {
    fn top(&self) -> Result<&Arc<dyn Layer>> {
        self.layers.first().ok_or_else(|| crate::Error::invalid("a volume without a layer takes no writes"))
    }

    /// Content of a block into `buf`.
    fn fill(&self, block: u64, fills: &Fills, buf: &mut [u8], may_wait: bool) -> Result<Attempt> {
        let offset = block * BLOCK_SIZE as u64;
        match self.place(BlockRange::new(block, block + 1)).0 {
            Place::Zero => buf.fill(0),
            Place::Layer(layer) => match layer.try_read(offset, buf) {
                Some(read) => read?,
                None if may_wait => layer.read(offset, buf)?,
                None => return Ok(Attempt::WouldWait),
            },
            Place::Base => match (fills.get(&self.base, block), self.base.try_read(offset, buf)) {
                (Some(content), _) => buf.copy_from_slice(content),
                (None, Some(read)) => read?,
                (None, None) => return Ok(Attempt::Needs(Arc::clone(&self.base), block)),
            },
        }
        Ok(Attempt::Done)
    }
}

/// An overlay that no flush can make durable promises nothing.
pub(super) fn is_durable(overlay: Option<&Arc<dyn Overlay>>) -> bool {
    overlay.is_none_or(|overlay| overlay.is_durable())
}
