//! Locks of blocks: whole-block writes share them, whoever changes part of a block or trims holds them
//! alone.
//!
//! Blocks share a fixed number of locks by region, so the table costs nothing and false sharing only makes
//! partial writes of one region wait for each other: all that happens under a lock is local and short.

use crate::{
    BlockRange,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

const LOCKS: usize = 64;
/// Blocks that share a lock because they are neighbours: 256 KiB.
const REGION: u64 = 64;

/// The locks of a disk's blocks.
pub(super) struct BlockLocks([RwLock<()>; LOCKS]);

impl Default for BlockLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| RwLock::new(())))
    }
}

/// Locks held, until dropped. One lock, the common case, takes no allocation.
pub(super) enum Held<'a> {
    Shared { _first: RwLockReadGuard<'a, ()>, _more: Vec<RwLockReadGuard<'a, ()>> },
    Alone { _first: RwLockWriteGuard<'a, ()>, _more: Vec<RwLockWriteGuard<'a, ()>> },
}

impl BlockLocks {
    /// For writing whole blocks of a range that is not empty.
    pub(super) fn share(&self, range: BlockRange) -> Held<'_> {
        let mut locks = Self::of(range);
        Held::Shared {
            _first: self.0[locks.next().unwrap_or(0)].read(),
            _more: locks.map(|lock| self.0[lock].read()).collect(),
        }
    }

    /// For anything else in a range that is not empty.
    pub(super) fn hold(&self, range: BlockRange) -> Held<'_> {
        let mut locks = Self::of(range);
        Held::Alone {
            _first: self.0[locks.next().unwrap_or(0)].write(),
            _more: locks.map(|lock| self.0[lock].write()).collect(),
        }
    }

    /// The locks of a range, each once and always in one order, so that two holders can't wait in a ring.
    fn of(range: BlockRange) -> impl Iterator<Item = usize> {
        let (first, last) = (range.start / REGION, (range.end - 1) / REGION);
        let (first, count) =
            if last - first >= LOCKS as u64 { (0, LOCKS) } else { (first, (last - first) as usize + 1) };
        let start = (first % LOCKS as u64) as usize;
        let wrapped = (start + count).saturating_sub(LOCKS);
        (0..wrapped).chain(start..(start + count).min(LOCKS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_take_their_locks_in_order_and_once() {
        let of = |start, end| BlockLocks::of(BlockRange::new(start, end)).collect::<Vec<_>>();
        assert_eq!(of(0, 1), [0]);
        assert_eq!(of(63, 65), [0, 1]);
        assert_eq!(of(63 * 64, 66 * 64), [0, 1, 63]);
        assert_eq!(of(5, 1 << 40), (0..LOCKS).collect::<Vec<_>>());
    }
}
