//! Replication: a running volume whose checkpoints go to its home store by themselves.
//!
//! A [`Replicator`] publishes to one image, in *rounds*: one at a time, each a delta checkpoint of the volume as
//! it is when the round begins, none if the image has that already. [`Replicator::run`] begins one every so
//! often, [`FlushRemote`] one for each FLUSH that no round under way can answer.
//!
//! **Fencing**: the first round claims the image: it puts a new writer epoch into its record, or makes the image
//! with one, and every publish names the epoch. It takes over only an image that the volume goes on from, or if
//! it was told to: what a displaced host has is not put on top of another's work by its restart. Whoever claims the image later displaces this writer: its
//! next publish is `Conflict`, replication stops for good, and the volume goes on with all it has.
//!
//! **Home out of reach**: the round fails, and what it froze stays in the volume's layers, to be taken by the
//! next. While there are such layers a round asks for the image's record before it freezes another, so an
//! outage of any length costs one layer. Writes and local flushes never wait for a round.
//!
//! **Killed at any moment**: the image has the last checkpoint that was published, whole; the volume is in its
//! overlay, as it would be without replication. After a restart the first round publishes what is missing.

mod flush_remote;
mod lineage;
mod status;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub use flush_remote::FlushRemote;
pub use status::{Replicated, ReplicationState, ReplicationStatus};

use crate::{
    CheckpointId, Error, ErrorKind, Result,
    clock::Timestamp,
    format::image_record::ImageRecord,
    ops::{Job, claim_as_found, new_epoch},
    sync::Mutex,
    volume::{Append, CheckpointOptions, Home, Volume},
};

/// After failures the pause doubles, up to so many times.
const MAX_DOUBLINGS: u32 = 3;
/// Attempts at taking over an image that others publish to meanwhile.
const CLAIMS: usize = 4;

/// Publishes a volume to an image of its home store, for as long as it is asked to.
///
/// **Cancel safety**: every future may be dropped: the image is as before or as after the publish under way, and
/// the volume goes on as it was.
pub struct Replicator {
    volume: Volume,
    home: Home,
    options: CheckpointOptions,
    every: Duration,
    started: Timestamp,
    /// The round that has not begun: who wants one joins it.
    next: Mutex<Arc<Round>>,
    /// Held by the round that has begun.
    running: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    before: Option<Before>,
    take_over: bool,
}

/// What has to happen in the home store before anything is published there.
pub type Before = Box<dyn Fn() -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// A round, and how it ended.
type Round = OnceCell<Result<()>>;

/// What is known of the image and of the rounds so far.
#[derive(Debug, Default)]
struct State {
    /// The epoch under which this writer owns the image.
    epoch: Option<u64>,
    /// What the image was last seen to have of this volume.
    replicated: Option<Replicated>,
    /// Rounds that failed since the last one that did not.
    failures: u32,
    last_error: Option<Error>,
    /// Someone else owns the image.
    displaced: Option<Error>,
}

impl Replicator {
    /// Replicates `volume` to the image that `options` name, one round every so often. Does nothing by itself.
    pub fn new(volume: Volume, home: Home, options: CheckpointOptions, every: Duration) -> Self {
        let started = home.clock.now();
        Self {
            volume,
            home,
            options,
            every,
            started,
            next: Mutex::default(),
            running: tokio::sync::Mutex::default(),
            state: Mutex::default(),
            before: None,
            take_over: false,
        }
    }

    /// Has rounds that publish do this first, once the image is claimed; if it fails, so does the round.
    #[must_use]
    pub fn before(mut self, before: Before) -> Self {
        self.before = Some(before);
        self
    }

