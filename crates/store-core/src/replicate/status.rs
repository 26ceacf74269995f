//! What people ask of a replication.

use std::time::Duration;

use super::Replicator;
use crate::{CheckpointId, Error, ImageName, clock::Timestamp};

/// A state of the volume that its image has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicated {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Everything that was answered before this moment is in it.
    pub at: Timestamp,
}

/// How a replication stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicationState {
    /// The image has all that was written.
    Current,
    /// Something was written since; the next round publishes it.
    Behind,
    /// The last round failed; the next one tries again.
    Failing,
    /// Another writer has taken over the image: replication has ended.
    Displaced,
}

impl ReplicationState {
    /// One word, for people and for JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Failing => "failing",
            Self::Displaced => "displaced",
        }
    }
}

/// How a replication stands, at one moment.
#[derive(Clone, Debug)]
pub struct ReplicationStatus {
    /// The image it publishes to.
    pub image: ImageName,
    /// In short.
    pub state: ReplicationState,
    /// The writer epoch under which it owns the image; `None` before it does.
    pub epoch: Option<u64>,
    /// What the image last got.
    pub replicated: Option<Replicated>,
    /// At most so much time of writes would be lost with this host: since the last replicated state, or since
    /// replication began; zero if nothing was written since.
    pub lag: Duration,
    /// Rounds that failed in a row.
    pub failures: u32,
    /// Why the last of them did.
    pub last_error: Option<Error>,
}

impl Replicator {
    /// How it stands.
    pub fn status(&self) -> ReplicationStatus {
        let current = self.is_current();
        let state = self.state.lock();
        let since = state.replicated.map_or(self.started, |last| last.at);
        let lag = if current { 0 } else { self.home.clock.now().0.saturating_sub(since.0) };
        ReplicationStatus {
            image: self.options.image.clone(),
            state: match (&state.displaced, state.failures, current) {
                (Some(_), ..) => ReplicationState::Displaced,
                (None, 1.., _) => ReplicationState::Failing,
                (None, 0, true) => ReplicationState::Current,
                (None, 0, false) => ReplicationState::Behind,
            },
            epoch: state.epoch,
            replicated: state.replicated,
            lag: Duration::from_millis(lag),
            failures: state.failures,
            last_error: state.last_error.clone(),
        }
    }
}
