//! Whether everything that names reach is there and is what it must be.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Job, Progress, open_checkpoint};
use crate::{
    BLOCK_SIZE, CheckpointId, ChunkId, ChunkKind, Error, ErrorKind, ImageName, Result, Store,
    index::{NodeCache, Reached, walk_nodes},
    types::chunk_id,
};

/// How closely a store is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Every record, checkpoint and node is read and verified; every chunk is present.
    #[default]
    Structure,
    /// Every chunk is read, too, and verified against its hash.
    Content,
}

/// Something that is not as it must be.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The image it was found in; a chunk or node shared by several is reported in each.
    pub image: Option<ImageName>,
    /// What and where.
    pub error: Error,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Images looked at.
    pub images: u64,
    /// Checkpoints looked at, those of pins and pending publishes included.
    pub checkpoints: u64,
    /// Distinct nodes looked at.
    pub nodes: u64,
    /// Distinct chunks looked at.
    pub chunks: u64,
    /// Bytes of content read and verified.
    pub bytes: u64,
    /// What is not as it must be; empty for a store that is whole.
    pub damage: Vec<Damage>,
}

/// Chunks looked up or read at a time: some 8 MiB of content.
const BATCH: usize = 256;
/// Memory for index nodes while checking.
const NODE_BUDGET: usize = 64 * 1024 * 1024;

/// Checks everything that images, pins and pending publishes of a store reach. Damage is reported, not an
/// error; what can't be looked at (no permission, store out of reach) is an error.
pub async fn check(store: &Store, depth: Depth, job: &Job) -> Result<CheckReport> {
    let mut check = Check {
        nodes: Arc::new(NodeCache::new(Arc::clone(&store.chunks), NODE_BUDGET)),
        depth,
        job,
        report: CheckReport::default(),
        seen_nodes: HashSet::new(),
        seen_chunks: HashMap::new(),
        seen_checkpoints: HashSet::new(),
    };
    for name in store.index.list_images().await? {
        check.report.images += 1;
        let name = match name {
            Ok(name) => name,
            Err(error) => {
                check.damaged(None, error)?;
                continue;
            }
        };
        match store.index.read_image(&name).await {
            Ok(Some(record)) => {
                for entry in &record.value.history {
                    check.checkpoint(Some(&name), entry.checkpoint, Some(entry.size)).await?;
                }
            }
            Ok(None) => check.report.images -= 1,
            Err(error) => check.damaged(Some(&name), error)?,
        }
    }
    match store.index.read_catalog().await {
        Ok(catalog) => {
            for root in &catalog.value.pending {
                check.checkpoint(Some(&root.image), root.checkpoint, None).await?;
            }
            for pin in &catalog.value.pins {
                check.checkpoint(None, pin.checkpoint, None).await?;
            }
        }
        Err(error) => check.damaged(None, error)?,
    }
    Ok(check.report)
}

struct Check<'a> {
    nodes: Arc<NodeCache>,
    depth: Depth,
    job: &'a Job,
    report: CheckReport,
    seen_nodes: HashSet<crate::NodeId>,
    /// Chunks that were looked at, with the most bytes an index needs of each, and whether they are good.
    seen_chunks: HashMap<ChunkId, bool>,
    seen_checkpoints: HashSet<CheckpointId>,
}

