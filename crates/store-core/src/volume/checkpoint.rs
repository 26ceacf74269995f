//! A live checkpoint: freeze for milliseconds, store in the background, publish, stand on the result.
//!
//! 1. Flush, with writes going on, so that little is left to do under the barrier.
//! 2. Add an empty layer, durably; then put it on top. From here on the layers below never change. Flush what was
//!    written since 1, too: a layer that the disk may still fail to take is not read, or the checkpoint could hold, and
//!    then replace, something else than was answered.
//! 3. Store what they hold, write the changed nodes, publish; the publish pins the new base.
//! 4. Record the new base, drop the frozen layers: in this order, so that whatever the volume's record names is
//!    there. The old base stays pinned until the next checkpoint.
//!
//! If step 3 or 4 fails, the frozen layers stay where they are, the volume goes on, and the next checkpoint
//! takes them all together.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use super::{
    Alone, Base, IndexBase, Shared, View, Volume,
    frozen::{FrozenSource, fragmented},
    unbroken,
};
use crate::{
    BLOCK_SIZE, CheckpointId, Error, ImageName, Result, Store,
    clock::Clock,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry},
    index::{Index, NodeCache},
    ops::{IngestOptions, IngestStats, Job, NewBase, Publish, ingest, publish, store_checkpoint},
    types::VolumeId,
};

/// Most layers of a volume. A checkpoint that finds as many first stores the frozen ones as they are.
const MAX_LAYERS: usize = 8;

/// The store that holds a volume's base and gets its checkpoints, with what every step towards it needs.
#[derive(Clone, Debug)]
pub struct Home {
    /// The store.
    pub store: Store,
    /// Its index nodes.
    pub nodes: Arc<NodeCache>,
    /// Tells the times that stand in checkpoints and records.
    pub clock: Arc<dyn Clock>,
}

/// What to make of a checkpoint.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// The volume, as its home store's pins name it.
    pub owner: VolumeId,
    /// The image that the checkpoint is appended to.
    pub image: ImageName,
    /// The image that the volume was made of, if any: a new image begins with its maps.
    pub lineage: Option<ImageName>,
    /// What to say of the checkpoint.
    pub labels: BTreeMap<String, String>,
    /// How content becomes chunks.
    pub ingest: IngestOptions,
    /// As whom to append.
    pub append: Append,
}

/// As whom a checkpoint is appended to its image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Append {
    /// As anyone: whatever is there stays below it, and the image's owner the owner.
    #[default]
    Any,
    /// As the image's owner, who got this writer epoch when he claimed it; `Conflict` if it is another by now.
    Owner(u64),
    /// As the first checkpoint of an image that this writer owns from then on, with this [new](crate::ops::new_epoch)
    /// epoch; `AlreadyExists` if there is one.
    Create(u64),
}

/// A checkpoint that was made.
#[derive(Clone, Debug)]
pub struct Checkpointed {
    /// Its id.
    pub checkpoint: CheckpointId,
    /// Size of its disk in bytes.
    pub size: u64,
    /// How long writes were held.
    pub held: Duration,
    /// What was stored.
    pub stats: IngestStats,
    /// Whether it is staged: it waits beside its home store, which is out of reach.
    pub staged: bool,
}

/// A volume whose layers are frozen for a checkpoint: one point in time, until it is dropped. Nobody else can change
/// the volume's layers, base or size meanwhile; writes and flushes go on.
#[must_use = "frozen layers wait for a checkpoint"]
pub struct Frozen {
    shared: Arc<Shared>,
    alone: Alone,
    held: Duration,
}

impl Frozen {
    /// Stores and publishes the frozen layers, and makes the checkpoint the volume's base in their place.
    ///
    /// **Cancel safety**, and after an error: the volume goes on as it was; the layers are taken by the next
    /// checkpoint, or may be [staged](Self::stage).
    pub async fn publish(&self, home: &Home, options: &CheckpointOptions, job: &Job) -> Result<Checkpointed> {
        let made = self.shared.store_frozen(&self.alone, home, options, job).await?;
        Ok(Checkpointed { held: self.held, ..made })
    }

    /// Stores the frozen layers in a store beside the home store, which is out of reach, and names the checkpoint
    /// there. The volume stays as it is, with its layers: the checkpoint is a disk that can be read and sent home.
    ///
    /// `staging` writes to the store beside, which gets what is new against the volume's base and nothing else, and
    /// reads from it and from what caches have of the home store; its nodes are those of home
    /// [over](NodeCache::over) that. `Unavailable` if that is not enough to write
    /// the index. **Cancel safety**: the volume goes on as it was.
    pub async fn stage(
        &self,
        staging: &Home,
        options: &CheckpointOptions,
        job: &Job,
    ) -> Result<Checkpointed> {
        let frozen = self.shared.frozen(staging)?;
        let options = CheckpointOptions { append: Append::Any, ..options.clone() };
        let (made, _) = frozen.publish(staging, &options, None, job).await?;
        Ok(Checkpointed { held: self.held, staged: true, ..made })
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("volume", &self.shared.label).finish_non_exhaustive()
    }
}

impl Volume {
    /// Appends the volume's state to an image of its home store. The checkpoint is one point in time that
    /// holds every write answered before this call; on success it is durable with its name.
    ///
    /// **Cancel safety**: the volume goes on as it was; frozen layers are taken up by the next checkpoint.
    pub async fn checkpoint(
        &self,
        home: &Home,
        options: &CheckpointOptions,
        job: &Job,
    ) -> Result<Checkpointed> {
        self.freeze(home, options, job).await?.publish(home, options, job).await
    }

