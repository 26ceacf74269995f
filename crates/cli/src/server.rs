//! A server of volumes and images, with a control socket beside the NBD one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gabion_nbd::Limits;
use gabion_store_core::{BlockDevice, Error, ErrorKind, ImageName, Result, ops::Job, volume::Checkpointed};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    OpenImage, OpenVolume, ReplicateOptions,
    control::ControlServer,
    replicate::Replications,
    warm::{Source, WarmUp, WarmUps, Warming},
};

/// Something that is served under a name.
#[derive(Clone, Debug)]
pub struct Export {
    /// The name.
    pub name: String,
    /// The disk.
    pub device: Arc<dyn BlockDevice>,
    /// The volume behind it, if it is one: what can be checkpointed.
    pub volume: Option<Arc<OpenVolume>>,
    /// What it is, for clients that list exports.
    pub description: String,
    /// Where it comes from, if that is far away.
    source: Option<Source>,
}

impl Export {
    /// A volume under its name.
    pub fn volume(volume: OpenVolume) -> Self {
        Self {
            name: volume.name.to_string(),
            device: Arc::new(volume.volume.clone()),
            description: format!("volume, home {}", volume.home.url),
            source: volume.source(),
            volume: Some(Arc::new(volume)),
        }
    }

    /// An image under a name.
    pub fn image(name: impl Into<String>, image: OpenImage, description: impl Into<String>) -> Self {
        let source = image.source();
        Self { source, ..Self::device(name, Arc::new(image.volume), description) }
    }

    /// Any device.
    pub fn device(
        name: impl Into<String>,
        device: Arc<dyn BlockDevice>,
        description: impl Into<String>,
    ) -> Self {
        Self { name: name.into(), device, volume: None, description: description.into(), source: None }
    }
}

/// Time for a shutdown with volumes to replicate: a supervisor that waits two seconds sees its end.
const FINISH: Duration = Duration::from_millis(1500);

/// Pause before staged checkpoints are tried to be sent again.
const SEND_AGAIN: Duration = Duration::from_secs(30);

/// Serves exports over NBD.
#[derive(Debug)]
pub struct Server;

/// What a [`Server`] serves, and how.
#[derive(Debug, Default)]
pub struct ServerBuilder {
    exports: Vec<Export>,
    limits: Limits,
    control: Option<PathBuf>,
    replicate: Option<ReplicateOptions>,
    warm_up: WarmUp,
}

/// A running server. Dropping it stops the server and removes its sockets, but promises no flush.
#[derive(Debug)]
pub struct ServerHandle {
    nbd: gabion_nbd::ServerHandle,
    exports: Arc<[Export]>,
    control: Option<ControlServer>,
    /// Ends ingests and replications when it is dropped.
    background: DropGuard,
    replications: Replications,
    warm_ups: WarmUps,
}

impl Server {
    /// An empty server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }
}

impl ServerBuilder {
    /// Adds an export. The first is also the one that clients get who name none.
    #[must_use]
    pub fn export(mut self, export: Export) -> Self {
        self.exports.push(export);
        self
    }

    /// Bounds on clients.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens for commands, too, on a Unix socket of this path; volumes' lock files say where.
    #[must_use]
    pub fn control(mut self, path: impl Into<PathBuf>) -> Self {
        self.control = Some(path.into());
        self
    }

    /// Publishes the volumes to their home stores while they are served.
    #[must_use]
    pub fn replicate(mut self, options: ReplicateOptions) -> Self {
        self.replicate = Some(options);
        self
    }

    /// What is done at the start of disks from remote stores: nothing, if this is not called.
    #[must_use]
    pub fn warm_up(mut self, what: WarmUp) -> Self {
        self.warm_up = what;
        self
    }

