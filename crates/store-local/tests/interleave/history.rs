//! What requests began and were answered when, and whether there is an order of them that explains what was seen.
//!
//! A disk is a row of units, each a register of its own, since requests that overlap take effect in some order unit by
//! unit. What is written carries a tag that nothing else of the run has, or 0 for zeros.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// Bytes that have one history. Half a sector, so that two writes meet in one.
pub(crate) const UNIT: usize = 256;

/// Order of what happened.
pub(crate) type Moment = u64;
/// Never answered, or not yet.
const OPEN: Moment = Moment::MAX;

/// A history while it is made. Its own lock is the standard library's: it is no part of what is explored.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Inner>);

#[derive(Default)]
struct Inner {
    moment: AtomicU64,
    events: Mutex<Events>,
}

#[derive(Clone, Default)]
struct Events {
    writes: Vec<Event>,
    reads: Vec<Event>,
}

/// A part of a request that takes effect at one moment between two.
#[derive(Clone, Debug)]
struct Event {
    began: Moment,
    ended: Moment,
    units: Range<usize>,
    /// One for each unit; of a write the same for all.
    tags: Vec<u8>,
}

/// A request that is under way: its writes.
pub(crate) struct Began(Range<usize>);

impl History {
    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.events.lock().unwrap()
    }

    /// Another moment, from 1 on.
    pub(crate) fn now(&self) -> Moment {
        self.0.moment.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A request begins that writes this to these ranges of bytes, each at some moment.
    pub(crate) fn begin(&self, writes: &[(Range<usize>, u8)]) -> Began {
        let (at, mut events) = (self.now(), self.events());
        let first = events.writes.len();
        for (bytes, tag) in writes.iter().filter(|(bytes, _)| !bytes.is_empty()) {
            let units = bytes.start / UNIT..bytes.end / UNIT;
            let tags = vec![*tag; units.len()];
            events.writes.push(Event { began: at, ended: OPEN, units, tags });
        }
        Began(first..events.writes.len())
    }

    /// It was answered.
    pub(crate) fn end(&self, request: Began) {
        let now = self.now();
        for write in &mut self.events().writes[request.0] {
            write.ended = now;
        }
    }

    /// A read is answered that began at a moment.
    pub(crate) fn read(&self, began: Moment, offset: usize, bytes: &[u8]) {
        let tags = tags(bytes);
        let units = offset / UNIT..offset / UNIT + tags.len();
        let ended = self.now();
        self.events().reads.push(Event { began, ended, units, tags });
    }

    /// Asserts that every unit has an order that explains what all reads saw.
    pub(crate) fn assert_explained(&self) {
        let events = self.events().clone();
        assert_explained(&events.writes, &events.reads, "the reads");
    }

    /// Asserts that `bytes` are what the whole disk was, unit by unit, at some moments between two; whatever reads
    /// saw.
    pub(crate) fn assert_was(&self, began: Moment, ended: Moment, bytes: &[u8], what: &str) {
        let tags = tags(bytes);
        let image = Event { began, ended, units: 0..tags.len(), tags };
        assert_explained(&self.events().writes, &[image], what);
    }

    /// Asserts that `bytes` are the whole disk at *one* moment between two: all that was answered before the first,
    /// nothing that began after the second, and if anything between, then whatever was answered before that began.
    pub(crate) fn assert_cut(&self, began: Moment, ended: Moment, bytes: &[u8]) {
        let (writes, tags) = (self.events().writes.clone(), tags(bytes));
        let before: Vec<_> = (0..writes.len()).filter(|&n| writes[n].ended < began).collect();
        let maybe: Vec<_> =
            (0..writes.len()).filter(|&n| writes[n].ended >= began && writes[n].began < ended).collect();
        assert!(maybe.len() < 20, "too many requests in flight to try all cuts");
        let explained = (0..1_u32 << maybe.len()).any(|bits| {
            let mut cut = before.clone();
            cut.extend(maybe.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, n)| *n));
            is_cut(&writes, &cut)
                && tags.iter().enumerate().all(|(unit, tag)| shows(&writes, &cut, unit, *tag))
        });
        assert!(
            explained,
            "no moment between {began} and {ended} has this disk: {}\n{}",
            short(&tags),
            listed(&writes)
        );
    }
}

/// Whether all that was answered before something of `cut` began is in it, too.
fn is_cut(writes: &[Event], cut: &[usize]) -> bool {
    let last = cut.iter().map(|&n| writes[n].began).max().unwrap_or(0);
    (0..writes.len()).all(|n| writes[n].ended > last || cut.contains(&n))
}

/// Whether a unit may show this after the writes of `cut`, in an order in which they may have taken effect.
fn shows(writes: &[Event], cut: &[usize], unit: usize, tag: u8) -> bool {
    let here = || cut.iter().map(|&n| &writes[n]).filter(|write| write.units.contains(&unit));
    if here().next().is_none() {
        return tag == 0;
    }
    here().any(|write| write.tags[0] == tag && !here().any(|later| write.ended < later.began))
}

