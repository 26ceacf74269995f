//! What the control socket understands.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gabion_store_core::{Error, ErrorKind, volume::Checkpointed};
use serde::{Deserialize, Serialize};

use crate::ReplicationReply;

/// Path of [`CheckpointRequest`], by POST.
pub(super) const CHECKPOINT: &str = "/v1/checkpoint";
/// Path of the exports, by GET: a list of [`ExportReply`].
pub(super) const EXPORTS: &str = "/v1/exports";
/// Longest body of a request or reply, in bytes.
pub(super) const MAX_BODY: usize = 1024 * 1024;

/// Asks for a live checkpoint of a served volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRequest {
    /// The volume.
    pub volume: String,
    /// The image to append to; that of the volume's name if absent.
    pub image: Option<String>,
    /// What to say of the checkpoint.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A checkpoint that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReply {
    /// Its id.
    pub checkpoint: String,
    /// The image that has it.
    pub image: String,
    /// Size of its disk in bytes.
    pub size: u64,
    /// How long writes were held, in milliseconds.
    pub held_ms: f64,
    /// Bytes of disk that the checkpoint's own chunks hold.
    pub changed: u64,
    /// Of these, bytes that the store did not have.
    pub new: u64,
    /// What was added to the store, in bytes.
    pub stored: u64,
    /// Whether it waits on its host for the home store, which is out of reach.
    #[serde(default)]
    pub staged: bool,
}

impl CheckpointReply {
    /// From what a checkpoint returned.
    pub fn new(image: impl Into<String>, made: &Checkpointed) -> Self {
        Self {
            checkpoint: made.checkpoint.to_string(),
            image: image.into(),
            size: made.size,
            held_ms: made.held.as_secs_f64() * 1000.0,
            changed: made.stats.used,
            new: made.stats.new,
            stored: made.stats.stored,
            staged: made.staged,
        }
    }
}

/// Something that a server serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExportReply {
    /// Its name.
    pub name: String,
    /// Size of its disk in bytes.
    pub size: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// Whether it is a volume.
    pub volume: bool,
    /// How its replication stands, if it has one.
    #[serde(default)]
    pub replication: Option<ReplicationReply>,
}

/// An error, as it crosses the socket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ErrorReply {
    pub(super) kind: String,
    pub(super) message: String,
}

const KINDS: [ErrorKind; 12] = [
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::Conflict,
    ErrorKind::Corrupt,
    ErrorKind::Invalid,
    ErrorKind::ReadOnly,
    ErrorKind::NoSpace,
    ErrorKind::Unavailable,
    ErrorKind::PermissionDenied,
    ErrorKind::Poisoned,
    ErrorKind::Unsupported,
    ErrorKind::Cancelled,
];

impl From<&Error> for ErrorReply {
    fn from(error: &Error) -> Self {
        Self { kind: format!("{:?}", error.kind()), message: error.report() }
    }
}

impl From<ErrorReply> for Error {
    fn from(reply: ErrorReply) -> Self {
        let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == reply.kind);
        Self::new(kind.unwrap_or(ErrorKind::Unavailable), reply.message)
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    pid: u32,
    control: PathBuf,
}

/// What a server writes into the lock files of its volumes.
pub fn note(control: &Path) -> String {
    let note = Note { pid: std::process::id(), control: control.to_owned() };
    serde_json::to_string(&note).unwrap_or_default()
}

/// The control socket that a lock file's note names, if it names one.
pub fn socket_of_note(note: &str) -> Option<PathBuf> {
    serde_json::from_str::<Note>(note).ok().map(|note| note.control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_kind() {
        for kind in KINDS {
            let error = Error::from(ErrorReply::from(&Error::new(kind, "what")));
            assert_eq!((error.kind(), error.report()), (kind, "what".to_owned()));
        }
    }

    #[test]
    fn notes_name_the_socket() {
        assert_eq!(socket_of_note(&note(Path::new("/run/x"))).unwrap(), Path::new("/run/x"));
        assert_eq!(socket_of_note("stale"), None);
    }
}
