//! A volume: a disk made of local layers over a base, as a [`BlockDevice`](crate::BlockDevice).
//!
//! ```text
//! read:   newest layer's state of the block? data → that layer │ zero → zeros │ none → … → base
//! write:  whole blocks → the topmost layer, then marked; partial blocks are filled up first
//! ```
//!
//! A [`View`] is the set of layers and the base at one moment; reads take one and keep it. Writes hold the
//! *barrier* shared, and a freeze holds it alone for the moment in which it puts a new layer on top.

mod base;
mod checkpoint;
mod device;
mod frozen;
mod index_base;
mod lazy;
mod locks;
mod prefetch;
mod streams;
#[cfg(test)]
mod tests;
mod trace;
mod watch;
mod write;

use std::{fmt, sync::Arc};

pub use base::{Base, BaseSource};
pub use checkpoint::{Append, CheckpointOptions, Checkpointed, Frozen, Home};
pub use index_base::IndexBase;
pub use trace::Touches;
pub use watch::Readahead;

use crate::{
    BlockRange, CheckpointId, Error, ErrorKind, Result,
    overlay::{BlockState, Layer, Overlay},
    sync::{RwLock, spawn},
    types::blocks_for,
};
use locks::BlockLocks;
use watch::Watch;

/// A disk that is served or read. Clones are handles to the same disk.
#[derive(Clone)]
pub struct Volume {
    shared: Arc<Shared>,
}

struct Shared {
    /// What to call it in messages: "volume 'vm1'", "image 'web'".
    label: String,
    /// `None` for a disk that is only read.
    overlay: Option<Arc<dyn Overlay>>,
    view: RwLock<Arc<View>>,
    /// Held shared by each write while it is in a layer, alone by a freeze.
    barrier: RwLock<()>,
    locks: BlockLocks,
    /// Sees the reads of the base, also of one that takes its place.
    watch: Arc<Watch>,
    /// Held by whoever changes layers, base or size: one checkpoint, ingest or growth at a time.
    rebasing: Arc<tokio::sync::Mutex<()>>,
}

/// Layers and base at one moment.
struct View {
    /// Newest first; the first takes writes. Empty for a disk that is only read.
    layers: Vec<Arc<dyn Layer>>,
    base: Arc<Base>,
    /// The checkpoint that the base is, if it is one.
    checkpoint: Option<CheckpointId>,
    size: u64,
}

/// Where a run of blocks is found.
enum Place<'a> {
    Layer(&'a Arc<dyn Layer>),
    Zero,
    Base,
}

impl View {
    /// Where the first block of `range` is found, and one past the last block of which that is true.
    fn place(&self, range: BlockRange) -> (Place<'_>, u64) {
        let mut range = range;
        for layer in &self.layers {
            let (state, end) = layer.first_run(range);
            range.end = end;
            match state {
                BlockState::Base => {}
                BlockState::Zero => return (Place::Zero, end),
                BlockState::Data => return (Place::Layer(layer), end),
            }
        }
        (Place::Base, range.end)
    }
}

impl Volume {
    /// A disk that is only read.
    pub fn read_only(label: impl Into<String>, base: Base, size: u64) -> Self {
        Self::new(label.into(), None, base, None, size)
    }

    /// A writable disk of `size` bytes: `overlay` over `base`, which is `checkpoint` if it is one.
    pub fn writable(
        label: impl Into<String>,
        overlay: Arc<dyn Overlay>,
        base: Base,
        checkpoint: Option<CheckpointId>,
        size: u64,
    ) -> Self {
        Self::new(label.into(), Some(overlay), base, checkpoint, size)
    }

