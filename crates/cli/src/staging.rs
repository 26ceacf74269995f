//! Staged checkpoints: what a volume's home store is to have and can't be given now.
//!
//! A checkpoint that finds home out of reach goes to a store beside it: `staged` in the volume's folder. There it can
//! be read at once on this host, by name, together with what caches have of home. It is sent home later: by the
//! volume's next checkpoint, and by a server of the volume, which tries again and again.
//!
//! In this order, so that a kill between any two steps loses nothing:
//!
//! 1. The layers are frozen, durably, as for every checkpoint. *Killed*: the next checkpoint takes them.
//! 2. Their content goes to the store beside, is synced and named there. The volume's record stays as it is, and so do
//!    the layers: the store beside is a copy of what is in them, nothing rests on it. *Killed*: as after 1, or as
//!    after 2.
//! 3. Before anything newer of the volume is published, and with home back, staged checkpoints are sent home, oldest first,
//!    named there, and pinned as the volume's. *Killed*: what home has under that name is not sent again.
//! 4. Once home has all of them, the store beside goes, names first. *Killed*: 3 finds nothing to send, and goes on.
//! 5. The layers go with the first checkpoint that home takes, as always: when home has what they hold.
//!
//! The store beside is no whole store: it holds what is new against the volume's base, and nothing of the base.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use gabion_store_core::{
    Error, ErrorKind, ImageName, Result, Store,
    format::image_record::{HistoryEntry, ImageRecord},
    index::NodeCache,
    ops::{
        ImageRef, Job, NewBase, Revision, Side, TransferOptions, new_epoch, open_checkpoint, resolve,
        transfer,
    },
    stores::{Cached, MemoryCache, Stack},
    volume::{CheckpointOptions, Checkpointed, Frozen, Home},
};
use gabion_store_local::{
    fs::{Fs, StdFs},
    store::LocalStore,
};

use crate::{Host, InStore, OpenVolume, Opened, open::blocking};

/// In a volume's folder: the store of its staged checkpoints.
const STAGED: &str = "staged";
/// Memory for chunks of a staged disk, and for its nodes if home's can't be shared, in bytes.
const MEMORY: usize = 16 << 20;

/// Staged checkpoints of one volume for one image.
#[derive(Clone, Debug)]
pub struct StagedImage {
    /// The volume they are of.
    pub volume: ImageName,
    /// URL of the home store they wait for.
    pub home: String,
    /// The image they will be appended to, with what is staged as its history.
    pub record: ImageRecord,
    store: Store,
}