    /// The first half of a checkpoint: from here on the layers hold every write answered before this call, and none
    /// of a later moment. Needs the home store only to finish a lazy base, and to store what is frozen already
    /// if no further layer can be.
    pub async fn freeze(&self, home: &Home, options: &CheckpointOptions, job: &Job) -> Result<Frozen> {
        let shared = &self.shared;
        let overlay = Arc::clone(shared.overlay()?);
        let alone = shared.alone().await;
        shared.complete_base(&alone, home, options, job).await?;
        overlay.flush().await?;
        if shared.view().layers.len() >= MAX_LAYERS {
            shared.store_frozen(&alone, home, options, job).await?;
            overlay.flush().await?;
        }
        let (freezing, pushing) = (Arc::clone(shared), Arc::clone(&overlay));
        let freeze = async move { pushing.push_layer().await.map(|layer| freezing.switch_to(layer)) };
        let held = unbroken(&alone, freeze).await?;
        overlay.flush().await?;
        Ok(Frozen { shared: Arc::clone(shared), alone, held })
    }

    /// Finishes the ingest of a lazy base: afterwards the volume stands on a checkpoint of its home store.
    /// Does nothing if it does already.
    pub async fn complete_ingest(&self, home: &Home, options: &CheckpointOptions, job: &Job) -> Result<()> {
        let alone = self.shared.alone().await;
        self.shared.complete_base(&alone, home, options, job).await
    }
}

/// Layers that no longer change, over a base that is read through the store that is written.
struct FrozenView {
    view: View,
    base: Index,
}

impl FrozenView {
    /// Stores what the layers hold and names the result.
    async fn publish(
        self,
        to: &Home,
        options: &CheckpointOptions,
        pin: Option<NewBase>,
        job: &Job,
    ) -> Result<(Checkpointed, IndexBase)> {
        let Self { view, base } = self;
        let rewrite = fragmented(&view).await?;
        let mut checkpoint = Checkpoint::new(view.size, None, to.clock.now())?;
        checkpoint.parent = view.checkpoint;
        checkpoint.labels.clone_from(&options.labels);
        let ingested = ingest(base, FrozenSource::new(Arc::new(view), rewrite), options.ingest, job).await?;
        checkpoint.root = ingested.index.root();
        let id = store_checkpoint(&to.store, &checkpoint).await?;
        let entry = HistoryEntry { checkpoint: id, size: checkpoint.size, created: checkpoint.created };
        let (create, epoch) = match options.append {
            Append::Any => (false, None),
            Append::Owner(epoch) => (false, Some(epoch)),
            Append::Create(epoch) => (true, Some(epoch)),
        };
        let what = Publish {
            nodes: &ingested.written.nodes,
            chunks: &ingested.written.chunks,
            create,
            epoch,
            pin,
            maps_of: options.lineage.as_ref(),
            ..Publish::append(&options.image, entry)
        };
        let published = publish(&to.store, &*to.clock, what).await?;
        let base = IndexBase::new(ingested.index).with_maps(&published.record.maps);
        let (size, held, stats) = (checkpoint.size, Duration::ZERO, ingested.stats);
        Ok((Checkpointed { checkpoint: id, size, held, stats, staged: false }, base))
    }
}

impl Shared {
    /// All layers but the topmost, with the base's index in the store that is written.
    fn frozen(&self, to: &Home) -> Result<FrozenView> {
        let view = self.view();
        let base = match &*view.base {
            Base::Index(base) => {
                let index = base.index();
                Index::new(Arc::clone(&to.nodes), index.root(), index.blocks() * BLOCK_SIZE as u64)
            }
            Base::Empty => Index::new(Arc::clone(&to.nodes), None, 0),
            Base::Source(_) => {
                return Err(Error::invalid(format!("{}: its base is not ingested yet", self.label)));
            }
        };
        let view = View {
            layers: view.layers[1..].to_vec(),
            base: match &*view.base {
                Base::Index(old) if !Arc::ptr_eq(old.index().nodes(), &to.nodes) => {
                    Arc::new(Base::Index(IndexBase::new(base.clone())))
                }
                _ => Arc::clone(&view.base),
            },
            checkpoint: view.checkpoint,
            size: view.size,
        };
        Ok(FrozenView { view, base })
    }

    /// Stores and publishes all layers but the topmost, and drops them.
    async fn store_frozen(
        self: &Arc<Self>,
        alone: &Alone,
        home: &Home,
        options: &CheckpointOptions,
        job: &Job,
    ) -> Result<Checkpointed> {
        let frozen = self.frozen(home)?;
        let count = frozen.view.layers.len();
        let pin = NewBase { volume: options.owner, base: frozen.view.checkpoint };
        let (made, base) = frozen.publish(home, options, Some(pin), job).await?;
        self.stand_on(alone, (made.checkpoint, base), count).await?;
        Ok(made)
    }

    /// Makes a stored checkpoint, which is pinned, the volume's base in place of the `count` oldest layers.
    pub(super) async fn stand_on(
        self: &Arc<Self>,
        alone: &Alone,
        (checkpoint, base): (CheckpointId, IndexBase),
        count: usize,
    ) -> Result<()> {
        let (overlay, shared) = (Arc::clone(self.overlay()?), Arc::clone(self));
        let rebase = async move {
            overlay.rebase(checkpoint, count).await?;
            shared.change_view(|view| {
                view.layers.truncate(view.layers.len() - count);
                view.base = Arc::new(Base::Index(base.watched_by(&shared.watch)));
                view.checkpoint = Some(checkpoint);
            });
            Ok(())
        };
        unbroken(alone, rebase).await
    }
}
