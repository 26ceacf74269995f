//! A volume that this process has open.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gabion_store_core::{
    ErrorKind, ImageName, Result,
    clock::Clock,
    format::image_record::ImageRecord,
    ops::{IngestOptions, Job},
    replicate::Replicator,
    types::VolumeId,
    volume::{Append, CheckpointOptions, Checkpointed, Home, Volume},
};
use gabion_store_local::overlay::LocalOverlay;

use super::lazy;
use crate::Opened;
#[cfg(feature = "nbd")]
use crate::warm::Source;

/// A volume that this process has open; no other can.
#[derive(Debug)]
pub struct OpenVolume {
    /// Its name.
    pub name: ImageName,
    /// The disk.
    pub volume: Volume,
    /// Its home store.
    pub home: Opened,
    /// Record of the image that its base is of, as it was when the volume was opened, if its home is remote.
    pub origin: Option<ImageRecord>,
    pub(crate) overlay: Arc<LocalOverlay>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(super) ingest: IngestOptions,
    pub(super) replication: OnceLock<Arc<Replicator>>,
    /// Held by whoever stages checkpoints or sends them home.
    pub(crate) staging: tokio::sync::Mutex<()>,
    /// Told when something was staged.
    pub(crate) staged: tokio::sync::Notify,
}

impl OpenVolume {
    /// Where its base comes from, if that is far away.
    #[cfg(feature = "nbd")]
    pub(crate) fn source(&self) -> Option<Source> {
        Source::new(&self.volume, &self.home, &self.clock, self.origin.as_ref())
    }

    /// The volume's id.
    pub fn id(&self) -> VolumeId {
        self.overlay.record().info.id
    }

    /// Leaves a note in the volume's lock file, for whoever finds it held.
    pub fn set_note(&self, note: &str) -> Result<()> {
        self.overlay.set_lock_note(note)
    }

    /// Has its record know how much its journals hold, so that a loss at their ends is noticed. After a flush. If it
    /// fails nothing is lost but that.
    #[cfg(feature = "nbd")]
    pub(crate) async fn record_journals(&self) {
        let overlay = Arc::clone(&self.overlay);
        if let Err(e) = crate::open::blocking(move || overlay.record_journals()).await {
            tracing::warn!("volume '{}': its record stays behind its journals: {}", self.name, e.report());
        }
    }

    /// Whether the volume stands on a file that is not wholly in its home store yet.
    pub fn is_lazy(&self) -> bool {
        let info = self.overlay.record().info;
        info.base.is_none() && info.lazy_base.is_some()
    }

    /// Appends the volume's state to an image of its home store: the one of its own name, or `image`. If home is out
    /// of reach the checkpoint is staged on this host, see [`send_staged`](Self::send_staged).
    pub async fn checkpoint(
        &self,
        image: Option<&ImageName>,
        labels: BTreeMap<String, String>,
        job: &Job,
    ) -> Result<Checkpointed> {
        let mut options = self.options(image, labels);
        if let Some(replicator) = self.replication.get()
            && options.image == self.name
        {
            // As the image's owner, or not at all if it has another one by now.
            if let Some(error) = replicator.displaced() {
                return Err(error);
            }
            options.append = replicator.append();
        }
        let (home, _staging) = (self.home(), self.staging.lock().await);
        let away = match self.send_staged_alone(job).await {
            Ok(_) => None,
            Err(e) if e.kind() == ErrorKind::Unavailable => Some(e),
            Err(e) => {
                tracing::warn!("volume '{}': its staged checkpoints stay so: {}", self.name, e.report());
                None
            }
        };
        let frozen = self.volume.freeze(&home, &options, job).await?;
        let away = match away {
            Some(error) => error,
            None => match frozen.publish(&home, &options, job).await {
                Err(e) if e.kind() == ErrorKind::Unavailable => e,
                done => return done,
            },
        };
        tracing::warn!("volume '{}': its home store is out of reach: {}", self.name, away.report());
        self.stage(&frozen, &options, job)
            .await
            .map_err(|e| away.context(format!("the checkpoint can't be staged either ({})", e.report())))
    }

    /// Brings the rest of a lazy base into the home store.
    pub async fn complete_ingest(&self, job: &Job) -> Result<()> {
        let options = self.options(None, BTreeMap::new());
        self.volume.complete_ingest(&self.home(), &options, job).await?;
        lazy::drop_private_copy(&self.overlay);
        Ok(())
    }

    /// Its replication to the image of its name, which does nothing before it is asked to; `take_over` as in
    /// [`Replicator::take_over`]. There is one: a second call gives the first one's.
    pub fn replicate(self: &Arc<Self>, every: Duration, take_over: bool) -> Arc<Replicator> {
        let new = || {
            let options = self.options(None, BTreeMap::new());
            let this = Arc::downgrade(self);
            let replicator =
                Replicator::new(self.volume.clone(), self.home(), options, every).take_over(take_over);
            // What is staged is older than what is published next, and so comes first.
            Arc::new(replicator.before(Box::new(move || {
                let this = this.upgrade();
                Box::pin(async move {
                    match this {
                        Some(this) => this.send_staged(&Job::default()).await.map(drop),
                        None => Ok(()),
                    }
                })
            })))
        };
        Arc::clone(self.replication.get_or_init(new))
    }

    /// Its replication, if it has one.
    pub fn replication(&self) -> Option<&Arc<Replicator>> {
        self.replication.get()
    }

    fn home(&self) -> Home {
        let Opened { store, nodes, .. } = self.home.clone();
        Home { store, nodes, clock: Arc::clone(&self.clock) }
    }

    fn options(&self, image: Option<&ImageName>, labels: BTreeMap<String, String>) -> CheckpointOptions {
        CheckpointOptions {
            owner: self.id(),
            image: image.unwrap_or(&self.name).clone(),
            lineage: self.overlay.record().info.lineage,
            labels,
            ingest: self.ingest,
            append: Append::Any,
        }
    }
}
