//! [`BlockStates`]: what a layer says of each block of its disk, in little memory.
//!
//! Disks are large and mostly untouched, and writes come in runs or are scattered. So the disk is cut into
//! regions of 2 MiB, each kept in the least form that fits (16 bytes while it is uniform or has few
//! marks, a bitmap of 128 bytes otherwise), and 256 regions form a span. Spans have a table of regions only if they
//! are of more than one state; others cost nothing while they are base, and as much as one if they are neighbours. A
//! million scattered blocks on 1 TiB take 8 MiB, an untouched or wholly trimmed disk of any size nearly nothing.
//!
//! It is *not* synchronised and knows no bytes: a layer keeps it behind its lock.

mod region;
#[cfg(test)]
mod tests;
mod uniform;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    ops::{ControlFlow, Range},
};

use region::{REGION_BLOCKS, Region};
use uniform::Uniform;

use super::BlockState;
use crate::BlockRange;

const SPAN_REGIONS: usize = 256;
const SPAN_BLOCKS: u64 = (SPAN_REGIONS * REGION_BLOCKS) as u64;

/// State of each block of a disk. At first every block is [`BlockState::Base`].
#[derive(Clone, Debug, Default)]
pub struct BlockStates {
    /// Spans of more than one state, by number.
    tables: BTreeMap<u64, Table>,
    /// The others.
    uniform: Uniform,
    data: u64,
    blocks: u64,
}

type Table = Box<[Region; SPAN_REGIONS]>;

impl BlockStates {
    /// States of a disk of so many blocks.
    pub fn new(blocks: u64) -> Self {
        Self { blocks, ..Self::default() }
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
        self.tables.is_empty() && self.uniform.is_empty()
    }

    /// State of a block.
    pub fn get(&self, block: u64) -> BlockState {
        let span = block / SPAN_BLOCKS;
        match self.tables.get(&span) {
            None => self.uniform.get(span),
            Some(regions) => {
                let (region, within) = place(block);
                regions[region].get(within)
            }
        }
    }

    /// Sets the state of blocks. What lies behind the end of the disk is left out.
    pub fn set(&mut self, range: BlockRange, state: BlockState) {
        let (start, end) = (range.start, range.end.min(self.blocks));
        if start >= end {
            return;
        }
        let whole = start.div_ceil(SPAN_BLOCKS)..end / SPAN_BLOCKS;
        if whole.start > whole.end {
            return self.set_in_span(whole.end, start, end, state);
        }
        if start < whole.start * SPAN_BLOCKS {
            self.set_in_span(whole.start - 1, start, whole.start * SPAN_BLOCKS, state);
        }
        if whole.end * SPAN_BLOCKS < end {
            self.set_in_span(whole.end, whole.end * SPAN_BLOCKS, end, state);
        }
        if !whole.is_empty() {
            self.set_spans(whole, state);
        }
    }

    /// Sets the state of whole spans, which are not none.
    fn set_spans(&mut self, spans: Range<u64>, state: BlockState) {
        while let Some((number, regions)) = self.tables.range(spans.clone()).next() {
            self.data -= regions.iter().map(Region::data).sum::<u64>();
            let number = *number;
            self.tables.remove(&number);
        }
        let data = |(run, state): (Range<u64>, _)| data_of(state, run.end - run.start);
        self.data -= self.uniform.within(spans.clone()).map(data).sum::<u64>();
        self.data += data_of(state, spans.end - spans.start);
        self.uniform.set(spans, state);
    }

    /// Sets the state of blocks `from..to`, which are not none, and some of one span.
    fn set_in_span(&mut self, number: u64, from: u64, to: u64, state: BlockState) {
        let regions = match self.tables.entry(number) {
            Entry::Occupied(regions) => regions.into_mut(),
            Entry::Vacant(free) => {
                let now = self.uniform.get(number);
                if now == state {
                    return;
                }
                self.uniform.set(number..number + 1, BlockState::Base);
                free.insert(Box::new(std::array::from_fn(|_| Region::uniform(now))))
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
            self.tables.remove(&number);
            self.uniform.set(number..number + 1, state);
        }
    }

    /// State of the first block of `range` (not empty), and one past the last block of the run of that
    /// state, at most `range.end`.
    pub fn first_run(&self, range: BlockRange) -> (BlockState, u64) {
        let (region, within) = place(range.start);
        let last = range.end.saturating_sub(1).max(range.start);
        // Nearly every request of a guest lies in one region.
        if range.start / REGION_BLOCKS as u64 == last / REGION_BLOCKS as u64 {
            let span = range.start / SPAN_BLOCKS;
            return match self.tables.get(&span) {
                None => (self.uniform.get(span), range.end),
                Some(regions) => {
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
        let spans = range.start / SPAN_BLOCKS..(range.end - 1) / SPAN_BLOCKS + 1;
        let mut at = spans.start;
        for (&number, regions) in self.tables.range(spans.clone()) {
            self.visit_uniform(at..number, range, visitor)?;
            visit_table(number, regions, range, visitor)?;
            at = number + 1;
        }
        self.visit_uniform(at..spans.end, range, visitor)
    }

    /// The part of [`visit_pieces`](Self::visit_pieces) that is in spans without tables.
    fn visit_uniform(
        &self,
        spans: Range<u64>,
        range: BlockRange,
        visitor: &mut impl FnMut(BlockRange, BlockState) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for (run, state) in self.uniform.within(spans) {
            let run = BlockRange::new(run.start * SPAN_BLOCKS, run.end * SPAN_BLOCKS);
            visitor(range.intersect(&run), state)?;
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

/// Blocks that are data in so many spans of one state.
fn data_of(state: BlockState, spans: u64) -> u64 {
    if state == BlockState::Data { spans * SPAN_BLOCKS } else { 0 }
}

/// Calls `visitor` for the runs of a span within `range`, cut where regions end.
fn visit_table(
    number: u64,
    regions: &Table,
    range: BlockRange,
    visitor: &mut impl FnMut(BlockRange, BlockState) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let start = number * SPAN_BLOCKS;
    let here = range.intersect(&BlockRange::new(start, start + SPAN_BLOCKS));
    let mut at = here.start;
    while at < here.end {
        let (index, within) = place(at);
        let base = at - within as u64;
        let to = (REGION_BLOCKS as u64).min(here.end - base) as usize;
        regions[index].visit(within, to, |from, to, state| {
            visitor(BlockRange::new(base + from as u64, base + to as u64), state)
        })?;
        at = base + to as u64;
    }
    ControlFlow::Continue(())
}

/// Region of its span, and block of its region.
fn place(block: u64) -> (usize, usize) {
    let within = (block % SPAN_BLOCKS) as usize;
    (within / REGION_BLOCKS, within % REGION_BLOCKS)
}
