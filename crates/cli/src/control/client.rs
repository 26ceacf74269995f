//! The client's side of the control socket.

use std::path::Path;

use gabion_store_core::{Error, ErrorKind, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::protocol::{
    CHECKPOINT, CheckpointReply, CheckpointRequest, EXPORTS, ErrorReply, ExportReply, MAX_BODY,
};

/// Asks the server behind a control socket for a live checkpoint.
pub async fn checkpoint(socket: &Path, request: &CheckpointRequest) -> Result<CheckpointReply> {
    let body = serde_json::to_vec(request).map_err(|e| failed(socket, e))?;
    let post = Request::post(CHECKPOINT).header(header::CONTENT_TYPE, "application/json");
    let post = post.header(header::HOST, "gabion").body(Full::new(body.into()));
    ask(socket, &request.volume, post.map_err(|e| failed(socket, e))?).await
}

/// What the server behind a control socket serves. `volume` is the one that led to the socket.
pub async fn exports(socket: &Path, volume: &str) -> Result<Vec<ExportReply>> {
    let get = Request::get(EXPORTS).header(header::HOST, "gabion").body(Full::default());
    ask(socket, volume, get.map_err(|e| failed(socket, e))?).await
}

async fn ask<T: DeserializeOwned>(socket: &Path, volume: &str, request: Request<Full<Bytes>>) -> Result<T> {
    let stream = UnixStream::connect(socket).await.map_err(|e| {
        // Not `NotFound`: the volume is there, its server can't be asked.
        let kind = match e.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        let what = format!(
            "volume '{volume}' is in use, and its server does not answer at {}: stop the server, or try again",
            socket.display()
        );
        Error::with_source(kind, what, e)
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(socket, e))?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(socket, e))?;
        let ok = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|e| failed(socket, e))?
            .to_bytes();
        if ok {
            return serde_json::from_slice(&body).map_err(|e| failed(socket, e));
        }
        let reply: ErrorReply = serde_json::from_slice(&body).map_err(|e| failed(socket, e))?;
        Err(reply.into())
    }
    .await;
    driver.abort();
    answer
}

fn failed(socket: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let what = format!("the server at {} did not answer", socket.display());
    Error::with_source(ErrorKind::Unavailable, what, error)
}
