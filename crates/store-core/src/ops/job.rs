//! Progress and cancellation of a long operation.

use std::{fmt, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{Error, ErrorKind, Result};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of disk done.
    pub done: u64,
    /// Bytes of disk in all, if known.
    pub total: Option<u64>,
    /// Bytes written so far, as stored.
    pub stored: u64,
}

/// A running operation, as its caller sees it.
#[derive(Clone, Default)]
pub struct Job {
    /// Called now and then, from the operation's own task: it must not block.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
    /// Ends the operation with `Cancelled` at its next step. What it had stored stays, unnamed.
    pub cancel: CancellationToken,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}

impl Job {
    /// Tells the caller how far the operation has come.
    pub fn report(&self, progress: Progress) {
        if let Some(callback) = &self.progress {
            callback(progress);
        }
    }

    /// `Cancelled` if the caller asked for it.
    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(Error::new(ErrorKind::Cancelled, "cancelled")) } else { Ok(()) }
    }
}