/// The store in `folder`, or `None` if there is none.
fn open_beside(folder: &Path) -> Result<Option<Store>> {
    match LocalStore::open(Arc::new(StdFs), folder) {
        Ok(store) => Ok(Some(store.into_store())),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Invalid) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a staged disk is read through: the store beside, then what can be had of home.
fn read_through(staged: &Store, home: Option<&Opened>) -> Result<(Store, Arc<NodeCache>)> {
    let mut stack = Stack::builder().tier(STAGED, Arc::clone(&staged.chunks));
    if let Some(home) = home {
        stack = stack.tier("home", Arc::clone(&home.store.chunks));
    }
    let cache = Arc::new(MemoryCache::new(MEMORY));
    let chunks = Arc::new(Cached::new(cache, Arc::new(stack.write_to(STAGED)?)));
    let nodes = match home {
        Some(home) => home.nodes.over(Arc::clone(&chunks) as _),
        None => NodeCache::new(Arc::clone(&chunks) as _, MEMORY),
    };
    Ok((Store { chunks, index: Arc::clone(&staged.index) }, Arc::new(nodes)))
}

/// The images of a store beside, in the order of their names.
async fn images(store: &Store) -> Result<Vec<ImageRecord>> {
    let mut records = Vec::new();
    for name in store.index.list_images().await? {
        if let Some(found) = store.index.read_image(&name?).await? {
            records.push(found.value);
        }
    }
    Ok(records)
}

impl OpenVolume {
    fn staged_folder(&self) -> PathBuf {
        self.overlay.folder().join(STAGED)
    }

    /// Stores frozen layers beside home, under the name that home is to give them.
    pub(crate) async fn stage(
        &self,
        frozen: &Frozen,
        options: &CheckpointOptions,
        job: &Job,
    ) -> Result<Checkpointed> {
        let (folder, clock) = (self.staged_folder(), Arc::clone(&self.clock));
        let beside = blocking(move || {
            if let Some(store) = open_beside(&folder)? {
                return Ok(store);
            }
            // What a removal left that was killed.
            let fs: Arc<dyn Fs> = Arc::new(StdFs);
            LocalStore::destroy(&*fs, &folder)?;
            LocalStore::init(fs, &folder, &*clock).map(LocalStore::into_store)
        });
        let (store, nodes) = read_through(&beside.await?, Some(&self.home))?;
        let staging = Home { store, nodes, clock: Arc::clone(&self.clock) };
        let made = frozen.stage(&staging, options, job).await?;
        self.staged.notify_one();
        Ok(made)
    }

    /// Waits until something was staged since the last call.
    #[cfg(feature = "nbd")]
    pub(crate) async fn staged_some(&self) {
        self.staged.notified().await;
    }

    /// Sends staged checkpoints home, oldest first, and removes the store beside once home has them all. Gives how
    /// many were sent.
    ///
    /// **Errors**: `Unavailable` if home is still out of reach; `Conflict` if the volume is replicated and another
    /// writer has taken over the image. What was not sent stays staged.
    pub async fn send_staged(&self, job: &Job) -> Result<usize> {
        let _alone = self.staging.lock().await;
        self.send_staged_alone(job).await
    }

    pub(crate) async fn send_staged_alone(&self, job: &Job) -> Result<usize> {
        let folder = self.staged_folder();
        let opened = blocking(move || open_beside(&folder)).await?;
        let Some(beside) = opened else { return Ok(0) };
        let (store, nodes) = read_through(&beside, Some(&self.home))?;
        let (mut sent, mut kept) = (0, false);
        for record in images(&beside).await? {
            let known = self.home.direct.index.read_image(&record.name).await?.map(|found| found.value);
            let has = |entry: &HistoryEntry| {
                known
                    .iter()
                    .flat_map(|known| &known.history)
                    .any(|there| there.checkpoint == entry.checkpoint)
            };
            let missing: Vec<_> = record.history.iter().rev().filter(|entry| !has(entry)).collect();
            let epoch = match missing[..] {
                [] => None,
                _ => self.epoch_for(&record.name, known.is_some())?,
            };
            for entry in missing {
                // What it was made from is what the volume stands on, as long as nothing newer was published of it.
                let (checkpoint, _) = open_checkpoint(&nodes, entry.checkpoint).await?;
                if checkpoint.parent != self.volume.base() {
                    tracing::warn!(
                        "staged checkpoint {} of volume '{}' is older than what its home store has: it stays on this \
                         host, to be exported",
                        entry.checkpoint.short(),
                        self.name
                    );
                    kept = true;
                    continue;
                }
                let place = self.home.url.to_string();
                let what = ImageRef {
                    name: record.name.clone(),
                    revision: Revision::Id(entry.checkpoint.to_string()),
                };
                let options = TransferOptions {
                    force: true,
                    epoch,
                    // By its pin the volume's replication knows it as the volume's own, until a newer one is published.
                    pin: (record.name == self.name)
                        .then(|| NewBase { volume: self.id(), base: self.volume.base() }),
                    ..TransferOptions::default()
                };
                let from = Side { store: &store, place: "the volume's staged checkpoints" };
                let to = Side { store: &self.home.direct, place: &place };
                transfer(from, to, &what, &record.name, &*self.clock, options, job).await?;
                tracing::info!("staged checkpoint {} is in {place} now", entry.checkpoint.short());
                sent += 1;
            }
        }
        if kept {
            return Ok(sent);
        }
        // What home was found to have may be of a writer who died.
        self.home.direct.index.settle().await?;
        let folder = self.staged_folder();
        blocking(move || LocalStore::destroy(&StdFs, &folder)).await?;
        Ok(sent)
    }

    /// The epoch to publish under, if the volume owns the image or is to make it.
    fn epoch_for(&self, image: &ImageName, exists: bool) -> Result<Option<u64>> {
        let Some(replicator) = self.replication().filter(|_| *image == self.name) else { return Ok(None) };
        match replicator.status().epoch {
            None if !exists => new_epoch().map(Some),
            // Before the claim it is not known who owns the image.
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!("image '{image}' is not taken over yet: try again"),
            )),
            epoch => Ok(epoch),
        }
    }
}

