//! What a disk from a remote store reads at its start: fetched ahead of the guest by the boot trace of its image,
//! or recorded for the next start. And the whole disk, fetched in the background.
//!
//! All of it is a help and nothing else: what fails here is told to the log, and the disk is served without.

use std::{sync::Arc, time::Duration};

use gabion_store_core::{
    Error, ErrorKind, Result, Store,
    clock::Clock,
    format::image_record::ImageRecord,
    ops::{Job, load_boot_trace, publish_boot_trace},
    volume::{Touches, Volume},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::Opened;

/// What is done at the start of disks from remote stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WarmUp {
    /// Fetch what the image's boot trace names; if it has none, record one, for a minute or until the shutdown,
    /// and publish it if the store can be written.
    pub trace: bool,
    /// Fetch the whole disk, in the background.
    pub prefetch: bool,
}

/// Time from the start in which first touches are recorded.
const RECORDED: Duration = Duration::from_secs(60);

/// A disk of a remote store and the image that it is of.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) volume: Volume,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    /// The image's record as it was when the disk was opened.
    pub(crate) record: ImageRecord,
}

impl Source {
    /// `None` for a disk that is of no image, or near.
    pub(crate) fn new(
        volume: &Volume,
        home: &Opened,
        clock: &Arc<dyn Clock>,
        record: Option<&ImageRecord>,
    ) -> Option<Self> {
        let record = record.filter(|_| home.is_remote())?.clone();
        Some(Self { volume: volume.clone(), store: home.store.clone(), clock: Arc::clone(clock), record })
    }
}

/// Disks that are about to be warmed up.
#[derive(Debug, Default)]
pub(crate) struct Warming(Vec<(Source, Option<Touches>)>);

impl Warming {
    /// Begins to record what has to be recorded: before the first client comes.
    pub(crate) fn new(sources: impl Iterator<Item = Source>, what: WarmUp) -> Self {
        let begin = |source: Source| {
            let record = what.trace && source.record.boot_trace.is_none();
            let touches = record.then(|| source.volume.record_touches());
            (source, touches)
        };
        if what == WarmUp::default() { Self::default() } else { Self(sources.map(begin).collect()) }
    }

    /// Goes on in the background until `stop`, after which recordings are published.
    pub(crate) fn start(self, what: WarmUp, stop: &CancellationToken) -> WarmUps {
        let mut tasks = JoinSet::new();
        for (source, touches) in self.0 {
            tasks.spawn(warm_up(source, touches, what, stop.clone()));
        }
        WarmUps(tasks)
    }
}

/// Disks that are being warmed up. Dropping it ends that.
#[derive(Debug)]
pub(crate) struct WarmUps(JoinSet<()>);

impl WarmUps {
    /// Waits for what is being published, until `deadline`.
    pub(crate) async fn finish(mut self, deadline: Instant) {
        let all = async { while self.0.join_next().await.is_some() {} };
        // What is not done by then is not needed.
        let _late = timeout_at(deadline, all).await;
    }
}

async fn warm_up(source: Source, touches: Option<Touches>, what: WarmUp, stop: CancellationToken) {
    let image = &source.record.name;
    let fetch = async {
        if what.trace {
            told(image.as_str(), "fetching by the boot trace", replay(&source, &stop).await);
        }
        if what.prefetch {
            let job = Job { progress: None, cancel: stop.clone() };
            told(image.as_str(), "fetching the whole disk", source.volume.prefetch_all(job).await);
        }
    };
    let record = async {
        let Some(touches) = touches else { return };
        let _in_time = stop.run_until_cancelled(sleep(RECORDED)).await;
        let trace = touches.finish();
        if !trace.is_empty() {
            let done = publish_boot_trace(&source.store, &*source.clock, image, &trace).await;
            told(image.as_str(), "publishing the boot trace", done.map(drop));
        }
    };
    tokio::join!(fetch, record);
}

async fn replay(source: &Source, stop: &CancellationToken) -> Result<()> {
    let Some(trace) = load_boot_trace(&source.store, &source.record).await? else { return Ok(()) };
    source.volume.replay(&trace, Job { progress: None, cancel: stop.clone() }).await
}

fn told(image: &str, doing: &str, done: Result<(), Error>) {
    match done {
        Ok(()) => tracing::debug!("image '{image}': {doing} is done"),
        Err(e) if e.kind() == ErrorKind::Cancelled => {}
        // Not being allowed to write is how most hosts are set up.
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnly) => {
            tracing::debug!("image '{image}': {doing} failed: {}", e.report());
        }
        Err(e) => tracing::info!("image '{image}': {doing} failed: {}", e.report()),
    }
}