fn assert_explained(writes: &[Event], reads: &[Event], what: &str) {
    let mut known = HashSet::new();
    let units = reads.iter().map(|read| read.units.end).max().unwrap_or(0);
    for unit in 0..units {
        let at = |event: &&Event| event.units.contains(&unit);
        let steps = |events: &[Event], is_read| -> Vec<_> {
            let step = |event: &Event| Step {
                began: event.began,
                ended: event.ended,
                tag: event.tags[unit - event.units.start],
                is_read,
            };
            events.iter().filter(at).map(step).collect()
        };
        let mut all = steps(writes, false);
        all.extend(steps(reads, true));
        if !known.contains(&all) {
            assert!(
                is_explained(&all),
                "no order explains {what} of unit {unit}: {all:#?}\n{}",
                listed(writes)
            );
            known.insert(all);
        }
    }
}

/// What a request does to one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Step {
    began: Moment,
    ended: Moment,
    tag: u8,
    is_read: bool,
}

/// Whether the steps can be put in an order in which every read has what was written last, and each step that ended
/// before another began comes before it. Those that never ended may be left out. After Wing and Gong.
fn is_explained(steps: &[Step]) -> bool {
    assert!(steps.len() < 32, "too many requests for one unit");
    let owed = steps.iter().enumerate().filter(|(_, step)| step.ended != OPEN);
    let owed = owed.fold(0_u32, |all, (n, _)| all | 1 << n);
    let (mut seen, mut open) = (HashSet::new(), vec![(0_u32, 0_u8)]);
    while let Some((done, now)) = open.pop() {
        if done & owed == owed {
            return true;
        }
        if !seen.insert((done, now)) {
            continue;
        }
        let left = || steps.iter().enumerate().filter(|(n, _)| done >> n & 1 == 0);
        let first_end = left().map(|(_, step)| step.ended).min().unwrap_or(OPEN);
        for (n, step) in left().filter(|(_, step)| step.began < first_end) {
            if !step.is_read || step.tag == now {
                open.push((done | 1 << n, step.tag));
            }
        }
    }
    false
}

/// The tag of each unit. A unit of several is torn.
fn tags(bytes: &[u8]) -> Vec<u8> {
    let tag = |unit: &[u8]| {
        assert!(
            unit.iter().all(|byte| *byte == unit[0]),
            "a unit is torn: {:?} {:?}",
            unit[0],
            unit[UNIT - 1]
        );
        unit[0]
    };
    bytes.chunks(UNIT).map(tag).collect()
}

fn short(tags: &[u8]) -> String {
    tags.iter().map(|tag| format!("{tag} ")).collect()
}

fn listed(writes: &[Event]) -> String {
    let line =
        |w: &Event| format!("{} in {:?}, {}..{}\n", w.tags[0], w.units, w.began, w.ended.cast_signed());
    writes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(began: Moment, ended: Moment, tag: u8, is_read: bool) -> Step {
        Step { began, ended, tag, is_read }
    }

    #[test]
    fn orders_are_found_or_not() {
        let (write, read) = (|b, e, tag| step(b, e, tag, false), |b, e, tag| step(b, e, tag, true));
        assert!(is_explained(&[write(0, 3, 1), write(1, 2, 2), read(4, 5, 1)]));
        assert!(is_explained(&[write(0, 3, 1), write(1, 2, 2), read(4, 5, 2)]));
        assert!(!is_explained(&[write(0, 1, 1), write(2, 3, 2), read(4, 5, 1)]), "overwritten");
        assert!(!is_explained(&[write(0, 3, 1), write(1, 2, 2), read(4, 5, 0)]), "lost");
        assert!(!is_explained(&[write(0, 9, 1), read(1, 2, 1), read(3, 4, 0)]), "gone again");
        assert!(is_explained(&[write(0, OPEN, 1), read(1, 2, 0), read(3, 4, 1)]));
        assert!(is_explained(&[write(0, OPEN, 1), read(1, 2, 0)]), "never happened");
    }

    #[test]
    fn cuts_are_found_or_not() {
        let history = History::default();
        let unit = |n: usize| n * UNIT..(n + 1) * UNIT;
        let disk = |a: u8, b: u8| [[a; UNIT], [b; UNIT]].concat();
        let first = history.begin(&[(unit(0), 1)]);
        let began = history.now();
        history.end(first);
        let second = history.begin(&[(unit(1), 2)]);
        history.end(second);
        let ended = history.now();
        for good in [disk(0, 0), disk(1, 0), disk(1, 2)] {
            history.assert_cut(began, ended, &good);
        }
        // The second without what was answered before it began; what began later.
        for (bad, ended) in [(disk(0, 2), ended), (disk(1, 2), began)] {
            let found = std::panic::catch_unwind(|| history.assert_cut(began, ended, &bad));
            assert!(found.is_err(), "{ended}");
        }
        let found = std::panic::catch_unwind(|| history.assert_cut(ended, ended, &disk(1, 0)));
        assert!(found.is_err(), "answered before");
    }
}
