//! Whether everything that names reach is there and is what it must be.
//!
//! 1. Roots: the histories of all images, pins, pending publishes.
//! 2. Their nodes, each read and verified once ([`walk_nodes`]).
//! 3. Their chunks, several batches at once, as closely as asked ([`chunks`]).
//! 4. For what is damaged: where in which image ([`places`]).

mod chunks;
mod places;
mod sample;

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{Job, open_checkpoint};
use crate::{
    CheckpointId, ChunkId, ChunkKind, Error, ErrorKind, ImageName, NodeId, Result, Store,
    format::rows::EntryKey,
    index::{NodeCache, Reached, walk_nodes},
};
pub use sample::Sample;

/// How closely a store is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Every record, checkpoint and node is read and verified; every chunk is present.
    #[default]
    Structure,
    /// Every chunk is read, too, in its stored form, and its checksum is compared.
    Checksums,
    /// Every chunk is read, decoded, and verified against its hash.
    Hashes,
}

/// What is checked.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// How closely.
    pub depth: Depth,
    /// Which of the chunks are read.
    pub sample: Sample,
    /// Ends the check when it is cancelled, with what was found by then. Nodes come first, then chunks in random
    /// order if there is a sample, so that checks that are cut short look at other chunks each time.
    pub enough: CancellationToken,
}

/// Something that is not as it must be.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The image that needs it; what several images need is reported for each.
    pub image: Option<ImageName>,
    /// Checkpoints that need it, of the image or pinned; newest first.
    pub checkpoints: Vec<CheckpointId>,
    /// The damaged entry, unless it is another object.
    pub entry: Option<EntryKey>,
    /// What can't be read of the first of the checkpoints, in bytes of its disk.
    pub ranges: Vec<Range<u64>>,
    /// What is wrong, with the object's name.
    pub error: Error,
}

impl Damage {
    /// Damage of an object that is no entry.
    pub fn of_object(image: Option<ImageName>, error: Error) -> Self {
        Self { image, checkpoints: Vec::new(), entry: None, ranges: Vec::new(), error }
    }
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
    /// Chunks that the sample left out, or for which there was no time.
    pub skipped: u64,
    /// Bytes of content read and verified, as stored or, with [`Depth::Hashes`], decoded.
    pub bytes: u64,
    /// Whether it was ended before it was through.
    pub cut_short: bool,
    /// Entries that were read and found to be intact.
    pub intact: HashSet<EntryKey>,
    /// What is not as it must be; empty for a store that is whole.
    pub damage: Vec<Damage>,
}

/// Memory for index nodes while checking.
const NODE_BUDGET: usize = 64 * 1024 * 1024;

/// Checks everything that images, pins and pending publishes of a store reach, at `depth`: see [`check_with`].
pub async fn check(store: &Store, depth: Depth, job: &Job) -> Result<CheckReport> {
    check_with(store, &CheckOptions { depth, ..CheckOptions::default() }, job).await
}

/// Checks everything that images, pins and pending publishes of a store reach. Damage is reported, not an
/// error; what can't be looked at (no permission, store out of reach) is an error.
///
/// **Memory**: some 100 bytes for each distinct chunk and node. **Cancel safety**: it changes nothing but what the
/// store notes of damage that it found.
pub async fn check_with(store: &Store, options: &CheckOptions, job: &Job) -> Result<CheckReport> {
    let mut check = Check {
        nodes: Arc::new(NodeCache::new(Arc::clone(&store.chunks), NODE_BUDGET)),
        options,
        job,
        report: CheckReport::default(),
        roots: Vec::new(),
        bad: HashMap::new(),
    };
    check.find_roots(store).await?;
    let needed = check.indexes().await?;
    check.chunks(needed).await?;
    check.place_damage().await;
    check.report.cut_short = options.enough.is_cancelled();
    Ok(check.report)
}

/// A checkpoint that must be whole.
struct Root {
    image: Option<ImageName>,
    checkpoint: CheckpointId,
    /// Size of its disk, as far as its image's record says, then as it says itself.
    size: Option<u64>,
    /// Root and level of its index, once it was read.
    index: Option<(NodeId, u8)>,
}

struct Check<'a> {
    nodes: Arc<NodeCache>,
    options: &'a CheckOptions,
    job: &'a Job,
    report: CheckReport,
    roots: Vec<Root>,
    /// Entries that are damaged or missing.
    bad: HashMap<EntryKey, Error>,
}

/// Whether an error tells of damage; any other ends the check.
fn tells_damage(error: &Error) -> bool {
    use ErrorKind::{Corrupt, Invalid, NotFound, Unsupported};
    matches!(error.kind(), Corrupt | NotFound | Invalid | Unsupported)
}

