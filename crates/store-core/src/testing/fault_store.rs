//! [`FaultStore`]: a store that fails when told to, before or *after* the effect, and lies when told to.
//!
//! Faults come from three places, asked in this order: the script (the n-th call of a method), the
//! outage (every call), and chaos (a seeded part of all calls). Bad entries, by id, are apart: they stay bad
//! until they are put again, which heals them as a real store would. The same seed and the same order of
//! calls of each method give the same faults, and every injected error names method, call and seed.

mod chunks;
mod records;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{Gate, Rng};
use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, IndexStore, Result, Store, format::codec::Encoded,
    sync::Mutex,
};

/// A method of [`ChunkStore`] or [`IndexStore`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named as the methods are")]
pub enum Call {
    Get,
    Put,
    Contains,
    Sync,
    GetRange,
    GetEncoded,
    PutEncoded,
    Locate,
    ReadImage,
    WriteImage,
    RemoveImage,
    ListImages,
    ReadCatalog,
    WriteCatalog,
    Settle,
    PutMap,
    GetMap,
}

/// What goes wrong in a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Fails without an effect.
    Before(ErrorKind),
    /// Has its effect, then fails: the outcome is unknown to the caller.
    After(ErrorKind),
    /// Waits at the gate before the effect, then goes on as if nothing were wrong.
    Hold(Arc<Gate>),
    /// Has its effect, then waits at the gate before it answers.
    HoldAfter(Arc<Gate>),
    /// Answers each of the entries or the map asked for with one bit flipped.
    Corrupt,
    /// Answers each of the entries or the map asked for cut short.
    Cut,
    /// Answers that nothing is there: no entry, no image, no map, no place, an empty list.
    Missing,
}

impl Fault {
    /// Whether an answer of the method can show it.
    fn fits(&self, call: Call) -> bool {
        use Call::{Contains, Get, GetEncoded, GetMap, GetRange, ListImages, Locate, ReadImage};
        match self {
            Self::Before(_) | Self::After(_) | Self::Hold(_) | Self::HoldAfter(_) => true,
            Self::Corrupt | Self::Cut => matches!(call, Get | GetRange | GetEncoded | GetMap),
            Self::Missing => {
                matches!(
                    call,
                    Get | GetRange | GetEncoded | GetMap | Contains | Locate | ReadImage | ListImages
                )
            }
        }
    }
}

/// How one entry is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEntry {
    /// Reads answer it with one bit flipped; it counts as present.
    Corrupt,
    /// Reads answer it cut short; it counts as present.
    Cut,
    /// It is not there.
    Missing,
    /// Reads of it fail with this kind; it counts as present.
    Failing(ErrorKind),
}

#[derive(Debug, Default)]
struct Plan {
    script: HashMap<(Call, u64), Fault>,
    outage: Option<ErrorKind>,
    chaos: Option<Chaos>,
    entries: BTreeMap<(ChunkKind, ChunkId), BadEntry>,
    calls: HashMap<Call, u64>,
}

#[derive(Debug)]
struct Chaos {
    one_in: usize,
    faults: Vec<Fault>,
}

/// A store around another, with faults. Without any it is the other store.
#[derive(Debug)]
pub struct FaultStore {
    chunks: Arc<dyn ChunkStore>,
    index: Arc<dyn IndexStore>,
    seed: u64,
    plan: Mutex<Plan>,
}

/// What is left of a call's fault once it has begun.
struct Begun {
    after: Option<Fault>,
    rng: Rng,
    at: String,
}

impl FaultStore {
    /// Puts faults, drawn by `seed` where chance decides, in front of `inner`.
    pub fn new(inner: Store, seed: u64) -> Arc<Self> {
        let Store { chunks, index } = inner;
        Arc::new(Self { chunks, index, seed, plan: Mutex::default() })
    }

    /// This store as a [`Store`].
    pub fn store(self: &Arc<Self>) -> Store {
        Store { chunks: self.clone(), index: self.clone() }
    }

    /// Scripts the call of a method after `skip` more that the script leaves alone (0: the next one).
    ///
    /// # Panics
    /// If no answer of the method can show the fault.
    pub fn script(&self, call: Call, skip: u64, fault: Fault) {
        assert!(fault.fits(call), "{call:?} can't show {fault:?}");
        let plan = &mut *self.plan.lock();
        let number = plan.calls.get(&call).copied().unwrap_or(0) + skip;
        plan.script.insert((call, number), fault);
    }

    /// Fails every call that is not scripted, before its effect, until called with `None`.
    pub fn outage(&self, kind: Option<ErrorKind>) {
        self.plan.lock().outage = kind;
    }

    /// Gives one in `one_in` calls one of the faults, by the seed; where a method can't show the fault that
    /// was drawn, nothing happens. 0, or no faults, ends it.
    pub fn chaos(&self, one_in: usize, faults: Vec<Fault>) {
        let some = one_in > 0 && !faults.is_empty();
        self.plan.lock().chaos = some.then_some(Chaos { one_in, faults });
    }