    /// Takes the image over even if its newest checkpoint is one that the volume does not go on from.
    #[must_use]
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.take_over = take_over;
        self
    }

    /// Begins a round at once and then every so often, less often while rounds fail; returns when it is cancelled
    /// or another writer has taken over the image. Failures are logged, the first of a row as a warning.
    pub async fn run(&self, cancel: &CancellationToken) {
        let rounds = async {
            loop {
                // Its outcome is in the state, and the log has it.
                let _outcome = self.round().await;
                let (failures, displaced) = {
                    let state = self.state.lock();
                    (state.failures, state.displaced.is_some())
                };
                if displaced {
                    return;
                }
                tokio::time::sleep(self.every * 2_u32.pow(failures.min(MAX_DOUBLINGS))).await;
            }
        };
        cancel.run_until_cancelled(rounds).await;
    }

    /// Success means that the image has everything that was answered before this call.
    ///
    /// Joins a round that others wait for, if that has not begun. **Errors**: `Conflict` once another writer has
    /// taken over the image; `Unavailable` if the home store is out of reach. What a failed round did not publish
    /// is owed to the next.
    pub async fn round(&self) -> Result<()> {
        let round = Arc::clone(&self.next.lock());
        let outcome = round.get_or_init(|| async {
            let _alone = self.running.lock().await;
            // Nobody joins from here on: what is answered after this may come too late for the freeze.
            {
                let mut next = self.next.lock();
                if Arc::ptr_eq(&next, &round) {
                    *next = Arc::default();
                }
            }
            let begun = self.home.clock.now();
            let outcome = self.replicate(begun).await;
            self.note(&outcome);
            outcome
        });
        outcome.await.clone()
    }

    /// How others of this process are to append to the image, so that it keeps one owner.
    pub fn append(&self) -> Append {
        self.state.lock().epoch.map_or(Append::Any, Append::Owner)
    }

    async fn replicate(&self, begun: Timestamp) -> Result<()> {
        if let Some(displaced) = self.state.lock().displaced.clone() {
            return Err(displaced);
        }
        let owner = self.state.lock().epoch.map(Append::Owner);
        let mut append = match owner {
            Some(owner) => owner,
            None => self.claim().await?,
        };
        if self.is_current() {
            return Ok(());
        }
        if let Some(before) = &self.before {
            before().await?;
            if matches!(append, Append::Create(_)) {
                // It may have made the image, of what was staged.
                append = self.claim().await?;
            }
        }
        let must_look = self.volume.unfinished() > 0 || !self.volume.changed();
        if let (true, Append::Owner(epoch)) = (must_look, append) {
            // Out of reach or displaced: found out before another layer is frozen. And the image may have the
            // volume's state already, published by someone else's hand.
            let record = self.record(epoch).await?;
            if self.adopt(&record, begun).await? {
                return Ok(());
            }
        }
        let options = CheckpointOptions { append, ..self.options.clone() };
        match self.volume.checkpoint(&self.home, &options, &Job::default()).await {
            Ok(made) => {
                let mut state = self.state.lock();
                if let Append::Create(epoch) = append {
                    state.epoch = Some(epoch);
                }
                state.replicated =
                    Some(Replicated { checkpoint: made.checkpoint, size: made.size, at: begun });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // Another epoch, or a conflict that the next round has behind it.
                if let Append::Owner(epoch) = append {
                    self.record(epoch).await?;
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the image over, if there is one.
    async fn claim(&self) -> Result<Append> {
        let mut overtaken = None;
        for _ in 0..CLAIMS {
            let Some(found) = self.home.store.index.read_image(&self.options.image).await? else {
                return Ok(Append::Create(new_epoch()?));
            };
            if let (false, Some(newest)) = (self.take_over, found.value.history.first()) {
                self.goes_on_from(newest.checkpoint).await?;
            }
            match claim_as_found(&self.home.store, found).await {
                Ok(epoch) => {
                    self.state.lock().epoch = Some(epoch);
                    return Ok(Append::Owner(epoch));
                }
                // What came meanwhile may be another's: look again.
                Err(error) if error.kind() == ErrorKind::Conflict => overtaken = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(overtaken.expect("an attempt was made"))
    }

    /// `Conflict`, for good, if the volume does not go on from the image's newest checkpoint.
    async fn goes_on_from(&self, newest: CheckpointId) -> Result<()> {
        if lineage::goes_on_from(&self.home, self.options.owner, self.volume.base(), newest).await? {
            return Ok(());
        }
        let error = Error::new(
            ErrorKind::Conflict,
            format!(
                "image '{}' has a checkpoint of another writer, {}, that this volume doesn't go on from: it is not \
                 replicated, and keeps its data; publish it under another name with 'gabion checkpoint VOLUME OTHER', \
                 or append it to the image all the same with 'gabion serve VOLUME --replicate --take-over'",
                self.options.image,
                newest.short()
            ),
        );
        self.state.lock().displaced = Some(error.clone());
        Err(error)
    }

    /// Why replication has ended, if it has.
    pub fn displaced(&self) -> Option<Error> {
        self.state.lock().displaced.clone()
    }

    /// The image's record, if this writer still owns the image.
    async fn record(&self, epoch: u64) -> Result<ImageRecord> {
        let image = &self.options.image;
        let Some(found) = self.home.store.index.read_image(image).await? else {
            // Removed: the next round makes it anew.
            self.state.lock().epoch = None;
            return Err(Error::not_found(format!("image '{image}' was removed while it was replicated to")));
        };
        let now = found.value.writer_epoch;
        if now == epoch {
            return Ok(found.value);
        }
        let error = Error::new(
            ErrorKind::Conflict,
            format!(
                "another writer has taken over image '{image}' (its epoch is {now}, ours was {epoch}): \
                 replication has ended, the volume goes on and keeps its data; publish it under another name \
                 with 'gabion checkpoint VOLUME OTHER'"
            ),
        );
        self.state.lock().displaced = Some(error.clone());
        Err(error)
    }

    /// Whether the image's newest checkpoint is the volume's state.
    async fn adopt(&self, record: &ImageRecord, begun: Timestamp) -> Result<bool> {
        let Some(newest) = record.history.first() else { return Ok(false) };
        let same = !self.volume.changed()
            && self.volume.base() == Some(newest.checkpoint)
            && self.volume.size() == newest.size;
        if same {
            self.home.store.index.settle().await?;
            self.state.lock().replicated =
                Some(Replicated { checkpoint: newest.checkpoint, size: newest.size, at: begun });
        }
        Ok(same)
    }

    /// Whether nothing was written since the last round that published.
    fn is_current(&self) -> bool {
        let replicated = self.state.lock().replicated;
        replicated.is_some_and(|last| {
            !self.volume.changed()
                && self.volume.base() == Some(last.checkpoint)
                && self.volume.size() == last.size
        })
    }

    /// Counts and logs how a round ended.
    fn note(&self, outcome: &Result<()>) {
        let (image, state) = (&self.options.image, &mut *self.state.lock());
        match outcome {
            Ok(()) => {
                if state.failures > 0 {
                    tracing::info!(
                        "image '{image}': replication has caught up after {} failures",
                        state.failures
                    );
                }
                (state.failures, state.last_error) = (0, None);
            }
            Err(error) => {
                let report = error.report();
                match (&state.displaced, state.failures) {
                    (Some(_), 0) => tracing::error!("{report}"),
                    (None, 0) => {
                        tracing::warn!(
                            "image '{image}' can't be replicated to, and is tried again: {report}"
                        );
                    }
                    (_, failures) => tracing::debug!("image '{image}', failure {failures}: {report}"),
                }
                state.failures = state.failures.saturating_add(1);
                state.last_error = Some(error.clone());
            }
        }
    }
}

impl fmt::Debug for Replicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicator")
            .field("volume", &self.volume)
            .field("image", &self.options.image)
            .field("state", &*self.state.lock())
            .finish_non_exhaustive()
    }
}
