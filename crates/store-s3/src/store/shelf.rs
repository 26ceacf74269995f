//! [`Shelf`]: values that cost a request, made once at a time and kept within a number of bytes.

use std::{hash::Hash, sync::Arc};

use gabion_store_core::{Result, sync::Mutex};
use lru::LruCache;
use tokio::sync::OnceCell;

/// Values by key, least recently used ones dropped first. Whoever asks for a value that is being made waits for it;
/// if its maker goes away, one of those who wait makes it. A failure is told to its maker only and not kept.
#[derive(Debug)]
pub(super) struct Shelf<K: Hash + Eq, V> {
    slots: Mutex<Slots<K, V>>,
    budget: usize,
}

#[derive(Debug)]
struct Slots<K: Hash + Eq, V> {
    by_key: LruCache<K, Slot<V>>,
    weight: usize,
}

#[derive(Debug)]
struct Slot<V> {
    cell: Arc<OnceCell<V>>,
    /// In bytes; 0 until the value is made.
    weight: usize,
}

/// What a slot costs beside its value, in bytes, roughly.
const OVERHEAD: usize = 128;

impl<K: Hash + Eq + Clone, V: Clone> Shelf<K, V> {
    /// A shelf for about `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        Self { slots: Mutex::new(Slots { by_key: LruCache::unbounded(), weight: 0 }), budget }
    }

    /// A value that is there.
    pub(super) fn peek(&self, key: &K) -> Option<V> {
        self.slots.lock().by_key.get(key)?.cell.get().cloned()
    }

    /// A value of `weight` bytes takes the place of what is there.
    pub(super) fn put(&self, key: K, value: V, weight: usize) {
        let mut slots = self.slots.lock();
        let cell = Arc::new(OnceCell::new_with(Some(value)));
        let weight = weight + OVERHEAD;
        slots.weight += weight;
        if let Some((_, old)) = slots.by_key.push(key, Slot { cell, weight }) {
            slots.weight -= old.weight;
        }
        slots.shrink(self.budget);
    }

    /// Forgets a value.
    pub(super) fn remove(&self, key: &K) {
        let mut slots = self.slots.lock();
        if let Some(old) = slots.by_key.pop(key) {
            slots.weight -= old.weight;
        }
    }

    /// A value that is there, or else what `make` gives, with its weight in bytes.
    pub(super) async fn get_or(&self, key: &K, make: impl Future<Output = Result<(V, usize)>>) -> Result<V> {
        let cell = {
            let mut slots = self.slots.lock();
            let slot =
                slots.by_key.get_or_insert_mut(key.clone(), || Slot { cell: Arc::default(), weight: 0 });
            slot.cell.clone()
        };
        let mut made = None;
        let value = cell
            .get_or_try_init(|| async {
                let (value, weight) = make.await?;
                made = Some(weight + OVERHEAD);
                Ok(value)
            })
            .await
            .cloned();
        let mut slots = self.slots.lock();
        match (&value, made) {
            (Ok(_), None) => {}
            (Ok(_), Some(weight)) => {
                // Dropped or replaced meanwhile, it is ours alone.
                if let Some(slot) = slots.by_key.peek_mut(key).filter(|slot| Arc::ptr_eq(&slot.cell, &cell)) {
                    slot.weight = weight;
                    slots.weight += weight;
                    slots.shrink(self.budget);
                }
            }
            (Err(_), _) => {
                let empty = |slot: &Slot<V>| Arc::ptr_eq(&slot.cell, &cell) && slot.cell.get().is_none();
                if slots.by_key.peek(key).is_some_and(empty) {
                    slots.by_key.pop(key);
                }
            }
        }
        value
    }
}

impl<K: Hash + Eq, V> Slots<K, V> {
    fn shrink(&mut self, budget: usize) {
        while self.weight > budget && self.by_key.len() > 1 {
            let Some((_, old)) = self.by_key.pop_lru() else { return };
            self.weight -= old.weight;
        }
    }
}
