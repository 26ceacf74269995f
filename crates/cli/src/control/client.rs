//! The client's side of the control socket.

use std::path::Path;

use gabion_store_core::{Error, ErrorKind, Result};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::protocol::{CHECKPOINT, CheckpointReply, CheckpointRequest, ErrorReply, MAX_BODY};

/// Asks the server behind a control socket for a live checkpoint.
pub async fn checkpoint(socket: &Path, request: &CheckpointRequest) -> Result<CheckpointReply> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        let what = format!("the server at {} did not answer", socket.display());
        Error::with_source(ErrorKind::Unavailable, what, e)
    };
    let stream = UnixStream::connect(socket).await.map_err(|e| {
        // Not `NotFound`: the volume is there, its server can't be asked.
        let kind = match e.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Unavailable,
        };
        let what = format!(
            "volume '{}' is in use, and its server does not answer at {}: stop the server, or try again",
            request.volume,
            socket.display()
        );
        Error::with_source(kind, what, e)
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(e.into()))?;
    let driver = tokio::spawn(connection);
    let body = serde_json::to_vec(request).map_err(|e| failed(e.into()))?;
    let request = Request::post(CHECKPOINT)
        .header(header::HOST, "gabion")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| failed(e.into()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| failed(e.into()))?;
        let ok = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(failed)?.to_bytes();
        if ok {
            return serde_json::from_slice(&body).map_err(|e| failed(e.into()));
        }
        let reply: ErrorReply = serde_json::from_slice(&body).map_err(|e| failed(e.into()))?;
        Err(reply.into())
    }
    .await;
    driver.abort();
    answer
}