    /// Serves on a Unix socket. Volumes on a lazy base begin to ingest it in the background.
    pub async fn serve_unix(self, socket: &Path) -> Result<ServerHandle> {
        let mut nbd = gabion_nbd::Server::builder().limits(self.limits);
        let (replications, devices) = Replications::new(&self.exports, self.replicate)?;
        for (export, device) in self.exports.iter().zip(devices) {
            nbd = nbd.export(export.name.clone(), device).description(export.description.clone());
        }
        let warming = Warming::new(self.exports.iter().filter_map(|e| e.source.clone()), self.warm_up);
        let nbd = nbd.serve_unix(socket).await?;
        let exports: Arc<[Export]> = self.exports.into();
        let control = match self.control {
            None => None,
            Some(path) => {
                let control = ControlServer::start(&path, Arc::clone(&exports))?;
                for volume in exports.iter().filter_map(|export| export.volume.as_ref()) {
                    volume.set_note(&crate::control::note(&path))?;
                }
                Some(control)
            }
        };
        let background = CancellationToken::new();
        replications.start(&background);
        for volume in exports.iter().filter_map(|export| export.volume.clone()) {
            tokio::spawn(send_staged(volume, background.clone()));
        }
        for volume in
            exports.iter().filter_map(|export| export.volume.clone()).filter(|volume| volume.is_lazy())
        {
            tokio::spawn(ingest(volume, background.clone()));
        }
        let warm_ups = warming.start(self.warm_up, &background);
        Ok(ServerHandle {
            nbd,
            exports,
            control,
            background: background.drop_guard(),
            replications,
            warm_ups,
        })
    }
}

/// Sends what is staged, at once and then every so often for as long as something is.
async fn send_staged(volume: Arc<OpenVolume>, cancel: CancellationToken) {
    let job = Job { progress: None, cancel: cancel.clone() };
    let sending = async {
        loop {
            match volume.send_staged(&job).await {
                Ok(_) => volume.staged_some().await,
                Err(e) => {
                    tracing::debug!("volume '{}': what is staged stays so: {}", volume.name, e.report());
                    tokio::time::sleep(SEND_AGAIN).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(sending).await;
}

async fn ingest(volume: Arc<OpenVolume>, cancel: CancellationToken) {
    let job = Job { progress: None, cancel };
    match volume.complete_ingest(&job).await {
        Ok(()) => tracing::info!("volume '{}' is ingested: its file is no longer needed", volume.name),
        Err(e) if e.kind() == ErrorKind::Cancelled => {}
        Err(e) => tracing::error!("volume '{}' can't be ingested: {}", volume.name, e.report()),
    }
}

impl ServerHandle {
    /// URI of the first export.
    pub fn uri(&self) -> String {
        self.nbd.uri()
    }

    /// Names of the exports and their URIs.
    pub fn uris(&self) -> Vec<(String, String)> {
        let uri = |export: &Export| Some((export.name.clone(), self.nbd.uri_of(&export.name)?));
        self.exports.iter().filter_map(uri).collect()
    }

    /// A live checkpoint of a served volume, to the image of its name or to `image`.
    pub async fn checkpoint(&self, volume: &str, image: Option<&ImageName>) -> Result<Checkpointed> {
        let found = find_volume(&self.exports, volume)?;
        found.checkpoint(image, std::collections::BTreeMap::new(), &Job::default()).await
    }

    /// Stops taking connections, finishes what is in flight, flushes, and removes the sockets. Then, for as long as
    /// is left of 1.5 s in all, publishes what replicated volumes still owe their home stores.
    ///
    /// **Durability**: on success everything that was answered is durable on this host, and the volumes' records know
    /// how much their journals hold.
    pub async fn shutdown(mut self) -> Result<()> {
        let deadline = Instant::now() + FINISH;
        drop(self.background);
        let control = async {
            if let Some(control) = self.control {
                control.stop().await;
            }
        };
        tokio::join!(control, self.nbd.drain());
        self.replications.flush_locally();
        let flushed = self.nbd.shutdown().await;
        if flushed.is_ok() {
            for volume in self.exports.iter().filter_map(|export| export.volume.as_ref()) {
                volume.record_journals().await;
            }
        }
        tokio::join!(self.replications.finish(deadline), self.warm_ups.finish(deadline));
        flushed
    }
}

pub(crate) fn find_volume<'a>(exports: &'a [Export], name: &str) -> Result<&'a Arc<OpenVolume>> {
    let export = exports.iter().find(|export| export.name == name);
    let export = export.ok_or_else(|| Error::not_found(format!("this server serves no '{name}'")))?;
    export.volume.as_ref().ok_or_else(|| {
        Error::new(
            ErrorKind::ReadOnly,
            format!("'{name}' is served from an image and has nothing to checkpoint"),
        )
    })
}
