//! Runs of whole spans in one state, each in 32 bytes however long it is.

use std::{collections::BTreeMap, ops::Range};

use crate::overlay::BlockState;

/// Spans that are zero or data as a whole; all others are base, as far as this knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Uniform(
    /// By first span: one past the last, and the state, never base. They are apart, or differ where they touch.
    BTreeMap<u64, (u64, BlockState)>,
);

impl Uniform {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, span: u64) -> BlockState {
        // Every read asks, and most disks have none.
        if self.0.is_empty() { BlockState::Base } else { self.search(span) }
    }

    fn search(&self, span: u64) -> BlockState {
        match self.0.range(..=span).next_back() {
            Some((_, (end, state))) if span < *end => *state,
            _ => BlockState::Base,
        }
    }

    /// Runs and parts of runs in `spans`, in order.
    pub(super) fn within(&self, spans: Range<u64>) -> impl Iterator<Item = (Range<u64>, BlockState)> {
        let open = self.0.range(..spans.start).next_back();
        open.into_iter().chain(self.0.range(spans.clone())).filter_map(move |(first, (end, state))| {
            let part = spans.start.max(*first)..spans.end.min(*end);
            (!part.is_empty()).then_some((part, *state))
        })
    }

    /// Sets the state of `spans`, which are not none.
    pub(super) fn set(&mut self, mut spans: Range<u64>, state: BlockState) {
        self.cut(spans.start);
        self.cut(spans.end);
        while let Some((first, _)) = self.0.range(spans.clone()).next() {
            let first = *first;
            self.0.remove(&first);
        }
        if state == BlockState::Base {
            return;
        }
        if let Some((first, _)) =
            self.0.range(..spans.start).next_back().filter(|(_, run)| **run == (spans.start, state))
        {
            spans.start = *first;
        }
        if let Some((end, _)) = self.0.get(&spans.end).copied().filter(|(_, next)| *next == state) {
            self.0.remove(&spans.end);
            spans.end = end;
        }
        self.0.insert(spans.start, (spans.end, state));
    }

    /// Makes two of the run that goes on across the begin of a span.
    fn cut(&mut self, span: u64) {
        if let Some((_, run)) = self.0.range_mut(..span).next_back()
            && run.0 > span
        {
            let behind = std::mem::replace(&mut run.0, span);
            let state = run.1;
            self.0.insert(span, (behind, state));
        }
    }

    /// How many runs there are.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}
