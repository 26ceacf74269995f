//! Random calls beside a model: a map that holds what was put.

use std::collections::BTreeMap;

use super::sample::{KINDS, entries};
use crate::{
    ChunkStore, ErrorKind,
    format::codec::{Compression, Encoder},
    testing::Rng,
};

/// Two hundred random calls; every answer must be the model's. A failure names the seed and the step.
pub(super) async fn random_calls(seed: u64, store: &dyn ChunkStore) {
    let mut rng = Rng::new(seed);
    let mut encoder = Encoder::new(Compression::Zstd(1)).expect("level 1 exists");
    let pool: Vec<_> = KINDS
        .into_iter()
        .flat_map(|kind| entries(kind, 16, &mut rng).into_iter().map(move |entry| (kind, entry)))
        .collect();
    let mut model = BTreeMap::new();
    for step in 0..200 {
        let at = format!("seed {seed}, step {step}");
        let kind = KINDS[rng.below(KINDS.len())];
        let some: Vec<_> = pool
            .iter()
            .filter(|(of, _)| *of == kind)
            .filter(|_| rng.below(4) == 0)
            .map(|(_, entry)| entry.clone())
            .collect();
        let ids: Vec<_> = some.iter().map(|(id, _)| *id).collect();
        match rng.below(8) {
            0 => {
                store.put(kind, some.clone()).await.unwrap_or_else(|e| panic!("{at}: put: {e:?}"));
                model.extend(some.into_iter().map(|(id, bytes)| ((kind, id), bytes)));
            }
            1 => {
                let encoded = some.iter().map(|(id, bytes)| (*id, encoder.encode(bytes))).collect();
                let done = store.put_encoded(kind, encoded).await;
                done.unwrap_or_else(|e| panic!("{at}: put_encoded: {e:?}"));
                model.extend(some.into_iter().map(|(id, bytes)| ((kind, id), bytes)));
            }
            2 => drop(store.sync().await.unwrap_or_else(|e| panic!("{at}: sync: {e:?}"))),
            3 => {
                let got = store.contains(kind, &ids).await;
                let got = got.unwrap_or_else(|e| panic!("{at}: contains: {e:?}"));
                let expected: Vec<_> = ids.iter().map(|id| model.contains_key(&(kind, *id))).collect();
                assert_eq!(got, expected, "{at}: contains");
            }
            4 => {
                for (id, bytes) in &some {
                    let (start, length) = (rng.below(bytes.len() + 2), rng.below(bytes.len()));
                    let expected = match model.get(&(kind, *id)) {
                        None => Err(ErrorKind::NotFound),
                        Some(bytes) if start + length > bytes.len() => Err(ErrorKind::Invalid),
                        Some(bytes) => Ok(bytes.slice(start..start + length)),
                    };
                    let got = store.get_range(kind, id, start, length).await.map_err(|e| e.kind());
                    assert_eq!(got, expected, "{at}: get_range {start}+{length} of {kind:?} entry {id}");
                }
            }
            5 => {
                for (id, got) in ids.iter().zip(store.get_encoded(kind, &ids).await) {
                    let got = got.and_then(|entry| entry.decode()).map_err(|e| e.kind());
                    let expected = model.get(&(kind, *id)).cloned().ok_or(ErrorKind::NotFound);
                    assert_eq!(got, expected, "{at}: get_encoded of {kind:?} entry {id}");
                }
            }
            _ => {
                for (id, got) in ids.iter().zip(store.get(kind, &ids).await) {
                    let got = got.map_err(|e| e.kind());
                    let expected = model.get(&(kind, *id)).cloned().ok_or(ErrorKind::NotFound);
                    assert_eq!(got, expected, "{at}: get of {kind:?} entry {id}");
                }
            }
        }
    }
}