    fn new(
        label: String,
        overlay: Option<Arc<dyn Overlay>>,
        base: Base,
        checkpoint: Option<CheckpointId>,
        size: u64,
    ) -> Self {
        let layers = overlay.as_ref().map(|overlay| overlay.layers()).unwrap_or_default();
        let watch = match &base {
            Base::Index(base) => Arc::clone(base.watch()),
            Base::Empty | Base::Source(_) => Arc::new(Watch::new(None)),
        };
        let view = View { layers, base: Arc::new(base), checkpoint, size };
        Self {
            shared: Arc::new(Shared {
                label,
                overlay,
                view: RwLock::new(Arc::new(view)),
                barrier: RwLock::new(()),
                locks: BlockLocks::default(),
                watch,
                rebasing: Arc::default(),
            }),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.shared.view().size
    }

    /// The checkpoint the volume stands on, if any.
    pub fn base(&self) -> Option<CheckpointId> {
        self.shared.view().checkpoint
    }

    /// Blocks that local layers hold as data; a block in several layers counts in each.
    pub fn local_blocks(&self) -> u64 {
        self.shared.view().layers.iter().map(|layer| layer.data_blocks()).sum()
    }

    /// Whether layers hold anything: if not, the base has all that was answered before this call.
    pub fn changed(&self) -> bool {
        self.shared.view().layers.iter().any(|layer| !layer.runs(0, 1).is_empty())
    }

    /// Layers that wait for a checkpoint: of one that is being made, or of ones that failed.
    pub fn unfinished(&self) -> usize {
        self.shared.view().layers.len().saturating_sub(1)
    }

    /// Makes the disk larger, durably; the new bytes are zeros. Connections see it when they are made anew.
    ///
    /// **Cancel safety**: once it has begun it is finished.
    pub async fn grow(&self, size: u64) -> Result<()> {
        let alone = self.shared.alone().await;
        let before = self.size();
        if size < before {
            return Err(Error::invalid(format!(
                "{} has {before} bytes and can't shrink to {size}",
                self.shared.label
            )));
        }
        let (overlay, shared) = (Arc::clone(self.shared.overlay()?), Arc::clone(&self.shared));
        let grown = async move {
            overlay.grow(size).await?;
            shared.change_view(|view| view.size = size);
            Ok(())
        };
        unbroken(&alone, grown).await
    }
}

/// The right to change layers, base and size.
type Alone = Arc<tokio::sync::OwnedMutexGuard<()>>;

/// Takes a step that changes the overlay and the view, which must not come apart: it is finished even if the
/// caller goes away, and until then nobody else takes one.
async fn unbroken<T: Send + 'static>(
    alone: &Alone,
    step: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let alone = Arc::clone(alone);
    let step = async move {
        let done = step.await;
        drop(alone);
        done
    };
    spawn(step).await.map_err(|e| {
        Error::with_source(ErrorKind::Unavailable, "a change of the volume was stopped with its runtime", e)
    })?
}

impl Shared {
    /// Waits until nobody else changes layers, base or size.
    async fn alone(&self) -> Alone {
        Arc::new(Arc::clone(&self.rebasing).lock_owned().await)
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    fn overlay(&self) -> Result<&Arc<dyn Overlay>> {
        self.overlay.as_ref().ok_or_else(|| self.read_only())
    }

    fn read_only(&self) -> Error {
        Error::new(ErrorKind::ReadOnly, format!("{} is read-only", self.label))
    }

    fn change_view(&self, change: impl FnOnce(&mut View)) {
        let mut held = self.view.write();
        let mut view = View {
            layers: held.layers.clone(),
            base: Arc::clone(&held.base),
            checkpoint: held.checkpoint,
            size: held.size,
        };
        change(&mut view);
        *held = Arc::new(view);
    }

    /// Adds to an error which disk it befell, and logs it: the client only gets a number.
    fn failed(&self, what: impl fmt::Display, error: Error) -> Error {
        let error = error.context(format!("{}: {what}", self.label));
        tracing::error!("{}", error.report());
        error
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let view = self.shared.view();
        f.debug_struct("Volume")
            .field("label", &self.shared.label)
            .field("size", &view.size)
            .field("blocks", &blocks_for(view.size))
            .field("layers", &view.layers.len())
            .finish_non_exhaustive()
    }
}
