//! The cache beside a model: per shard a list of keys, most recently used last.

use proptest::prelude::*;

use super::*;

fn id(number: u8) -> ChunkId {
    let mut bytes = [0; ChunkId::LEN];
    bytes[..2].copy_from_slice(&[number, number.wrapping_mul(31)]);
    ChunkId::from_bytes(bytes)
}

const KINDS: [ChunkKind; 2] = [ChunkKind::Data, ChunkKind::Node];

/// What a shard must hold, spelled out.
#[derive(Default)]
struct Model {
    recent: Vec<((ChunkKind, ChunkId), Vec<u8>)>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.recent.iter().map(|(_, bytes)| bytes.len() + ENTRY_OVERHEAD).sum()
    }

    fn take(&mut self, key: (ChunkKind, ChunkId)) -> Option<Vec<u8>> {
        let at = self.recent.iter().position(|(found, _)| *found == key)?;
        Some(self.recent.remove(at).1)
    }

    fn insert(&mut self, key: (ChunkKind, ChunkId), bytes: Vec<u8>, capacity: usize) {
        if bytes.len() + ENTRY_OVERHEAD > capacity {
            return;
        }
        self.take(key);
        self.recent.push((key, bytes));
        while self.bytes() > capacity {
            self.recent.remove(0);
        }
    }

    fn get(&mut self, key: (ChunkKind, ChunkId)) -> Option<Vec<u8>> {
        let bytes = self.take(key)?;
        self.recent.push((key, bytes.clone()));
        Some(bytes)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, u8, usize),
    Get(usize, u8),
    Probe(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = 0..KINDS.len();
    prop_oneof![
        (kind.clone(), 0..24_u8, 0..2000_usize).prop_map(|(kind, id, len)| Step::Insert(kind, id, len)),
        (kind.clone(), 0..24_u8).prop_map(|(kind, id)| Step::Get(kind, id)),
        (kind, 0..24_u8).prop_map(|(kind, id)| Step::Probe(kind, id)),
    ]
}

proptest! {
    #[test]
    fn holds_what_an_lru_list_holds(capacity in 0..12_000_usize, steps in prop::collection::vec(step(), 0..300)) {
        let cache = MemoryCache::new(capacity);
        let mut model = Model::default();
        let (mut hits, mut misses) = (0, 0);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(kind, number_of, len) => {
                    let bytes = vec![number as u8; len];
                    cache.insert(KINDS[kind], id(number_of), &bytes);
                    model.insert((KINDS[kind], id(number_of)), bytes, capacity);
                }
                Step::Get(kind, number) => {
                    let expected = model.get((KINDS[kind], id(number)));
                    if expected.is_some() { hits += 1 } else { misses += 1 }
                    prop_assert_eq!(cache.get(KINDS[kind], &id(number)).map(Vec::from), expected);
                }
                Step::Probe(kind, number) => {
                    let expected = model.get((KINDS[kind], id(number)));
                    hits += u64::from(expected.is_some());
                    prop_assert_eq!(cache.probe(KINDS[kind], &id(number)).map(Vec::from), expected);
                }
            }
            let stats = CacheStats { hits, misses, entries: model.recent.len(), bytes: model.bytes() };
            prop_assert_eq!(cache.stats(), stats);
            prop_assert!(stats.bytes <= capacity);
        }
    }
}

#[test]
fn shards_share_the_budget_and_none_exceeds_it() {
    let capacity = 64 << 20;
    let cache = MemoryCache::new(capacity);
    assert_eq!(cache.shards.len(), 16);
    // Ids that all fall into one shard: it keeps its own part, no more.
    for number in 0..4096_u32 {
        let mut bytes = [0; ChunkId::LEN];
        bytes[8..12].copy_from_slice(&number.to_le_bytes());
        cache.insert(ChunkKind::Data, ChunkId::from_bytes(bytes), &[1; 4096]);
    }
    let held = cache.stats().bytes;
    assert!(held <= capacity / 16 && held > capacity / 16 - 2 * 4096, "{held}");
    cache.insert(ChunkKind::Data, id(1), &vec![0; capacity / 16]);
    assert!(cache.get(ChunkKind::Data, &id(1)).is_none(), "an entry larger than its shard is not kept");
    assert_eq!(MemoryCache::new(0).shards.len(), 1);
    assert_eq!(MemoryCache::new(usize::MAX).shards.len(), MOST_SHARDS);
}

#[test]
fn a_slice_does_not_keep_its_buffer() {
    let buffer = Bytes::from(vec![3; 1 << 20]);
    let cache = MemoryCache::new(1 << 16);
    cache.insert(ChunkKind::Data, id(1), &buffer.slice(..4096));
    assert!(buffer.is_unique(), "the cache holds on to the whole buffer");
}

#[test]
fn a_reader_keeps_evicted_bytes() {
    let cache = MemoryCache::new(4096 + ENTRY_OVERHEAD);
    cache.insert(ChunkKind::Data, id(1), &[1; 4096]);
    let held = cache.get(ChunkKind::Data, &id(1)).unwrap();
    cache.insert(ChunkKind::Data, id(2), &[2; 4096]);
    assert!(cache.get(ChunkKind::Data, &id(1)).is_none());
    assert_eq!(held, [1; 4096][..]);
}
