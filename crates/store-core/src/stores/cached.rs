//! [`Cached`]: memory in front of a store, filled by reads, asking for each entry once at a time.
//!
//! The outermost layer: a warm read ends in [`try_get`](crate::ChunkStore::try_get). Below the memory
//! everything is verified (the layer brings its own [`Verify`]), so only verified bytes enter it, and
//! the verified state lives exactly as long as their slot.
//!
//! **Single flight**: a batch of misses is one call of the store below, a *flight*. Who misses an entry that
//! is in the air waits for that flight instead of asking again. A flight belongs to all who wait for it:
//! whoever polls moves it on, so that a reader that is dropped neither strands nor fails the others; when
//! the last one is dropped, the flight is cancelled. An error reaches all who waited, and nobody later.
//! A flight lands as a whole: who waits for one entry of it waits for the batch.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt,
    future::{self, BoxFuture, Shared, WeakShared},
};

use super::{MemoryCache, Verify, verify::slice};
use crate::{
    ChunkId, ChunkKind, ChunkStore, Result,
    format::codec::Encoded,
    store::{Placement, Synced, get_one},
    sync::Mutex,
    types::MapId,
};

#[cfg(test)]
mod tests;

/// A store behind a memory cache.
///
/// Reads of entries fill the cache, and a part of an entry fills it with the whole. Writes pass through
/// and fill nothing: their bytes were not hashed here, and a bulk import would evict what is being read.
/// Encoded reads, which serve transfers, pass by the cache for the same reason. `contains` is asked of the
/// store below, since its answer must be covered by that store's sync.
#[derive(Debug)]
pub struct Cached {
    cache: Arc<MemoryCache>,
    /// Hashes what it answers.
    inner: Arc<dyn ChunkStore>,
    flights: Arc<Flights>,
}

type Flight = BoxFuture<'static, Arc<[Result<Bytes>]>>;

/// Where to wait for an entry that is in the air. Weak: only those who wait keep a flight alive.
struct Seat {
    number: u64,
    flight: WeakShared<Flight>,
    /// Place of the entry among the flight's answers.
    at: usize,
}

/// The entries in the air.
#[derive(Default)]
struct Flights {
    /// Never locked while the last reference to a flight is dropped, which locks it, too.
    seats: Mutex<HashMap<(ChunkKind, ChunkId), Seat>>,
    numbers: AtomicU64,
}

/// Takes a flight's seats away when it has landed or was cancelled.
struct Landing {
    flights: Arc<Flights>,
    number: u64,
    kind: ChunkKind,
    ids: Arc<[ChunkId]>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut seats = self.flights.seats.lock();
        for id in &*self.ids {
            let key = (self.kind, *id);
            // After a cancelled flight the seat may be a later flight's already.
            if seats.get(&key).is_some_and(|seat| seat.number == self.number) {
                seats.remove(&key);
            }
        }
    }
}

/// What a reader waits for.
#[derive(Default)]
struct Tickets {
    flights: Vec<(u64, Shared<Flight>)>,
    /// Position among the reader's ids, which of `flights`, place among its answers.
    seats: Vec<(usize, usize, usize)>,
}

impl Tickets {
    fn add(&mut self, position: usize, number: u64, flight: Shared<Flight>, at: usize) {
        let known = self.flights.iter().position(|(other, _)| *other == number);
        let which = known.unwrap_or_else(|| {
            self.flights.push((number, flight));
            self.flights.len() - 1
        });
        self.seats.push((position, which, at));
    }
}

impl Cached {
    /// Puts `cache`, which other stores may share, in front of `inner`.
    pub fn new(cache: Arc<MemoryCache>, inner: Arc<dyn ChunkStore>) -> Self {
        Self::trusting(cache, Arc::new(Verify::new(inner)))
    }

    /// The same in front of a store that is known to hash whatever it answers, as a disk cache does: nothing is hashed
    /// twice on its way into memory.
    pub fn trusting(cache: Arc<MemoryCache>, inner: Arc<dyn ChunkStore>) -> Self {
        Self { cache, inner, flights: Arc::default() }
    }