/// A checkpoint that was found by name.
#[derive(Clone, Debug)]
pub struct Located {
    /// The checkpoint.
    pub entry: HistoryEntry,
    /// Nodes to read its disk through.
    pub nodes: Arc<NodeCache>,
    /// Whether it is staged, rather than in its store.
    pub staged: bool,
}

impl Host {
    /// A checkpoint by its name: from its store or, if that does not have it or is out of reach, from what is staged
    /// for it on this host.
    pub async fn locate(&self, image: &InStore<ImageRef>) -> Result<Located> {
        let home = self.store_of(image.store.as_deref()).await;
        let found = match &home {
            Ok(home) => resolve(&home.store, &image.name).await.map(|entry| (entry, &home.nodes)),
            Err(error) => Err(error.clone()),
        };
        let error = match found {
            Ok((entry, nodes)) => return Ok(Located { entry, nodes: Arc::clone(nodes), staged: false }),
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) => return Err(e),
            Err(e) => e,
        };
        let url = self.url_of(image.store.as_deref())?.to_string();
        match self.find_staged(&url, &image.name).await? {
            Some((staged, entry)) => {
                let (_, nodes) = read_through(&staged.store, home.as_ref().ok())?;
                Ok(Located { entry, nodes, staged: true })
            }
            None => Err(error),
        }
    }

    /// A checkpoint by its name among what is staged for a home.
    async fn find_staged(&self, home: &str, image: &ImageRef) -> Result<Option<(StagedImage, HistoryEntry)>> {
        for staged in self.staged().await?.into_iter().filter(|staged| staged.home == home) {
            if let Some(entry) = staged.resolve(image).await? {
                return Ok(Some((staged, entry)));
            }
        }
        Ok(None)
    }

    /// What to do about a volume that can't be made of a checkpoint, if that is because it is not in its home yet.
    pub(crate) async fn not_home_yet(&self, image: &InStore<ImageRef>, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable) {
            return error;
        }
        let Ok(home) = self.url_of(image.store.as_deref()) else { return error };
        let Ok(Some((staged, entry))) = self.find_staged(&home.to_string(), &image.name).await else {
            return error;
        };
        let why = format!(
            "'{image}' ({}) is staged on this host, and a volume can be made of it once it is in {}: serve volume '{2}', \
             or run 'gabion checkpoint {2}', when that can be reached; until then 'gabion export {image} FILE' reads it",
            entry.checkpoint.short(),
            home.place(),
            staged.volume,
        );
        Error::with_source(ErrorKind::Unavailable, why, error)
    }

    /// What is staged on this host, by volume. A volume that can't be looked into is left out, and the log says so.
    pub async fn staged(&self) -> Result<Vec<StagedImage>> {
        let volumes = self.volumes().clone();
        let found = blocking(move || volumes.list()).await?;
        let mut all = Vec::new();
        for volume in found {
            let Ok(info) = volume.record.map(|record| record.info) else { continue };
            let folder = volume.folder.join(STAGED);
            let staged = async {
                let opened = blocking(move || open_beside(&folder)).await?;
                let Some(store) = opened else { return Ok(Vec::new()) };
                let records = images(&store).await?;
                Ok::<_, Error>(records.into_iter().map(|record| (record, store.clone())).collect())
            };
            match staged.await {
                Ok(records) => all.extend(records.into_iter().map(|(record, store)| StagedImage {
                    volume: info.name.clone(),
                    home: info.home.clone(),
                    record,
                    store,
                })),
                Err(error) => {
                    tracing::warn!("volume '{}': its staged checkpoints: {}", info.name, error.report());
                }
            }
        }
        Ok(all)
    }
}

impl StagedImage {
    /// The checkpoint that a reference means, if it is staged here.
    async fn resolve(&self, image: &ImageRef) -> Result<Option<HistoryEntry>> {
        if image.name != self.record.name {
            return Ok(None);
        }
        match resolve(&self.store, image).await {
            Ok(entry) => Ok(Some(entry)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
}
