//! The chunks that indexes need, as closely as asked.

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt as _, stream};

use super::{Check, Depth};
use crate::{
    BLOCK_SIZE, ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result,
    blocking::spawn_blocking,
    format::{codec::Encoded, rows::EntryKey},
    ops::Progress,
    types::chunk_id,
};

/// Chunks looked up or read at a time: some 8 MiB of content.
const BATCH: usize = 256;
/// Batches that are read or hashed at once.
const AT_ONCE: usize = 4;

/// A chunk, and the blocks that an index needs of it.
type Need = (ChunkId, usize);

impl Check<'_> {
    /// Looks at chunks, several batches at once.
    pub(super) async fn chunks(&mut self, needed: HashMap<ChunkId, usize>) -> Result<()> {
        let (depth, sample) = (self.options.depth, self.options.sample);
        let all = needed.len() as u64;
        let mut needed: Vec<Need> =
            needed.into_iter().filter(|(id, _)| depth == Depth::Structure || sample.takes(id)).collect();
        needed.sort_by_cached_key(|(id, _)| sample.rank(id));
        let size = |batch: &[Need]| batch.iter().map(|(_, blocks)| (blocks * BLOCK_SIZE) as u64).sum::<u64>();
        let total = size(&needed);
        let store = Arc::clone(self.nodes.store());
        let enough = self.options.enough.clone();
        let batches = needed.chunks(BATCH).take_while(|_| !enough.is_cancelled());
        let looked_at = batches.map(|batch| {
            let store = Arc::clone(&store);
            async move {
                let results = match depth {
                    Depth::Structure => present(&*store, batch).await,
                    Depth::Checksums | Depth::Hashes => read(&*store, batch, depth).await?,
                };
                Ok::<_, Error>((batch, results))
            }
        });
        let mut looked_at = stream::iter(looked_at).buffer_unordered(AT_ONCE);
        let mut done = 0;
        while let Some(batch) = looked_at.next().await {
            self.job.check()?;
            let (batch, results) = batch?;
            self.report.chunks += batch.len() as u64;
            for ((id, _), result) in batch.iter().zip(results) {
                let key = EntryKey::new(ChunkKind::Data, *id);
                match result {
                    Ok(bytes) => {
                        self.report.bytes += bytes;
                        if depth > Depth::Structure {
                            self.report.intact.insert(key);
                        }
                    }
                    Err(error) => self.bad(key, error)?,
                }
            }
            done += size(batch);
            self.job.report(Progress { done, total: Some(total), stored: 0 });
        }
        self.report.skipped = all - self.report.chunks;
        Ok(())
    }
}

async fn present(store: &dyn ChunkStore, batch: &[Need]) -> Vec<Result<u64>> {
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    let held = store.holds(ChunkKind::Data, &ids).await;
    let missing = |id| {
        Error::corrupt(format!("chunk {id} is missing or damaged: import a disk that has it, to heal it"))
    };
    ids.iter().zip(held).map(|(id, held)| if held? { Ok(0) } else { Err(missing(id)) }).collect()
}

/// Reads chunks in their stored form, whose checksums the store compares; decodes and hashes them if asked.
async fn read(store: &dyn ChunkStore, batch: &[Need], depth: Depth) -> Result<Vec<Result<u64>>> {
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    let found = store.get_encoded(ChunkKind::Data, &ids).await;
    let batch = batch.to_vec();
    let verify = move || {
        let each = batch.into_iter().zip(found);
        each.map(|((id, blocks), found)| verify(id, blocks, found, depth)).collect()
    };
    let died = |e| Error::with_source(ErrorKind::Unavailable, "a worker of the check died", e);
    spawn_blocking(verify).await.map_err(died)
}

fn verify(id: ChunkId, blocks: usize, found: Result<Encoded>, depth: Depth) -> Result<u64> {
    let unreadable = |error: Error| match error.kind() {
        ErrorKind::NotFound => {
            Error::with_source(ErrorKind::Corrupt, format!("chunk {id} is missing"), error)
        }
        _ => error.context(format!("chunk {id} can't be read")),
    };
    let found = found.map_err(unreadable)?;
    if (found.raw_len as usize) < blocks * BLOCK_SIZE {
        let len = found.raw_len;
        return Err(Error::corrupt(format!("chunk {id} has {len} bytes, an index needs {blocks} blocks")));
    }
    if depth < Depth::Hashes {
        return Ok(found.bytes.len() as u64);
    }
    let bytes = found.decode().map_err(|e| e.context(format!("chunk {id} can't be decoded")))?;
    if chunk_id(&bytes) != id {
        return Err(Error::corrupt(format!("chunk {id} does not match its hash")));
    }
    Ok(bytes.len() as u64)
}