    /// Makes an entry bad until it is put again.
    pub fn break_entry(&self, kind: ChunkKind, id: ChunkId, how: BadEntry) {
        self.plan.lock().entries.insert((kind, id), how);
    }

    /// Ends all faults; counts stay.
    pub fn heal(&self) {
        let plan = &mut *self.plan.lock();
        *plan = Plan { calls: std::mem::take(&mut plan.calls), ..Plan::default() };
    }

    /// How often a method was called, failed calls included.
    pub fn calls(&self, call: Call) -> u64 {
        self.plan.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Counts the call and does what its fault does before the effect.
    async fn begin(&self, call: Call) -> Result<Begun> {
        let (number, fault, rng) = self.draw(call);
        let at = format!("{call:?} number {number}, seed {}", self.seed);
        let mut begun = Begun { after: None, rng, at };
        match fault {
            Some(Fault::Before(kind)) => return Err(begun.error(kind, "before")),
            Some(Fault::Hold(gate)) => gate.pass().await,
            fault => begun.after = fault,
        }
        Ok(begun)
    }

    fn draw(&self, call: Call) -> (u64, Option<Fault>, Rng) {
        let plan = &mut *self.plan.lock();
        let count = plan.calls.entry(call).or_insert(0);
        let number = *count;
        *count += 1;
        // Of the seed, the method and the number alone, so that other methods' calls don't matter.
        let mut rng = Rng::new(self.seed ^ Rng::new(((call as u64) << 56) ^ number).next());
        let drawn = plan.chaos.as_ref().and_then(|chaos| {
            let hit = rng.below(chaos.one_in) == 0;
            let fault = &chaos.faults[rng.below(chaos.faults.len())];
            (hit && fault.fits(call)).then(|| fault.clone())
        });
        let scripted = plan.script.remove(&(call, number));
        (number, scripted.or(plan.outage.map(Fault::Before)).or(drawn), rng)
    }

    /// What reads of these entries show, by position.
    fn bad(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Option<BadEntry>> {
        let plan = self.plan.lock();
        ids.iter().map(|id| plan.entries.get(&(kind, *id)).copied()).collect()
    }

    fn mend(&self, kind: ChunkKind, ids: &[ChunkId]) {
        let plan = &mut *self.plan.lock();
        for id in ids {
            plan.entries.remove(&(kind, *id));
        }
    }
}

impl Begun {
    fn error(&self, kind: ErrorKind, when: &str) -> Error {
        Error::new(kind, format!("injected {kind:?} {when} {}", self.at))
    }

    /// Does what the call's fault does after the effect and before the answer.
    async fn finish(&self) -> Result<()> {
        match &self.after {
            Some(Fault::After(kind)) => Err(self.error(*kind, "after")),
            Some(Fault::HoldAfter(gate)) => {
                gate.pass().await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn is_missing(&self) -> bool {
        matches!(self.after, Some(Fault::Missing))
    }

    /// How the call's fault makes each of its entries bad.
    fn bad(&self) -> Option<BadEntry> {
        match self.after {
            Some(Fault::Corrupt) => Some(BadEntry::Corrupt),
            Some(Fault::Cut) => Some(BadEntry::Cut),
            Some(Fault::Missing) => Some(BadEntry::Missing),
            _ => None,
        }
    }

    fn spoil<T: Spoil>(&mut self, answer: Result<T>, bad: Option<BadEntry>) -> Result<T> {
        match bad {
            None => answer,
            Some(BadEntry::Missing) => Err(self.error(ErrorKind::NotFound, "by leaving out an answer of")),
            Some(BadEntry::Failing(kind)) => Err(self.error(kind, "for an entry of")),
            Some(BadEntry::Corrupt) => answer.map(|entry| entry.map(|bytes| flip(&bytes, &mut self.rng))),
            Some(BadEntry::Cut) => {
                answer.map(|entry| entry.map(|bytes| bytes.slice(..self.rng.below(bytes.len()))))
            }
        }
    }
}

fn flip(bytes: &Bytes, rng: &mut Rng) -> Bytes {
    let mut flipped = bytes.to_vec();
    match flipped.len() {
        0 => flipped.push(0),
        len => flipped[rng.below(len)] ^= 1 << rng.below(8),
    }
    flipped.into()
}

/// An answer with bytes in it.
trait Spoil {
    fn map(self, change: impl FnOnce(Bytes) -> Bytes) -> Self;
}

impl Spoil for Bytes {
    fn map(self, change: impl FnOnce(Bytes) -> Bytes) -> Self {
        change(self)
    }
}

impl Spoil for Encoded {
    fn map(mut self, change: impl FnOnce(Bytes) -> Bytes) -> Self {
        self.bytes = change(self.bytes);
        self
    }
}