    /// The memory in front.
    pub fn cache(&self) -> &Arc<MemoryCache> {
        &self.cache
    }

    /// Finds a flight for every entry without an answer, starting at most one of its own. What landed
    /// meanwhile is answered.
    fn board(&self, kind: ChunkKind, ids: &[ChunkId], answers: &mut [Option<Result<Bytes>>]) -> Tickets {
        // Made before the lock is taken, so that on no path a flight is dropped under it.
        let mut tickets = Tickets::default();
        let mut own = HashMap::new();
        let mut own_ids = Vec::new();
        let mut own_seats = Vec::new();
        let mut seats = self.flights.seats.lock();
        let unanswered = ids.iter().zip(answers).enumerate().filter(|(_, (_, answer))| answer.is_none());
        for (position, (id, answer)) in unanswered {
            let seat = seats.get(&(kind, *id));
            if let Some((seat, flight)) = seat.and_then(|seat| Some((seat, seat.flight.upgrade()?))) {
                tickets.add(position, seat.number, flight, seat.at);
            } else if let Some(bytes) = self.cache.probe(kind, id) {
                // A flight fills the cache before it gives up its seats.
                *answer = Some(Ok(bytes));
            } else {
                let at = *own.entry(*id).or_insert_with(|| {
                    own_ids.push(*id);
                    own_ids.len() - 1
                });
                own_seats.push((position, at));
            }
        }
        if !own_ids.is_empty() {
            let number = self.flights.numbers.fetch_add(1, Ordering::Relaxed);
            let own_ids: Arc<[_]> = own_ids.into();
            let flight = self.start(number, kind, own_ids.clone());
            for (at, id) in own_ids.iter().enumerate() {
                let flight = flight.downgrade().expect("a flight that was never polled has not ended");
                seats.insert((kind, *id), Seat { number, flight, at });
            }
            for (position, at) in own_seats {
                tickets.add(position, number, flight.clone(), at);
            }
        }
        tickets
    }

    fn start(&self, number: u64, kind: ChunkKind, ids: Arc<[ChunkId]>) -> Shared<Flight> {
        let (cache, inner) = (self.cache.clone(), self.inner.clone());
        let landing = Landing { flights: self.flights.clone(), number, kind, ids };
        let flight = async move {
            let answers = inner.get(kind, &landing.ids).await;
            for (id, answer) in landing.ids.iter().zip(&answers) {
                if let Ok(bytes) = answer {
                    cache.insert(kind, *id, bytes);
                }
            }
            answers.into()
        };
        flight.boxed().shared()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChunkStore for Cached {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        let mut answers: Vec<_> = ids.iter().map(|id| self.cache.get(kind, id).map(Ok)).collect();
        if answers.iter().any(Option::is_none) {
            let Tickets { flights, seats } = self.board(kind, ids, &mut answers);
            let landed = future::join_all(flights.into_iter().map(|(_, flight)| flight)).await;
            for (position, flight, at) in seats {
                answers[position] = Some(landed[flight][at].clone());
            }
        }
        let answered = answers.into_iter();
        answered.map(|answer| answer.expect("what memory did not answer had a seat")).collect()
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        self.inner.put(kind, entries).await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.inner.contains(kind, ids).await
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        self.inner.holds(kind, ids).await
    }

    async fn sync(&self) -> Result<Synced> {
        self.inner.sync().await
    }

    /// From memory alone. A miss is not counted, since a [`get`](ChunkStore::get) follows it.
    fn try_get(&self, kind: ChunkKind, id: &ChunkId) -> Option<Bytes> {
        self.cache.probe(kind, id)
    }

    /// Out of the whole entry: the next part of it is a hit.
    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        slice(id, &get_one(self, kind, id).await?, start, length)
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        self.inner.get_encoded(kind, ids).await
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        self.inner.put_encoded(kind, entries).await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.inner.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        self.inner.locate(kind, ids).await
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").field("entries", &self.seats.lock().len()).finish_non_exhaustive()
    }
}
