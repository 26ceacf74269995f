//! A disk into a store, under a name.

use std::{collections::BTreeMap, sync::Arc};

use super::{IngestOptions, IngestStats, Job, Publish, ingest, publish, store_checkpoint};
use crate::{
    CheckpointId, ImageName, Result, Store,
    chunking::DiskSource,
    clock::Clock,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry},
    index::{Index, NodeCache},
};

/// Memory for index nodes while importing.
const NODE_BUDGET: usize = 16 * 1024 * 1024;

/// How a disk is imported.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// How content becomes chunks.
    pub ingest: IngestOptions,
    /// What to say of the checkpoint.
    pub labels: BTreeMap<String, String>,
    /// Fail with `AlreadyExists` if the image is there, rather than append to its history.
    pub create: bool,
}

/// An imported disk.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its checkpoint, the newest of the image now.
    pub checkpoint: CheckpointId,
    /// Its size in bytes.
    pub size: u64,
    /// Figures.
    pub stats: IngestStats,
}

/// Imports a disk as the newest checkpoint of `image`. On success it is durable.
///
/// **Errors**: those of the source and the store; before the last step nothing is visible, and a rerun finds
/// the chunks that were stored.
pub async fn import<S: DiskSource + 'static>(
    store: &Store,
    clock: &dyn Clock,
    image: &ImageName,
    source: S,
    options: ImportOptions,
    job: &Job,
) -> Result<Imported> {
    let nodes = Arc::new(NodeCache::new(Arc::clone(&store.chunks), NODE_BUDGET));
    let ingested = ingest(Index::new(nodes, None, 0), source, options.ingest, job).await?;
    let mut checkpoint = Checkpoint::new(ingested.size, ingested.index.root(), clock.now())?;
    let before = store.index.read_image(image).await?;
    checkpoint.parent = before.and_then(|found| found.value.history.first().map(|newest| newest.checkpoint));
    checkpoint.labels = options.labels;
    let id = store_checkpoint(store, &checkpoint).await?;
    job.check()?;
    // The image's older maps lead to what its older checkpoints had.
    let written = &ingested.written;
    let (nodes, chunks) = match checkpoint.parent {
        Some(_) => (&written.added.nodes, &written.added.chunks),
        None => (&written.nodes, &written.chunks),
    };
    let entry = HistoryEntry { checkpoint: id, size: ingested.size, created: checkpoint.created };
    let what = Publish { nodes, chunks, create: options.create, ..Publish::append(image, entry) };
    publish(store, clock, what).await?;
    Ok(Imported { checkpoint: id, size: ingested.size, stats: ingested.stats })
}
