//! [`BlockStates`]: what a layer says of each block of its disk, in little memory.
//!
//! Disks are large and mostly untouched, and writes come in runs or are scattered. So the disk is cut into
//! regions of 2 MiB, each kept in the least form that fits (16 bytes while it is uniform or has few
//! marks, a bitmap of 128 bytes otherwise), and 256 regions form a span that exists once it is touched. A
//! million scattered blocks on 1 TiB take 8 MiB, an untouched or wholly trimmed disk nearly nothing.
//!
//! It is *not* synchronised and knows no bytes: a layer keeps it behind its lock.

mod region;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, ops::ControlFlow};

use region::{REGION_BLOCKS, Region};

use super::BlockState;
use crate::BlockRange;

const SPAN_REGIONS: usize = 256;
const SPAN_BLOCKS: u64 = (SPAN_REGIONS * REGION_BLOCKS) as u64;

/// State of each block of a disk. At first every block is [`BlockState::Base`].
#[derive(Clone, Debug, Default)]
pub struct BlockStates {
    /// By number; one that is not there is all base, and none that is there is.
    spans: BTreeMap<u64, Span>,
    data: u64,
    blocks: u64,
}

#[derive(Clone, Debug)]
enum Span {
    All(BlockState),
    Table(Box<[Region; SPAN_REGIONS]>),
}

impl BlockStates {
    /// States of a disk of so many blocks.
    pub fn new(blocks: u64) -> Self {
        Self { spans: BTreeMap::new(), data: 0, blocks }
    }

    /// Number of blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Makes the disk larger; the new blocks are base. A smaller number changes nothing.
    pub fn grow(&mut self, blocks: u64) {
        self.blocks = self.blocks.max(blocks);
    }

    /// Number of blocks that are data.
    pub fn data_blocks(&self) -> u64 {
        self.data
    }

    /// Whether every block is base.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// State of a block.
    pub fn get(&self, block: u64) -> BlockState {
        match self.spans.get(&(block / SPAN_BLOCKS)) {
            None => BlockState::Base,
            Some(Span::All(state)) => *state,
            Some(Span::Table(regions)) => {
                let (region, within) = place(block);
                regions[region].get(within)
            }
        }
    }

    /// Sets the state of blocks. What lies behind the end of the disk is left out.
    pub fn set(&mut self, range: BlockRange, state: BlockState) {
        let end = range.end.min(self.blocks);
        let mut at = range.start;
        while at < end {
            let span = at / SPAN_BLOCKS;
            let to = end.min((span + 1) * SPAN_BLOCKS);
            self.set_in_span(span, at, to, state);
            at = to;
        }
    }

    /// Sets the state of blocks `from..to`, which are not none and all in one span.
    fn set_in_span(&mut self, number: u64, from: u64, to: u64, state: BlockState) {
        if to - from == SPAN_BLOCKS {
            self.data -= self.spans.get(&number).map_or(0, Span::data);
            if state == BlockState::Base {
                self.spans.remove(&number);
            } else {
                self.spans.insert(number, Span::All(state));
                self.data += if state == BlockState::Data { SPAN_BLOCKS } else { 0 };
            }
            return;
        }
        let regions = match self.spans.get_mut(&number) {
            None | Some(Span::All(BlockState::Base)) if state == BlockState::Base => return,
            Some(Span::All(now)) if *now == state => return,
            Some(Span::Table(regions)) => regions,
            other => {
                let now = match other {
                    Some(Span::All(now)) => *now,
                    _ => BlockState::Base,
                };
                let table = Span::Table(Box::new(std::array::from_fn(|_| Region::uniform(now))));
                self.spans.insert(number, table);
                match self.spans.get_mut(&number) {
                    Some(Span::Table(regions)) => regions,
                    _ => return,
                }
            }
        };
        let mut at = from;
        let mut uniform = false;
        while at < to {
            let (index, within) = place(at);
            let count = (REGION_BLOCKS - within).min((to - at) as usize);
            let region = &mut regions[index];
            self.data = self.data.wrapping_add_signed(region.set(within, within + count, state));
            uniform |= region.is_uniform(state);
            at += count as u64;
        }
        if uniform && regions.iter().all(|region| region.is_uniform(state)) {
            if state == BlockState::Base {
                self.spans.remove(&number);
            } else {
                self.spans.insert(number, Span::All(state));
            }
        }
    }

