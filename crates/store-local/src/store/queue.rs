//! The last step to being live: locators enter the catalog in the order in which their packs were begun.
//!
//! Packs are sealed side by side, and one may be done before an earlier one. Callers put children before
//! parents; so what is live must always be a prefix of what was put, or a node would be there, after a crash or
//! for another process, whose children are not. A pack that is ready therefore waits for all before it.
//!
//! A pack whose file could not be made durable is *lost*. What was put behind it waits until its entries were put
//! again, and enters the catalog together with them, in one compare-and-swap.

use std::collections::BTreeMap;

use gabion_store_core::{
    Error, Result,
    format::{catalog::LocatorRef, pack::Contents, rows::EntryKey},
    sync::Mutex,
    types::PackId,
};

/// A durable pack with a durable locator.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) pack: PackId,
    pub(super) contents: Contents,
    pub(super) locator: LocatorRef,
}

/// Packs that are not live yet.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Held while locators are entered.
    entering: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Packs that were begun, by number; without a value until they are ready.
    waiting: BTreeMap<u64, Option<Ready>>,
    /// Entries that were accepted and are gone, and why.
    lost: BTreeMap<EntryKey, Error>,
    /// All up to this pack enter the catalog together.
    together: Option<u64>,
}

impl Queue {
    /// Gives a new pack its place.
    pub(super) fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.insert(number, None);
        number
    }

    /// The number of the next pack.
    pub(super) fn next(&self) -> u64 {
        self.state.lock().next
    }

    /// A pack has nothing left to do but to wait for its turn.
    pub(super) fn ready(&self, number: u64, ready: Ready) {
        self.state.lock().waiting.insert(number, Some(ready));
    }

    /// A pack is gone with these entries.
    pub(super) fn lose(&self, number: u64, entries: impl Iterator<Item = EntryKey>, why: &Error) {
        let mut state = self.state.lock();
        state.waiting.remove(&number);
        state.lost.extend(entries.map(|key| (key, why.clone())));
        // Entries of it that were put again meanwhile may lie in any pack that was begun since.
        state.together = state.next.checked_sub(1);
    }

    /// Entries were accepted into a pack, lost ones perhaps among them.
    pub(super) fn accepted(&self, number: u64, keys: impl Iterator<Item = EntryKey>) {
        let mut state = self.state.lock();
        if state.lost.is_empty() {
            return;
        }
        for key in keys {
            if state.lost.remove(&key).is_some() {
                state.together = state.together.max(Some(number));
            }
        }
    }

    /// Why not everything accepted can become durable, if entries are lost.
    pub(super) fn fault(&self) -> Result<()> {
        let state = self.state.lock();
        let Some((key, e)) = state.lost.first_key_value() else { return Ok(()) };
        Err(e.clone().context(format!(
            "{} entries were lost before they were durable, {} among them: store them again",
            state.lost.len(),
            key.id
        )))
    }

    /// Whether a pack before `number` is not live yet.
    pub(super) fn is_waiting(&self, number: u64) -> bool {
        self.state.lock().waiting.range(..number).next().is_some()
    }

    /// Lets `enter` put into the catalog, in this order, whatever has its turn. After an error it waits on.
    pub(super) fn advance(&self, enter: impl FnOnce(&[Ready]) -> Result<()>) -> Result<()> {
        let _entering = self.entering.lock();
        let batch = self.state.lock().take();
        if batch.is_empty() {
            return Ok(());
        }
        let (numbers, ready): (Vec<u64>, Vec<Ready>) = batch.into_iter().unzip();
        let entered = enter(&ready);
        let mut state = self.state.lock();
        match &entered {
            Ok(()) => numbers.iter().for_each(|number| drop(state.waiting.remove(number))),
            Err(_) => state.waiting.extend(numbers.into_iter().zip(ready.into_iter().map(Some))),
        }
        entered
    }
}

impl State {
    /// Takes the packs whose turn it is; their places stay taken.
    fn take(&mut self) -> Vec<(u64, Ready)> {
        let ready = self.waiting.iter().take_while(|(_, ready)| ready.is_some());
        let until = ready.last().map(|(number, _)| *number);
        let held =
            self.together.is_some_and(|together| self.waiting.range(..=together).any(|(_, r)| r.is_none()));
        let Some(until) = until.filter(|_| self.lost.is_empty() && !held) else { return Vec::new() };
        self.together = None;
        let turn = self.waiting.range_mut(..=until);
        turn.filter_map(|(number, ready)| Some((*number, ready.take()?))).collect()
    }
}
