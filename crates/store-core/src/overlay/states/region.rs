//! States of the 512 blocks of a region, in one canonical form: uniform, few marks inline, or a bitmap.

use std::ops::ControlFlow;

use crate::overlay::BlockState;

/// Blocks of a region: 2 MiB, as much as a leaf of the index covers.
pub(super) const REGION_BLOCKS: usize = 512;
/// Marks that fit where a pointer to a bitmap would stand.
const MOST_FEW: usize = 7;
const WORDS: usize = REGION_BLOCKS / 64;

/// States of a region in 16 bytes, plus 128 elsewhere for a bitmap.
#[derive(Clone, Debug)]
pub(super) enum Region {
    Base,
    Zero,
    Data,
    /// 1 to 7 blocks that are not base, by ascending number.
    Few {
        count: u8,
        marks: [Mark; MOST_FEW],
    },
    /// Whatever none of the others can say.
    Map(Box<Bitmap>),
}

/// A block's number in its region, and whether it is data (else zero).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark(u16);

impl Mark {
    const DATA: u16 = 1 << 9;

    fn new(block: usize, state: BlockState) -> Self {
        Self(block as u16 | if state == BlockState::Data { Self::DATA } else { 0 })
    }

    fn block(self) -> usize {
        usize::from(self.0 & (Self::DATA - 1))
    }

    fn state(self) -> BlockState {
        if self.0 & Self::DATA == 0 { BlockState::Zero } else { BlockState::Data }
    }
}

/// One bit per block: is data, is zero. Never both.
#[derive(Clone, Debug, Default)]
pub(super) struct Bitmap {
    data: [u64; WORDS],
    zero: [u64; WORDS],
}

impl Region {
    pub(super) fn uniform(state: BlockState) -> Self {
        match state {
            BlockState::Base => Self::Base,
            BlockState::Zero => Self::Zero,
            BlockState::Data => Self::Data,
        }
    }

    fn as_uniform(&self) -> Option<BlockState> {
        match self {
            Self::Base => Some(BlockState::Base),
            Self::Zero => Some(BlockState::Zero),
            Self::Data => Some(BlockState::Data),
            Self::Few { .. } | Self::Map(_) => None,
        }
    }

    pub(super) fn is_uniform(&self, state: BlockState) -> bool {
        self.as_uniform() == Some(state)
    }

    fn marks(&self) -> &[Mark] {
        match self {
            Self::Few { count, marks } => &marks[..usize::from(*count)],
            _ => &[],
        }
    }

    /// Number of blocks that are data.
    pub(super) fn data(&self) -> u64 {
        match self {
            Self::Base | Self::Zero => 0,
            Self::Data => REGION_BLOCKS as u64,
            Self::Few { .. } => count_data(self.marks()) as u64,
            Self::Map(map) => count(&map.data) as u64,
        }
    }

    pub(super) fn get(&self, block: usize) -> BlockState {
        match self {
            Self::Base => BlockState::Base,
            Self::Zero => BlockState::Zero,
            Self::Data => BlockState::Data,
            Self::Few { .. } => self
                .marks()
                .iter()
                .find(|mark| mark.block() == block)
                .map_or(BlockState::Base, |mark| mark.state()),
            Self::Map(map) => map.get(block),
        }
    }

    /// State of block `from`, and where its run ends, at most `to`.
    pub(super) fn run(&self, from: usize, to: usize) -> (BlockState, usize) {
        match self {
            Self::Base | Self::Zero | Self::Data => (self.get(from), to),
            Self::Few { .. } => {
                let marks = self.marks();
                let next = marks.partition_point(|mark| mark.block() < from);
                match marks.get(next) {
                    None => (BlockState::Base, to),
                    Some(mark) if mark.block() > from => (BlockState::Base, mark.block().min(to)),
                    Some(first) => {
                        let run = marks[next..]
                            .iter()
                            .zip(from..to)
                            .take_while(|(mark, block)| {
                                mark.block() == *block && mark.state() == first.state()
                            })
                            .count();
                        (first.state(), from + run)
                    }
                }
            }
            Self::Map(map) => map.run(from, to),
        }
    }

    /// Calls `visitor` for each run in `from..to` that is not base.
    pub(super) fn visit(
        &self,
        from: usize,
        to: usize,
        mut visitor: impl FnMut(usize, usize, BlockState) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut at = from;
        while at < to {
            let (state, end) = self.run(at, to);
            if state != BlockState::Base {
                visitor(at, end, state)?;
            }
            at = end;
        }
        ControlFlow::Continue(())
    }

    /// Sets blocks `from..to`. Gives the number of blocks that are data now and were not, less those that
    /// were and are not.
    pub(super) fn set(&mut self, from: usize, to: usize, state: BlockState) -> i64 {
        if self.is_uniform(state) {
            return 0;
        }
        if let Some(change) = self.set_few(from, to, state) {
            return change;
        }
        let before = self.data();
        if to - from == REGION_BLOCKS {
            *self = Self::uniform(state);
        } else {
            let mut map = match self {
                Self::Map(map) => std::mem::take(&mut **map),
                _ => self.to_bitmap(),
            };
            map.set(from, to, state);
            self.become_least(map);
        }
        self.data().cast_signed() - before.cast_signed()
    }

