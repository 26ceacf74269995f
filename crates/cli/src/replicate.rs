//! Replication of served volumes: from a server's options to the library's [`Replicator`], and back to people.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures::future::join_all;
use gabion_store_core::{
    BlockDevice, Error, Result,
    replicate::{FlushRemote, ReplicationStatus},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{Export, OpenVolume};

/// How a server replicates its volumes, each to the image of its name in its home store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicateOptions {
    /// Time from one publish to the next, if anything was written in between; at least 10 ms.
    pub every: Duration,
    /// How far a FLUSH reaches.
    pub flush: FlushTo,
    /// Take an image over even if its newest checkpoint is one that the volume does not go on from.
    pub take_over: bool,
}

impl Default for ReplicateOptions {
    fn default() -> Self {
        Self { every: Duration::from_secs(30), flush: FlushTo::default(), take_over: false }
    }
}

/// How far a FLUSH reaches before it is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlushTo {
    /// This host's disk.
    #[default]
    Local,
    /// The home store: a checkpoint that holds everything answered before is published, too.
    Remote,
}

/// Shortest interval: below it a volume would do nothing else.
const MIN_EVERY: Duration = Duration::from_millis(10);

/// The replications of a server.
#[derive(Debug)]
pub(crate) struct Replications {
    volumes: Vec<Arc<OpenVolume>>,
    /// Set once no client is left: from then on a flush is local.
    left: Arc<AtomicBool>,
}

impl Replications {
    /// For all volumes among the exports, and the devices to serve, in the exports' order. Nothing is published
    /// before [`start`](Self::start).
    pub(crate) fn new(
        exports: &[Export],
        options: Option<ReplicateOptions>,
    ) -> Result<(Self, Vec<Arc<dyn BlockDevice>>)> {
        let left = Arc::new(AtomicBool::new(false));
        let mut devices: Vec<_> = exports.iter().map(|export| Arc::clone(&export.device)).collect();
        let mut volumes = Vec::new();
        if let Some(ReplicateOptions { every, flush, take_over }) = options {
            if every < MIN_EVERY {
                return Err(Error::invalid(format!(
                    "replication can't happen every {every:?}: at least 10 ms"
                )));
            }
            for (export, device) in exports.iter().zip(&mut devices) {
                let Some(volume) = &export.volume else { continue };
                let replicator = volume.replicate(every, take_over);
                if flush == FlushTo::Remote {
                    let inner = Arc::clone(device);
                    *device = Arc::new(FlushRemote::new(inner, Arc::clone(&replicator), Arc::clone(&left)));
                }
                volumes.push(Arc::clone(volume));
            }
            if volumes.is_empty() {
                return Err(Error::invalid("only volumes can be replicated, and none is served"));
            }
        }
        Ok((Self { volumes, left }, devices))
    }

    /// Begins, until it is stopped.
    pub(crate) fn start(&self, stop: &CancellationToken) {
        for replicator in self.volumes.iter().filter_map(|volume| volume.replication().cloned()) {
            let stop = stop.clone();
            tokio::spawn(async move { replicator.run(&stop).await });
        }
    }

    /// From here on flushes are local: nobody is left who could be told a lie.
    pub(crate) fn flush_locally(&self) {
        self.left.store(true, std::sync::atomic::Ordering::Release);
    }

    /// Publishes what is not published yet, until the deadline. What is left stays on this host, and the log
    /// says so.
    pub(crate) async fn finish(self, deadline: Instant) {
        let last = self.volumes.iter().filter_map(|volume| {
            let replicator = Arc::clone(volume.replication()?);
            Some(async move {
                let done = timeout_at(deadline, replicator.round()).await;
                if !matches!(done, Ok(Ok(()))) {
                    let lag = replicator.status().lag;
                    tracing::warn!(
                        "volume '{0}': up to {lag:.0?} of writes are on this host only; 'gabion checkpoint {0}' \
                         publishes them, or serving it with --replicate again",
                        volume.name
                    );
                }
            })
        });
        join_all(last).await;
    }
}

/// A replication, as the control socket tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicationReply {
    /// The image it publishes to.
    pub image: String,
    /// `current`, `behind`, `failing` or `displaced`.
    pub state: String,
    /// The writer epoch under which it owns the image.
    pub epoch: Option<u64>,
    /// The checkpoint that the image last got.
    pub checkpoint: Option<String>,
    /// When what it holds was so, in milliseconds since the Unix epoch.
    pub replicated_ms: Option<u64>,
    /// At most so much time of writes would be lost with this host, in milliseconds.
    pub lag_ms: u64,
    /// Rounds that failed in a row.
    pub failures: u32,
    /// Why the last of them did.
    pub error: Option<String>,
}

impl From<ReplicationStatus> for ReplicationReply {
    fn from(status: ReplicationStatus) -> Self {
        Self {
            image: status.image.to_string(),
            state: status.state.as_str().to_owned(),
            epoch: status.epoch,
            checkpoint: status.replicated.map(|last| last.checkpoint.to_string()),
            replicated_ms: status.replicated.map(|last| last.at.0),
            lag_ms: u64::try_from(status.lag.as_millis()).unwrap_or(u64::MAX),
            failures: status.failures,
            error: status.last_error.map(|error| error.report()),
        }
    }
}
