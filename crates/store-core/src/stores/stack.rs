//! [`Stack`]: stores as one, nearer ones first, one of them taking the writes.
//!
//! Stands below the memory cache and above the stores. It copies nothing between its tiers: a tier that
//! is to keep what was read is a cache, and fills itself.
//!
//! What a tier answers for an entry, and what follows:
//!
//! | a tier says | the stack |
//! |---|---|
//! | here it is | answers it |
//! | `NotFound` | asks the next tier |
//! | `Corrupt` | asks the next; `Corrupt` if no tier has it and all others know that they don't |
//! | `Unavailable` | asks the next; `Unavailable` if no tier has it: never `NotFound` |
//! | another error | as `Unavailable`, with that error, unless a tier is `Unavailable` |
//! | `Invalid` | answers it: the request is at fault, not the tier |

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};

use super::one_each;
use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
    types::MapId,
};

#[cfg(test)]
mod tests;

/// An ordered stack of stores. `put`, `sync`, `contains` and `locate` concern its write target alone:
/// presence decides whether a writer stores an entry, so an entry that only a nearer cache has must count
/// as absent; and places are of use only in the maps of the store that is written.
#[derive(Debug)]
pub struct Stack {
    tiers: Vec<Tier>,
    write: Arc<dyn ChunkStore>,
}

#[derive(Debug)]
struct Tier {
    name: String,
    store: Arc<dyn ChunkStore>,
}

/// Collects the tiers of a [`Stack`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct StackBuilder {
    tiers: Vec<Tier>,
}

impl StackBuilder {
    /// Adds a tier behind those added before, under a name for messages and for
    /// [`write_to`](Self::write_to).
    pub fn tier(mut self, name: impl Into<String>, store: Arc<dyn ChunkStore>) -> Self {
        self.tiers.push(Tier { name: name.into(), store });
        self
    }

    /// The stack, with the tier of this name as its write target. `Invalid` if no tier or more than one
    /// has the name.
    pub fn write_to(self, name: &str) -> Result<Stack> {
        let mut named = self.tiers.iter().filter(|tier| tier.name == name);
        let (Some(target), None) = (named.next(), named.next()) else {
            let names = names(&self.tiers);
            return Err(Error::invalid(format!(
                "'{name}' must name exactly one store of the stack: {names}"
            )));
        };
        Ok(Stack { write: target.store.clone(), tiers: self.tiers })
    }
}

fn names(tiers: &[Tier]) -> String {
    tiers.iter().map(|tier| tier.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Which of the errors of several tiers the stack reports: the greatest. Absence is no error of a tier.
fn weight(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::NotFound => 0,
        ErrorKind::Corrupt => 1,
        ErrorKind::Unavailable => 3,
        _ => 2,
    }
}

impl Stack {
    /// A stack without tiers, to add some.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// Asks tier after tier for what is not answered yet, by the table above.
    async fn ask<T: Clone + Send>(
        &self,
        kind: ChunkKind,
        ids: &[ChunkId],
        ask: impl for<'a> Fn(&'a dyn ChunkStore, &'a [ChunkId]) -> BoxFuture<'a, Vec<Result<T>>> + Send + Sync,
    ) -> Vec<Result<T>> {
        let mut answers: Vec<Option<Result<T>>> = vec![None; ids.len()];
        let mut pending: Vec<_> = (0..ids.len()).collect();
        for tier in &self.tiers {
            if pending.is_empty() {
                break;
            }
            let asked: Vec<_> = pending.iter().map(|position| ids[*position]).collect();
            let answered = one_each(&asked, ask(&*tier.store, &asked).await);
            let mut open = Vec::new();
            for (position, answer) in pending.into_iter().zip(answered) {
                let slot = &mut answers[position];
                let known = slot.as_ref().and_then(|known| known.as_ref().err()).map_or(0, weight);
                match answer {
                    Err(e) if e.kind() != ErrorKind::Invalid => {
                        if weight(&e) > known {
                            let (id, name) = (&ids[position], &tier.name);
                            *slot = Some(Err(e.context(format!("{kind:?} entry {id} in store '{name}'"))));
                        }
                        open.push(position);
                    }
                    settled => *slot = Some(settled),
                }
            }
            pending = open;
        }
        let absent = |id| {
            let names = names(&self.tiers);
            Err(Error::not_found(format!("{kind:?} entry {id} is in no store of the stack: {names}")))
        };
        answers.into_iter().zip(ids).map(|(answer, id)| answer.unwrap_or_else(|| absent(id))).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChunkStore for Stack {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        self.ask(kind, ids, |store, ids| store.get(kind, ids)).await
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.write.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.write.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        self.write.holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        self.write.sync().await
    }

    /// From the first tier that has it at once.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.tiers.iter().find_map(|tier| tier.store.try_get(kind, id))
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let ids = std::slice::from_ref(id);
        let one = self.ask(kind, ids, |store, ids| {
            async move { vec![store.get_range(kind, &ids[0], start, length).await] }.boxed()
        });
        one.await.pop().expect("one id has one answer")
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        self.ask(kind, ids, |store, ids| store.get_encoded(kind, ids)).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.write.put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.tiers.iter().for_each(|tier| tier.store.expect(maps, chunks));
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.write.locate(kind, ids).await
    }
}