impl Check<'_> {
    /// Notes damage of an object that is no entry; passes on what is none.
    fn damaged(&mut self, image: Option<&ImageName>, error: Error) -> Result<()> {
        if tells_damage(&error) {
            self.report.damage.push(Damage::of_object(image.cloned(), error));
            return Ok(());
        }
        Err(error)
    }

    /// Notes damage of an entry; passes on what is none.
    fn bad(&mut self, key: EntryKey, error: Error) -> Result<()> {
        if tells_damage(&error) {
            self.bad.insert(key, error);
            return Ok(());
        }
        Err(error)
    }

    async fn find_roots(&mut self, store: &Store) -> Result<()> {
        let root = |image, checkpoint, size| Root { image, checkpoint, size, index: None };
        for name in store.index.list_images().await? {
            self.report.images += 1;
            let name = match name {
                Ok(name) => name,
                Err(error) => {
                    self.damaged(None, error)?;
                    continue;
                }
            };
            match store.index.read_image(&name).await {
                Ok(Some(record)) => {
                    let history = record.value.history.iter();
                    self.roots.extend(history.map(|e| root(Some(name.clone()), e.checkpoint, Some(e.size))));
                }
                Ok(None) => self.report.images -= 1,
                Err(error) => self.damaged(Some(&name), error)?,
            }
        }
        match store.index.read_catalog().await {
            Ok(catalog) => {
                let pending = catalog.value.pending.into_iter();
                self.roots.extend(pending.map(|each| root(Some(each.image), each.checkpoint, None)));
                self.roots.extend(catalog.value.pins.iter().map(|pin| root(None, pin.checkpoint, None)));
            }
            Err(error) => self.damaged(None, error)?,
        }
        let mut known = HashSet::new();
        self.roots.retain(|root| known.insert((root.image.clone(), root.checkpoint)));
        // A pin adds nothing to an image that has the checkpoint.
        let named: HashSet<_> =
            self.roots.iter().filter(|root| root.image.is_some()).map(|root| root.checkpoint).collect();
        self.roots.retain(|root| root.image.is_some() || !named.contains(&root.checkpoint));
        Ok(())
    }

    /// Reads checkpoints and nodes: the chunks they need, with the most blocks that an index needs of each.
    async fn indexes(&mut self) -> Result<HashMap<ChunkId, usize>> {
        let mut roots = std::mem::take(&mut self.roots);
        let mut needed: HashMap<ChunkId, usize> = HashMap::new();
        let (mut seen, mut opened) = (HashSet::new(), HashMap::new());
        for root in &mut roots {
            self.job.check()?;
            if self.options.enough.is_cancelled() {
                break;
            }
            let Root { image, checkpoint: id, size, index } = root;
            let known = opened.contains_key(id);
            if !known {
                let found = self.open(*id).await?;
                opened.insert(*id, found);
            }
            let Some(Some((disk, top))) = opened.get(id).copied() else { continue };
            if size.is_some_and(|size| size != disk) {
                let why = format!("checkpoint {id} has {disk} bytes, its image's record says otherwise");
                self.damaged(image.as_ref(), Error::corrupt(why))?;
            }
            (*size, *index) = (Some(disk), top);
            if let Some((node, level)) = top.filter(|_| !known) {
                let (mut nodes, mut failed) = (0, Vec::new());
                let visit = |reached| match reached {
                    Reached::Node(_) => nodes += 1,
                    Reached::Chunk(chunk, blocks) => {
                        let most = needed.entry(chunk).or_default();
                        *most = blocks.max(*most);
                    }
                };
                let fail = |id: NodeId, e| failed.push((id, e));
                walk_nodes(&self.nodes, node, level, &mut seen, visit, fail).await;
                self.report.nodes += nodes;
                for (id, error) in failed {
                    self.bad(EntryKey::new(ChunkKind::Node, id.as_chunk()), error)?;
                }
            }
        }
        self.roots = roots;
        Ok(needed)
    }

    /// Size of a checkpoint's disk, and root and level of its index; `None` if it is damaged.
    async fn open(&mut self, id: CheckpointId) -> Result<Option<(u64, Option<(NodeId, u8)>)>> {
        self.report.checkpoints += 1;
        match open_checkpoint(&self.nodes, id).await {
            Ok((checkpoint, index)) => {
                Ok(Some((checkpoint.size, index.root().map(|root| (root, index.level())))))
            }
            Err(error) => self.bad(EntryKey::new(ChunkKind::Checkpoint, id.as_chunk()), error).map(|()| None),
        }
    }
}

/// A whole disk.
fn all(size: Option<u64>) -> Range<u64> {
    0..size.unwrap_or(0)
}