    /// State of the first block of `range` (not empty), and one past the last block of the run of that
    /// state, at most `range.end`.
    pub fn first_run(&self, range: BlockRange) -> (BlockState, u64) {
        let (region, within) = place(range.start);
        let last = range.end.saturating_sub(1).max(range.start);
        // Nearly every request of a guest lies in one region.
        if range.start / REGION_BLOCKS as u64 == last / REGION_BLOCKS as u64 {
            return match self.spans.get(&(range.start / SPAN_BLOCKS)) {
                None => (BlockState::Base, range.end),
                Some(Span::All(state)) => (*state, range.end),
                Some(Span::Table(regions)) => {
                    let (state, end) = regions[region].run(within, within + range.count() as usize);
                    (state, range.start + (end - within) as u64)
                }
            };
        }
        let mut first = (BlockState::Base, range.end);
        self.visit(range, |run, state| {
            first = if run.start > range.start { (BlockState::Base, run.start) } else { (state, run.end) };
            ControlFlow::Break(())
        });
        first
    }

    /// Runs of blocks that are not base, from block `from` on, in order: at most `max`. Neighbouring runs
    /// differ in state.
    pub fn runs(&self, from: u64, max: usize) -> Vec<(BlockRange, BlockState)> {
        let mut runs = Vec::new();
        if max > 0 {
            self.visit(BlockRange::new(from, self.blocks), |run, state| {
                runs.push((run, state));
                if runs.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
        }
        runs
    }

    /// Calls `visitor` for every run within `range` that is not base, in order, until it breaks.
    /// Neighbouring runs differ in state.
    pub fn visit(
        &self,
        range: BlockRange,
        mut visitor: impl FnMut(BlockRange, BlockState) -> ControlFlow<()>,
    ) {
        let mut open: Option<(BlockRange, BlockState)> = None;
        let pieces = self.visit_pieces(range, &mut |piece, state| {
            match &mut open {
                Some((run, of)) if run.end == piece.start && *of == state => run.end = piece.end,
                _ => {
                    if let Some((run, of)) = open.replace((piece, state)) {
                        return visitor(run, of);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        if let (ControlFlow::Continue(()), Some((run, state))) = (pieces, open) {
            // The last call: there is nothing left to break off.
            let _last = visitor(run, state);
        }
    }

    /// As [`visit`](Self::visit), but runs are cut where regions and spans end.
    fn visit_pieces(
        &self,
        range: BlockRange,
        visitor: &mut impl FnMut(BlockRange, BlockState) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        if range.is_empty() {
            return ControlFlow::Continue(());
        }
        for (&number, span) in self.spans.range(range.start / SPAN_BLOCKS..=(range.end - 1) / SPAN_BLOCKS) {
            let start = number * SPAN_BLOCKS;
            let here = range.intersect(&BlockRange::new(start, start + SPAN_BLOCKS));
            match span {
                Span::All(state) => visitor(here, *state)?,
                Span::Table(regions) => {
                    let mut at = here.start;
                    while at < here.end {
                        let (index, within) = place(at);
                        let to = (REGION_BLOCKS as u64).min(here.end - (at - within as u64)) as usize;
                        let base = at - within as u64;
                        regions[index].visit(within, to, |from, to, state| {
                            visitor(BlockRange::new(base + from as u64, base + to as u64), state)
                        })?;
                        at = base + to as u64;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// Number of runs that are not base. Walks all of them.
    pub fn count_runs(&self) -> u64 {
        let mut count = 0;
        self.visit(BlockRange::new(0, self.blocks), |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Takes over what `older` says of blocks that are base here.
    pub fn fill_from(&mut self, older: &Self) {
        if self.is_empty() {
            let blocks = self.blocks.max(older.blocks);
            *self = older.clone();
            self.blocks = blocks;
            return;
        }
        older.visit(BlockRange::new(0, older.blocks), |run, state| {
            let mut at = run.start;
            while at < run.end {
                let (now, end) = self.first_run(BlockRange::new(at, run.end));
                if now == BlockState::Base {
                    self.set(BlockRange::new(at, end), state);
                }
                at = end;
            }
            ControlFlow::Continue(())
        });
    }

    /// All marks, leaving every block base.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(self.blocks))
    }
}

impl Span {
    fn data(&self) -> u64 {
        match self {
            Self::All(BlockState::Data) => SPAN_BLOCKS,
            Self::All(_) => 0,
            Self::Table(regions) => regions.iter().map(Region::data).sum(),
        }
    }
}

/// Region of its span, and block of its region.
fn place(block: u64) -> (usize, usize) {
    let within = (block % SPAN_BLOCKS) as usize;
    (within / REGION_BLOCKS, within % REGION_BLOCKS)
}
