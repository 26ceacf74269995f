//! The server's side of the control socket.

use std::{path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use gabion_nbd::SocketFile;
use gabion_store_core::{Error, ErrorKind, ImageName, Result, ops::Job};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::protocol::{
    CHECKPOINT, CheckpointReply, CheckpointRequest, EXPORTS, ErrorReply, ExportReply, MAX_BODY,
};
use crate::server::{Export, find_volume};

/// A listening control socket; dropping it stops it.
#[derive(Debug)]
pub struct ControlServer {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ControlServer {
    /// Listens on a Unix socket, by the same rules as for NBD: mode 0600 from birth, never in place of a
    /// live one.
    pub(crate) fn start(path: &Path, exports: Arc<[Export]>) -> Result<Self> {
        let (socket, listener) = SocketFile::bind(path)?;
        let listener = tokio::net::UnixListener::from_std(listener)
            .map_err(|e| Error::io(format!("the control socket {}", path.display()), e))?;
        let stop = CancellationToken::new();
        let router = Router::new()
            .route(CHECKPOINT, post(checkpoint))
            .route(EXPORTS, get(list))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(exports);
        let ended = stop.clone().cancelled_owned();
        let task = tokio::spawn(async move {
            // Removed when the task ends, however it ends.
            let _socket = socket;
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
                tracing::error!("the control socket failed: {error}");
            }
        });
        Ok(Self { stop, task })
    }

    /// Stops listening; commands under way are dropped, which their operations allow.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        let grace = std::time::Duration::from_millis(500);
        if tokio::time::timeout(grace, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

struct Failed(Error);

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::ReadOnly => StatusCode::BAD_REQUEST,
            ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Unavailable | ErrorKind::Poisoned | ErrorKind::Cancelled => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorKind::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorReply::from(&self.0))).into_response()
    }
}

async fn checkpoint(
    State(exports): State<Arc<[Export]>>,
    Json(request): Json<CheckpointRequest>,
) -> std::result::Result<Json<CheckpointReply>, Failed> {
    let volume = Arc::clone(find_volume(&exports, &request.volume).map_err(Failed)?);
    let image = request.image.map(ImageName::new).transpose().map_err(Failed)?;
    // In a task of its own: a client that goes away does not undo a checkpoint half-way.
    let made = tokio::spawn(async move {
        let made = volume.checkpoint(image.as_ref(), request.labels, &Job::default()).await?;
        Ok(CheckpointReply::new(image.as_ref().unwrap_or(&volume.name).as_str(), &made))
    });
    let made = made
        .await
        .unwrap_or_else(|e| Err(Error::with_source(ErrorKind::Unavailable, "the checkpoint died", e)));
    made.map(Json).map_err(Failed)
}

async fn list(State(exports): State<Arc<[Export]>>) -> Json<Vec<ExportReply>> {
    let all = exports.iter().map(|export| {
        let info = export.device.info();
        let replication = export.volume.as_ref().and_then(|volume| volume.replication());
        ExportReply {
            name: export.name.clone(),
            size: info.size,
            read_only: info.read_only,
            volume: export.volume.is_some(),
            replication: replication.map(|replicator| replicator.status().into()),
        }
    });
    Json(all.collect())
}
