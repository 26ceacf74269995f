//! Every bad answer is caught, in every form and from every method; good ones pass unchanged.

use super::*;
use crate::{
    format::codec::{Codec, Compression, Encoder},
    stores::MemoryStore,
    testing::{BadEntry, Call, Fault, FaultStore, FixedClock, Rng, conformance},
};

const KINDS: [ChunkKind; 3] = [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint];

fn faulty(seed: u64) -> (Arc<FaultStore>, Verify<Arc<FaultStore>>) {
    let store = FaultStore::new(MemoryStore::new(&FixedClock::default()).unwrap().into(), seed);
    (store.clone(), Verify::new(store))
}

fn entry(kind: ChunkKind, len: usize) -> (ChunkId, Bytes) {
    let bytes = Bytes::from(Rng::new(len as u64).bytes(len));
    (id_of(kind, &bytes), bytes)
}

fn kind_of<T>(answer: &Result<T>) -> Option<ErrorKind> {
    answer.as_ref().err().map(Error::kind)
}

#[tokio::test]
async fn conforms() {
    conformance::chunk_store(conformance::Capabilities::FULL, async || faulty(0).1).await;
}

#[tokio::test]
async fn flips_and_cuts_are_corrupt_and_named() {
    for seed in 0..50 {
        for (kind, bad) in KINDS.into_iter().zip([BadEntry::Corrupt, BadEntry::Cut].into_iter().cycle()) {
            let (faults, store) = faulty(seed);
            let (good, spoilt) = (entry(kind, 5000), entry(kind, 4096));
            store.put(kind, vec![good.clone(), spoilt.clone()]).await.unwrap();
            faults.break_entry(kind, spoilt.0, bad);
            let got = store.get(kind, &[spoilt.0, good.0]).await;
            assert_eq!(got[1].as_ref().unwrap(), &good.1, "the entry beside the bad one");
            let error = got[0].as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&spoilt.0.to_string()), "{error}");
            assert!(error.to_string().contains(&format!("{kind:?}")), "{error}");
            assert_eq!(kind_of(&store.get_encoded(kind, &[spoilt.0]).await[0]), Some(ErrorKind::Corrupt));
            assert_eq!(kind_of(&store.get_range(kind, &spoilt.0, 0, 1).await), Some(ErrorKind::Corrupt));
        }
    }
}

#[tokio::test]
async fn an_entry_under_another_kind_or_id_is_corrupt() {
    let kind = ChunkKind::Data;
    let (_, store) = faulty(0);
    let (a, b) = (entry(kind, 4096), entry(kind, 8192));
    // Right bytes, hashed in another kind's domain; and two entries swapped.
    store.put(ChunkKind::Node, vec![a.clone()]).await.unwrap();
    store.put(kind, vec![(a.0, b.1), (b.0, a.1)]).await.unwrap();
    assert_eq!(kind_of(&store.get(ChunkKind::Node, &[a.0]).await[0]), Some(ErrorKind::Corrupt));
    for answer in store.get(kind, &[a.0, b.0]).await {
        assert_eq!(kind_of(&answer), Some(ErrorKind::Corrupt));
    }
}

/// Hands out compressed entries, one of them with each bit flipped in turn.
#[derive(Debug)]
struct Compressed(Encoded);

#[async_trait]
impl ChunkStore for Compressed {
    async fn get(&self, _: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        ids.iter().map(|_| self.0.decode()).collect()
    }

    async fn put(&self, _: ChunkKind, _: Vec<(ChunkId, Bytes)>) -> Result<()> {
        Ok(())
    }

    async fn contains(&self, _: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        Ok(vec![true; ids.len()])
    }

    async fn sync(&self) -> Result<Synced> {
        Ok(Synced::default())
    }

    fn try_get(&self, _: ChunkKind, _: &ChunkId) -> Option<Bytes> {
        self.0.decode().ok()
    }

    async fn get_encoded(&self, _: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        ids.iter().map(|_| Ok(self.0.clone())).collect()
    }
}