impl Check<'_> {
    /// Notes damage; passes on what is none.
    fn damaged(&mut self, image: Option<&ImageName>, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Unsupported => {
                self.report.damage.push(Damage { image: image.cloned(), error });
                Ok(())
            }
            _ => Err(error),
        }
    }

    async fn checkpoint(
        &mut self,
        image: Option<&ImageName>,
        id: CheckpointId,
        size: Option<u64>,
    ) -> Result<()> {
        if !self.seen_checkpoints.insert(id) {
            return Ok(());
        }
        self.report.checkpoints += 1;
        let (checkpoint, index) = match open_checkpoint(&self.nodes, id).await {
            Ok(opened) => opened,
            Err(error) => return self.damaged(image, error),
        };
        if size.is_some_and(|size| size != checkpoint.size) {
            let why =
                format!("checkpoint {id} has {} bytes, its image's record says otherwise", checkpoint.size);
            self.damaged(image, Error::corrupt(why))?;
        }
        let Some(root) = index.root() else { return Ok(()) };
        let (mut chunks, mut failed) = (Vec::new(), Vec::new());
        let nodes = &mut self.report.nodes;
        let visit = |reached| match reached {
            Reached::Node(_) => *nodes += 1,
            Reached::Chunk(chunk, blocks) => chunks.push((chunk, blocks)),
        };
        walk_nodes(&self.nodes, root, index.level(), &mut self.seen_nodes, visit, |_, e| failed.push(e))
            .await;
        for error in failed {
            self.damaged(image, error)?;
        }
        self.chunks(image, chunks).await
    }

    async fn chunks(&mut self, image: Option<&ImageName>, chunks: Vec<(ChunkId, usize)>) -> Result<()> {
        let mut needed: HashMap<ChunkId, usize> = HashMap::new();
        for (chunk, blocks) in chunks {
            match self.seen_chunks.get(&chunk) {
                Some(true) => {}
                Some(false) => {
                    self.damaged(image, Error::corrupt(format!("chunk {chunk} is damaged, too")))?;
                }
                None => {
                    let most = needed.entry(chunk).or_default();
                    *most = blocks.max(*most);
                }
            }
        }
        let needed: Vec<_> = needed.into_iter().collect();
        for batch in needed.chunks(BATCH) {
            self.job.check()?;
            let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
            self.report.chunks += ids.len() as u64;
            let results = match self.depth {
                Depth::Structure => self.present(&ids).await?,
                Depth::Content => self.read(batch).await?,
            };
            for (id, result) in ids.iter().zip(results) {
                self.seen_chunks.insert(*id, result.is_ok());
                if let Err(error) = result {
                    self.damaged(image, error)?;
                }
            }
            self.job.report(Progress { done: self.report.bytes, total: None, stored: 0 });
        }
        Ok(())
    }

    async fn present(&self, ids: &[ChunkId]) -> Result<Vec<Result<()>>> {
        let present = self.nodes.store().contains(ChunkKind::Data, ids).await?;
        let missing = |id| {
            Error::corrupt(format!("chunk {id} is missing or damaged: import a disk that has it, to heal it"))
        };
        Ok(ids
            .iter()
            .zip(present)
            .map(|(id, present)| if present { Ok(()) } else { Err(missing(id)) })
            .collect())
    }

    async fn read(&mut self, batch: &[(ChunkId, usize)]) -> Result<Vec<Result<()>>> {
        let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
        let found = self.nodes.store().get(ChunkKind::Data, &ids).await;
        let batch = batch.to_vec();
        let verified = tokio::task::spawn_blocking(move || {
            let verify = |((id, blocks), found): ((ChunkId, usize), Result<bytes::Bytes>)| match found {
                Ok(bytes) if chunk_id(&bytes) != id => {
                    Err(Error::corrupt(format!("chunk {id} does not match its hash")))
                }
                Ok(bytes) if bytes.len() < blocks * BLOCK_SIZE => Err(Error::corrupt(format!(
                    "chunk {id} has {} bytes, an index needs {blocks} blocks",
                    bytes.len()
                ))),
                Ok(bytes) => Ok(bytes.len() as u64),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err(Error::corrupt(format!("chunk {id} is missing")))
                }
                Err(error) => Err(error.context(format!("chunk {id} can't be read"))),
            };
            batch.into_iter().zip(found).map(verify).collect::<Vec<_>>()
        })
        .await
        .map_err(|e| Error::with_source(ErrorKind::Unavailable, "a worker of the check died", e))?;
        self.report.bytes += verified.iter().flatten().sum::<u64>();
        Ok(verified.into_iter().map(|result| result.map(drop)).collect())
    }
}
