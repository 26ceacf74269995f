//! What a store lacks or holds damaged, from another store that has it.

use std::{collections::HashSet, sync::Arc};

use super::{CheckOptions, CheckReport, Depth, Job, check_with};
use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result, Store, format::rows::EntryKey,
    ops::publish::name_entries, stores::Verify,
};

/// Entries that are fetched at a time.
const BATCH: usize = 64;

/// What healing did.
#[derive(Clone, Debug, Default)]
pub struct Healed {
    /// Entries that were fetched and stored.
    pub entries: u64,
    /// Bytes of them, as stored.
    pub bytes: u64,
    /// What is still damaged: the last check.
    pub left: CheckReport,
    /// Why the other store did not tell whether it has what is missing, if it did not: asked again it may.
    pub unasked: Option<Error>,
}

/// Fetches from another store what a check at `depth` finds damaged or missing, verifies it, and stores it, until
/// nothing more can be had. An entry that the other store does not have, or has damaged, too, stays as it is; if it
/// can't be asked, nothing more is asked of it.
///
/// **Errors**: what can't be looked at or stored here ends it; what was fetched so far stays.
pub async fn heal(store: &Store, from: &Arc<dyn ChunkStore>, depth: Depth, job: &Job) -> Result<Healed> {
    let from = Verify::new(Arc::clone(from));
    let mut healed = Healed::default();
    let mut tried: HashSet<EntryKey> = HashSet::new();
    loop {
        let options = CheckOptions { depth, ..CheckOptions::default() };
        healed.left = check_with(store, &options, job).await?;
        let bad = healed.left.damage.iter().filter_map(|damage| damage.entry);
        let wanted: Vec<EntryKey> = bad.filter(|key| tried.insert(*key)).collect();
        let before = healed.entries;
        // Children first: a node is stored only once what it reaches has had its turn.
        'asking: for kind in [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint] {
            let ids: Vec<ChunkId> = wanted.iter().filter(|key| key.kind == kind).map(|key| key.id).collect();
            for batch in ids.chunks(BATCH) {
                job.check()?;
                let mut had = Vec::new();
                for (id, found) in batch.iter().zip(from.get_encoded(kind, batch).await) {
                    match found {
                        Ok(entry) => had.push((*id, entry)),
                        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {}
                        Err(e) => healed.unasked = Some(e),
                    }
                }
                healed.entries += had.len() as u64;
                healed.bytes += had.iter().map(|(_, entry)| entry.bytes.len() as u64).sum::<u64>();
                store.chunks.put_encoded(kind, had).await?;
                if healed.unasked.is_some() {
                    break 'asking;
                }
            }
        }
        if healed.entries == before {
            return Ok(healed);
        }
        name_entries(store).await?;
        if healed.unasked.is_some() {
            healed.left = check_with(store, &options, job).await?;
            return Ok(healed);
        }
    }
}