#[tokio::test]
async fn no_flipped_bit_of_an_encoded_entry_changes_what_is_read() {
    let kind = ChunkKind::Data;
    let mut soft = vec![7; 4096];
    soft[..100].copy_from_slice(&Rng::new(1).bytes(100));
    let soft = Bytes::from(soft);
    let id = id_of(kind, &soft);
    let encoded = Encoder::new(Compression::Zstd(1)).unwrap().encode(&soft);
    assert_eq!(encoded.codec, Codec::Zstd);
    let mut caught = 0;
    for bit in 0..encoded.bytes.len() * 8 {
        let mut bytes = encoded.bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let store = Verify::new(Compressed(Encoded { bytes: bytes.into(), ..encoded.clone() }));
        // A few bits of a frame (the kind of its header, say) mean nothing; then the entry is whole.
        match &store.get_encoded(kind, &[id]).await[0] {
            Ok(entry) => assert_eq!(entry.decode().unwrap(), soft),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Corrupt);
                assert!(e.to_string().contains(&id.to_string()), "{e}");
                caught += 1;
            }
        }
        assert!(store.try_get(kind, &id).is_none_or(|bytes| bytes == soft));
    }
    assert!(caught > encoded.bytes.len() * 6, "{caught} flips of {} caught", encoded.bytes.len() * 8);
    let wrong_len = Verify::new(Compressed(Encoded { raw_len: u32::MAX, ..encoded }));
    assert_eq!(kind_of(&wrong_len.get_encoded(kind, &[id]).await[0]), Some(ErrorKind::Corrupt));
}

#[tokio::test]
async fn large_batches_are_verified_too() {
    let kind = ChunkKind::Data;
    let (faults, store) = faulty(3);
    let all: Vec<_> = (0..40).map(|number| entry(kind, 100_000 + number)).collect();
    let ids: Vec<_> = all.iter().map(|(id, _)| *id).collect();
    store.put(kind, all.clone()).await.unwrap();
    faults.break_entry(kind, ids[17], BadEntry::Corrupt);
    faults.break_entry(kind, ids[20], BadEntry::Missing);
    for (number, (got, (_, bytes))) in store.get(kind, &ids).await.iter().zip(&all).enumerate() {
        match number {
            17 => assert_eq!(kind_of(got), Some(ErrorKind::Corrupt)),
            20 => assert_eq!(kind_of(got), Some(ErrorKind::NotFound)),
            _ => assert_eq!(got.as_ref().unwrap(), bytes),
        }
    }
}

#[tokio::test]
async fn a_wrong_number_of_answers_is_corrupt_for_all() {
    /// Answers one entry less than asked.
    #[derive(Debug)]
    struct Short;

    #[async_trait]
    impl ChunkStore for Short {
        async fn get(&self, _: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
            ids.iter().skip(1).map(|_| Ok(Bytes::new())).collect()
        }

        async fn put(&self, _: ChunkKind, _: Vec<(ChunkId, Bytes)>) -> Result<()> {
            Ok(())
        }

        async fn contains(&self, _: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
            Ok(vec![true; ids.len()])
        }

        async fn sync(&self) -> Result<Synced> {
            Ok(Synced::default())
        }
    }
    let kind = ChunkKind::Data;
    let got = Verify::new(Short).get(kind, &[entry(kind, 1).0, entry(kind, 2).0]).await;
    assert_eq!(got.iter().map(kind_of).collect::<Vec<_>>(), [Some(ErrorKind::Corrupt); 2]);
}

#[tokio::test]
async fn what_failed_counts_as_absent_until_it_is_put_again() {
    let kind = ChunkKind::Node;
    let (faults, store) = faulty(4);
    let (good, bad) = (entry(kind, 10), entry(kind, 20));
    store.put(kind, vec![good.clone(), bad.clone()]).await.unwrap();
    faults.break_entry(kind, bad.0, BadEntry::Corrupt);
    assert_eq!(store.contains(kind, &[good.0, bad.0]).await.unwrap(), [true, true], "not looked at yet");
    assert!(store.get(kind, &[bad.0]).await[0].is_err());
    assert_eq!(store.contains(kind, &[good.0, bad.0]).await.unwrap(), [true, false]);
    // A put that fails heals nothing.
    faults.script(Call::Put, 0, Fault::Before(ErrorKind::NoSpace));
    store.put(kind, vec![bad.clone()]).await.unwrap_err();
    assert_eq!(store.contains(kind, &[bad.0]).await.unwrap(), [false]);
    store.put(kind, vec![bad.clone()]).await.unwrap();
    assert_eq!(store.contains(kind, &[bad.0]).await.unwrap(), [true]);
    assert_eq!(store.get(kind, &[bad.0]).await[0].as_ref().unwrap(), &bad.1);
}