    /// Sets blocks, as [`set`](Self::set), if the region has, and keeps, few marks.
    fn set_few(&mut self, from: usize, to: usize, state: BlockState) -> Option<i64> {
        if !matches!(self, Self::Base | Self::Few { .. }) {
            return None;
        }
        if let Self::Few { count, marks } = self
            && state != BlockState::Base
            && usize::from(*count) + (to - from) <= MOST_FEW
            && marks[usize::from(*count) - 1].block() < from
        {
            // Behind all others, as in a replay and in sequential writes: nothing has to move.
            for block in from..to {
                marks[usize::from(*count)] = Mark::new(block, state);
                *count += 1;
            }
            return Some(if state == BlockState::Data { (to - from) as i64 } else { 0 });
        }
        let old = self.marks();
        let first = old.iter().take_while(|mark| mark.block() < from).count();
        let (before, rest) = old.split_at(first);
        let (replaced, after) = rest.split_at(rest.iter().take_while(|mark| mark.block() < to).count());
        let new = if state == BlockState::Base { 0 } else { to - from };
        let total = before.len() + new + after.len();
        if total > MOST_FEW {
            return None;
        }
        let data = if state == BlockState::Data { new } else { 0 };
        let change = data as i64 - count_data(replaced) as i64;
        let mut marks = [Mark::default(); MOST_FEW];
        marks[..before.len()].copy_from_slice(before);
        for (mark, block) in marks[before.len()..before.len() + new].iter_mut().zip(from..) {
            *mark = Mark::new(block, state);
        }
        marks[before.len() + new..total].copy_from_slice(after);
        *self = if total == 0 { Self::Base } else { Self::Few { count: total as u8, marks } };
        Some(change)
    }

    fn to_bitmap(&self) -> Bitmap {
        let mut map = Bitmap::default();
        match self.as_uniform() {
            Some(state) => map.set(0, REGION_BLOCKS, state),
            None => {
                for mark in self.marks() {
                    map.set(mark.block(), mark.block() + 1, mark.state());
                }
            }
        }
        map
    }

    /// Takes the least form that says what the bitmap says.
    fn become_least(&mut self, map: Bitmap) {
        let (data, zero) = (count(&map.data), count(&map.zero));
        *self = match (data, zero) {
            (REGION_BLOCKS, _) => Self::Data,
            (_, REGION_BLOCKS) => Self::Zero,
            _ if data + zero <= MOST_FEW => {
                let mut few = Self::Base;
                let (mut at, mut fits) = (0, true);
                while at < REGION_BLOCKS {
                    let (state, end) = map.run(at, REGION_BLOCKS);
                    fits &= few.set_few(at, end, state).is_some();
                    at = end;
                }
                debug_assert!(fits, "seven marks fit");
                few
            }
            _ => match std::mem::replace(self, Self::Base) {
                Self::Map(mut place) => {
                    *place = map;
                    Self::Map(place)
                }
                _ => Self::Map(Box::new(map)),
            },
        };
    }
}

impl Bitmap {
    fn get(&self, block: usize) -> BlockState {
        let (word, bit) = (block / 64, 1 << (block % 64));
        if self.data[word] & bit != 0 {
            BlockState::Data
        } else if self.zero[word] & bit != 0 {
            BlockState::Zero
        } else {
            BlockState::Base
        }
    }

    fn set(&mut self, from: usize, to: usize, state: BlockState) {
        let mut at = from;
        while at < to {
            let (word, bit) = (at / 64, at % 64);
            let count = (64 - bit).min(to - at);
            let mask = (u64::MAX >> (64 - count)) << bit;
            self.data[word] &= !mask;
            self.zero[word] &= !mask;
            match state {
                BlockState::Base => {}
                BlockState::Zero => self.zero[word] |= mask,
                BlockState::Data => self.data[word] |= mask,
            }
            at += count;
        }
    }

    fn run(&self, from: usize, to: usize) -> (BlockState, usize) {
        let state = self.get(from);
        let mut at = from;
        while at < to {
            let word = at / 64;
            let differs = match state {
                BlockState::Base => self.data[word] | self.zero[word],
                BlockState::Zero => !self.zero[word],
                BlockState::Data => !self.data[word],
            };
            let ahead = differs >> (at % 64);
            if ahead != 0 {
                return (state, (at + ahead.trailing_zeros() as usize).min(to));
            }
            at = (word + 1) * 64;
        }
        (state, to)
    }
}

fn count_data(marks: &[Mark]) -> usize {
    marks.iter().filter(|mark| mark.state() == BlockState::Data).count()
}

fn count(words: &[u64; WORDS]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

const _: () = assert!(size_of::<Region>() == 16, "the bound on memory rests on this");
