use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 1 << 30;

/// A reader that notes what it has to: misses, and what is marked. What was read or fetched is in memory.
struct Rig {
    streams: Streams,
    fetched: Vec<Range<u64>>,
    /// By block.
    memory: Vec<bool>,
    notes: u64,
}

impl Default for Rig {
    fn default() -> Self {
        let memory = vec![false; (SIZE / 4096) as usize];
        Self { streams: Streams::new(MOST_AHEAD), fetched: Vec::new(), memory, notes: 0 }
    }
}

impl Rig {
    fn read(&mut self, offset: u64, len: u64) {
        let (first, last) = ((offset / 4096) as usize, ((offset + len - 1) / 4096) as usize);
        let missed = self.memory[first..=last].contains(&false);
        let marked = len as usize > LONG_READ || self.streams.due(SIZE) & region_bit(offset) != 0;
        if missed || marked {
            self.notes += 1;
            let (fetched, memory) = (&mut self.fetched, &mut self.memory);
            self.streams.note(&(offset..offset + len), SIZE, |piece| {
                memory[(piece.start / 4096) as usize..piece.end.div_ceil(4096) as usize].fill(true);
                fetched.push(piece);
                true
            });
        }
        self.memory[first..=last].fill(true);
    }

    fn has(&self, offset: u64) -> bool {
        self.fetched.iter().any(|piece| piece.contains(&offset))
    }

    fn bytes(&self) -> u64 {
        self.fetched.iter().map(|piece| piece.end - piece.start).sum()
    }

    fn front(&self) -> u64 {
        self.fetched.iter().map(|piece| piece.end).max().unwrap_or(0)
    }
}

#[test]
fn a_reader_from_start_to_end_is_kept_ahead_of() {
    for len in [4096, 64 << 10, 128 << 10, MIB, 8 * MIB] {
        let mut rig = Rig::default();
        for offset in (0..256 * MIB).step_by(len as usize) {
            rig.read(offset, len);
            let ahead = rig.front().saturating_sub(offset + len);
            assert!(ahead <= MOST_AHEAD && ahead <= (offset + len) / 2, "{len}: {ahead} ahead at {offset}");
            if offset >= 96 * MIB {
                assert!(
                    ahead >= MOST_AHEAD - MOST_PIECE - 2 * REGION - len,
                    "{len}: {ahead} ahead at {offset}"
                );
            }
        }
        // One piece begins where the one before ended, and they grow.
        assert!(rig.fetched.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(len >= MIB || rig.fetched.iter().any(|piece| piece.end - piece.start == LEAST_PIECE));
        assert!(rig.fetched.last().is_some_and(|piece| piece.end - piece.start == MOST_PIECE));
        if len < REGION {
            let reads = 256 * MIB / len;
            assert!(rig.notes < reads / 3 + 200, "{len}: {} of {reads} reads were noted", rig.notes);
        }
    }
}

#[test]
fn the_end_of_the_disk_is_fetched_and_nothing_behind_it() {
    let mut rig = Rig::default();
    for offset in (SIZE - 64 * MIB..SIZE).step_by(128 << 10) {
        rig.read(offset, 128 << 10);
    }
    assert_eq!(rig.front(), SIZE);
    assert_eq!(rig.streams.due(SIZE), 0);
}

#[test]
fn reads_here_and_there_fetch_nothing() {
    let mut rng = crate::testing::Rng::new(1);
    let mut rig = Rig::default();
    for _ in 0..10_000 {
        rig.read(rng.below((SIZE / 4096) as usize) as u64 * 4096, 4096);
    }
    assert_eq!(rig.bytes(), 0, "{:?}", rig.fetched);
    assert!(rig.streams.streams.len() <= STREAMS);
}

#[test]
fn streams_run_side_by_side_and_among_other_reads() {
    let mut rng = crate::testing::Rng::new(2);
    let mut rig = Rig::default();
    let starts = [0, 300 * MIB, 500 * MIB, 801 * MIB];
    for at in (0..64 * MIB).step_by(128 << 10) {
        for start in starts {
            rig.read(start + at, 128 << 10);
            rig.read(rng.below((SIZE / 4096) as usize) as u64 * 4096, 4096);
        }
    }
    for start in starts {
        assert!((start + 8 * MIB..start + 64 * MIB).step_by(4096).all(|at| rig.has(at)), "stream at {start}");
    }
}

#[test]
fn requests_in_flight_together_may_arrive_out_of_order() {
    let mut rng = crate::testing::Rng::new(3);
    let mut rig = Rig::default();
    for window in 0..32 {
        let mut order: Vec<u64> = (0..8).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, rng.below(last + 1));
        }
        for at in order {
            rig.read((window * 8 + at) * 256 * 1024, 256 * 1024);
        }
    }
    assert!(rig.front() > 64 * MIB && rig.has(63 * MIB));
}

#[test]
fn a_small_memory_is_not_read_past() {
    let mut rig = Rig { streams: Streams::new(2 * MIB), ..Rig::default() };
    for offset in (0..64 * MIB).step_by(128 << 10) {
        rig.read(offset, 128 << 10);
        assert!(rig.front().saturating_sub(offset) <= 2 * MIB + (128 << 10));
    }
    assert!(rig.has(63 * MIB));
}

#[test]
fn what_can_not_start_now_starts_later() {
    let mut streams = Streams::new(MOST_AHEAD);
    let mut started = Vec::new();
    for number in 0..200_u64 {
        streams.note(&(number * MIB..(number + 1) * MIB), SIZE, |piece| {
            let now = number % 10 == 9;
            if now {
                started.push(piece);
            }
            now
        });
    }
    assert!(started.windows(2).all(|pair| pair[0].end <= pair[1].start), "no piece twice: {started:?}");
    assert!(started.len() > 20);
}

/// A jump that may go unnoticed, in bytes.
const SHORT: u64 = MOST_PIECE + MARKED * REGION;

proptest! {
    /// Readers that go on for a while and then jump: what is fetched and never read stays below half of what is read. What
    /// a short jump passes over counts as read, as it may have been from memory.
    #[test]
    fn waste_is_bounded(
        runs in prop::collection::vec((0_u64..SIZE / 4096 - 5000, 1_u64..300, prop_oneof![Just(1_u64), Just(8), Just(32)]), 1..60),
    ) {
        let mut rig = Rig::default();
        let mut read = std::collections::HashSet::new();
        let mut ends = std::collections::BTreeSet::new();
        for (start, count, blocks) in runs {
            let end = ends.range(..=start).next_back().copied();
            read.extend(end.filter(|end| start - end <= SHORT / 4096).into_iter().flat_map(|end| end..start));
            for number in 0..count.min(5000 / blocks) {
                let first = start + number * blocks;
                rig.read(first * 4096, blocks * 4096);
                read.extend(first..first + blocks);
                ends.insert(first + blocks);
            }
        }
        let fetched: std::collections::HashSet<u64> =
            rig.fetched.iter().flat_map(|piece| piece.start / 4096..piece.end / 4096).collect();
        let wasted = fetched.difference(&read).count();
        prop_assert!(wasted <= read.len() / 2, "{wasted} blocks fetched and not read, {} read", read.len());
    }
}
