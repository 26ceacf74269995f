//! The states against a plain list of them.

use proptest::{collection::vec, prelude::*};

use super::*;

const STATES: [BlockState; 3] = [BlockState::Base, BlockState::Zero, BlockState::Data];

/// What the runs of a list must be.
fn model_runs(model: &[BlockState]) -> Vec<(BlockRange, BlockState)> {
    let mut runs: Vec<(BlockRange, BlockState)> = Vec::new();
    for (block, &state) in (0..).zip(model) {
        match runs.last_mut() {
            Some((run, of)) if run.end == block && *of == state => run.end += 1,
            _ if state == BlockState::Base => {}
            _ => runs.push((BlockRange::new(block, block + 1), state)),
        }
    }
    runs
}

/// Ranges that are short, of whole regions and spans, or anything.
fn ranges(blocks: u64) -> impl Strategy<Value = BlockRange> {
    let region = REGION_BLOCKS as u64;
    prop_oneof![
        6 => (0..blocks, 1..12u64).prop_map(|(at, len)| BlockRange::new(at, at + len)),
        2 => (0..blocks / region, 1..4u64).prop_map(move |(at, n)| {
            BlockRange::new(at * region, (at + n) * region)
        }),
        1 => (0..blocks / SPAN_BLOCKS + 1).prop_map(|span| {
            BlockRange::new(span * SPAN_BLOCKS, (span + 1) * SPAN_BLOCKS)
        }),
        1 => (0..blocks, 0..blocks).prop_map(|(a, b)| BlockRange::new(a.min(b), a.max(b))),
    ]
}

fn apply(model: &mut [BlockState], range: BlockRange, state: BlockState) {
    let end = (range.end as usize).min(model.len());
    model[(range.start as usize).min(end)..end].fill(state);
}

fn check(states: &BlockStates, model: &[BlockState]) {
    assert_eq!(states.runs(0, usize::MAX), model_runs(model));
    assert_eq!(states.count_runs(), model_runs(model).len() as u64);
    let data = model.iter().filter(|&&state| state == BlockState::Data).count();
    assert_eq!(states.data_blocks(), data as u64);
    assert_eq!(states.is_empty(), model.iter().all(|&state| state == BlockState::Base));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn like_a_list(
        blocks in 1..3 * SPAN_BLOCKS,
        marks in vec((ranges(3 * SPAN_BLOCKS), 0..3usize), 1..60),
        probes in vec(ranges(3 * SPAN_BLOCKS), 8),
        max in 0..20usize,
    ) {
        let mut model = vec![BlockState::Base; blocks as usize];
        let mut states = BlockStates::new(blocks);
        for (range, state) in marks {
            states.set(range, STATES[state]);
            apply(&mut model, range, STATES[state]);
        }
        check(&states, &model);
        for probe in probes {
            let probe = probe.intersect(&BlockRange::new(0, blocks));
            if probe.is_empty() {
                continue;
            }
            let here = &model[probe.start as usize..probe.end as usize];
            prop_assert_eq!(states.get(probe.start), here[0]);
            let run = here.iter().take_while(|&&state| state == here[0]).count() as u64;
            prop_assert_eq!(states.first_run(probe), (here[0], probe.start + run));
            let mut later = model.clone();
            later[..probe.start as usize].fill(BlockState::Base);
            let mut expected = model_runs(&later);
            expected.truncate(max);
            prop_assert_eq!(states.runs(probe.start, max), expected);
        }
        let mut grown = states.clone();
        grown.grow(blocks + 7);
        model.resize(blocks as usize + 7, BlockState::Base);
        check(&grown, &model);
    }

    #[test]
    fn one_region_in_every_form(marks in vec((0..520u64, 1..9u64, 0..3usize), 1..200)) {
        let blocks = 600;
        let mut model = vec![BlockState::Base; blocks];
        let mut states = BlockStates::new(blocks as u64);
        for (at, len, state) in marks {
            let range = BlockRange::new(at, at + len);
            states.set(range, STATES[state]);
            apply(&mut model, range, STATES[state]);
            check(&states, &model);
        }
    }

    #[test]
    fn newer_marks_win(
        newer in vec((ranges(4000), 0..3usize), 0..20),
        older in vec((ranges(4000), 0..3usize), 0..20),
    ) {
        let build = |marks: Vec<(BlockRange, usize)>| {
            let mut model = vec![BlockState::Base; 4000];
            let mut states = BlockStates::new(4000);
            for (range, state) in marks {
                states.set(range, STATES[state]);
                apply(&mut model, range, STATES[state]);
            }
            (states, model)
        };
        let ((mut states, mut model), (below, below_model)) = (build(newer), build(older));
        states.fill_from(&below);
        for (state, below) in model.iter_mut().zip(below_model) {
            if *state == BlockState::Base {
                *state = below;
            }
        }
        check(&states, &model);
        let taken = states.take();
        check(&taken, &model);
        prop_assert!(states.is_empty());
    }
}

#[test]
fn a_scattered_million_is_small_and_a_trimmed_disk_smaller() {
    let blocks = (1u64 << 40) / 4096;
    let mut states = BlockStates::new(blocks);
    let mut at = 1u64;
    for _ in 0..1_000_000 {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let block = (at >> 20) % blocks;
        states.set(BlockRange::new(block, block + 1), BlockState::Data);
    }
    let maps = |regions: &Table| regions.iter().filter(|region| matches!(region, Region::Map(_))).count();
    let bytes = |regions: &Table| size_of_val(&**regions) + maps(regions) * size_of::<region::Bitmap>();
    let bytes: usize = states.tables.values().map(bytes).sum();
    assert!(bytes < 9 << 20, "{bytes} bytes");
    states.set(BlockRange::new(0, blocks), BlockState::Zero);
    assert_eq!(states.runs(0, 2), [(BlockRange::new(0, blocks), BlockState::Zero)]);
    assert_eq!((states.tables.len(), states.uniform.count(), states.data_blocks()), (0, 1, 0));
}

#[test]
fn the_largest_disk_takes_as_much_as_its_runs() {
    let blocks = (1u64 << 63) / 4096 - 1;
    let all = BlockRange::new(0, blocks);
    let mut states = BlockStates::new(blocks);
    for state in [BlockState::Zero, BlockState::Data] {
        states.set(all, state);
        assert_eq!(states.runs(0, 2), [(all, state)]);
        assert_eq!(states.first_run(all), (state, blocks));
        // The last span is no whole one.
        assert_eq!((states.tables.len(), states.uniform.count()), (1, 1));
    }
    assert_eq!(states.data_blocks(), blocks);
    // A hole in the middle, and a block in the hole.
    let hole = BlockRange::new(blocks / 4, blocks / 2);
    states.set(hole, BlockState::Base);
    states.set(BlockRange::new(blocks / 3, blocks / 3 + 1), BlockState::Zero);
    assert_eq!((states.count_runs(), states.data_blocks()), (3, blocks - hole.count()));
    assert_eq!(states.get(blocks / 3), BlockState::Zero);
    assert_eq!(states.first_run(hole), (BlockState::Base, blocks / 3));
    assert!(states.tables.len() <= 4 && states.uniform.count() == 2);
    let mut newer = BlockStates::new(blocks);
    newer.set(BlockRange::new(0, 10), BlockState::Zero);
    newer.fill_from(&states);
    assert_eq!((newer.count_runs(), newer.data_blocks()), (4, blocks - hole.count() - 10));
    states.set(all, BlockState::Base);
    assert!(states.is_empty() && states.data_blocks() == 0);
}
