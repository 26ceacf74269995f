//! What a server answered instead of success. Found in the chain below an [`object_store::Error`].

use std::{error::Error as StdError, fmt, time::Duration};

/// Whom a request asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The bucket.
    Bucket,
    /// Whoever gives credentials for it: a metadata service, a token service.
    Credentials,
}

/// An answer that is no success. Holds nothing that could be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) asked: Asked,
    /// HTTP status.
    pub(crate) status: u16,
    /// The provider's own word for it, such as `SlowDown`.
    pub(crate) code: Option<String>,
    /// The bucket's region, if it is another one than was asked.
    pub(crate) region: Option<String>,
    /// When to come back.
    pub(crate) retry_after: Option<Duration>,
    /// The server gave a whole object where a part was asked for.
    pub(crate) no_ranges: bool,
}

impl Refusal {
    pub(crate) fn new(asked: Asked, status: u16) -> Self {
        Self { asked, status, code: None, region: None, retry_after: None, no_ranges: false }
    }

    #[cfg(any(feature = "s3", feature = "gcs", feature = "azure", feature = "http"))]
    pub(crate) fn no_ranges() -> Self {
        Self { no_ranges: true, ..Self::new(Asked::Bucket, 200) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        match &self.code {
            Some(code) => write!(f, ", {code}"),
            None => Ok(()),
        }
    }
}

impl StdError for Refusal {}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreached {
    pub(crate) asked: Asked,
    pub(crate) timed_out: bool,
    /// Such as "Connection refused"; shows no URL.
    pub(crate) why: String,
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl StdError for Unreached {}
