//! Why a request failed, and whether it is worth another attempt.

use std::{error::Error as StdError, io, time::Duration};

use gabion_store_core::ErrorKind;

use crate::refusal::{Asked, Refusal, Unreached};

/// One failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    /// Status and code, or why there was no answer; for people, without secrets.
    pub(crate) detail: String,
}

/// What a failure means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// There is no such object.
    NotFound,
    /// There is no such bucket, which says nothing about objects.
    NoBucket,
    /// A create found an object.
    Exists,
    /// A replacement found another version.
    Changed,
    /// Somebody else is writing the same object at this moment.
    Busy,
    /// The credentials are good, but not for this.
    Denied,
    /// The credentials are not good.
    BadCredentials,
    /// No credentials could be had.
    NoCredentials,
    /// This machine's clock is too far off for signatures.
    ClockSkew,
    /// The bucket is in another region, this one if it was told.
    WrongRegion(Option<String>),
    /// Asked to slow down, for that long if it was told.
    SlowDown(Option<Duration>),
    /// The server failed.
    Server,
    /// No answer, or half of one.
    Unreached,
    /// No answer in time.
    TimedOut,
    /// Fewer or other bytes than were asked for.
    WrongBody,
    /// The object ends before what was asked for, or is longer than any of its kind.
    WrongLength,
    /// The store is full.
    NoSpace,
    /// The store can't do this.
    Unsupported,
    /// The server ignores ranges.
    NoRanges,
    /// The request is wrong in a way that is not known here.
    Refused,
    /// A store within this process failed, for reasons of its own.
    Unknown,
}

/// Whether another attempt may do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    No,
    /// A few times: what is wrong may have been wrong on the way only.
    AFewTimes,
    /// As long as there is time.
    Yes,
    /// So, but more slowly, and not before this has passed.
    Slowly(Option<Duration>),
}

impl Failure {
    pub(crate) fn new(cause: Cause, detail: impl Into<String>) -> Self {
        Self { cause, detail: detail.into() }
    }

    pub(crate) fn timed_out(after: Duration) -> Self {
        Self::new(Cause::TimedOut, format!("no answer in {} s", after.as_secs_f32().ceil()))
    }

    /// The same of a request that needs no object: what it did not find is the bucket.
    pub(crate) fn of_bucket(self) -> Self {
        match self.cause {
            Cause::NotFound => Self { cause: Cause::NoBucket, ..self },
            _ => self,
        }
    }

    pub(crate) fn again(&self) -> Again {
        match &self.cause {
            Cause::SlowDown(after) => Again::Slowly(*after),
            Cause::Busy | Cause::Server | Cause::Unreached | Cause::TimedOut | Cause::Unknown => Again::Yes,
            // A service for credentials may be slow to wake up, and nobody waits long for one that is not there.
            Cause::WrongBody | Cause::NoCredentials => Again::AFewTimes,
            Cause::NotFound
            | Cause::NoBucket
            | Cause::Exists
            | Cause::Changed
            | Cause::Denied
            | Cause::BadCredentials
            | Cause::ClockSkew
            | Cause::WrongRegion(_)
            | Cause::WrongLength
            | Cause::NoSpace
            | Cause::Unsupported
            | Cause::NoRanges
            | Cause::Refused => Again::No,
        }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match &self.cause {
            Cause::NotFound => ErrorKind::NotFound,
            Cause::Exists => ErrorKind::AlreadyExists,
            Cause::Changed => ErrorKind::Conflict,
            Cause::Denied | Cause::BadCredentials | Cause::NoCredentials | Cause::ClockSkew => {
                ErrorKind::PermissionDenied
            }
            Cause::WrongBody | Cause::WrongLength => ErrorKind::Corrupt,
            Cause::WrongRegion(_) | Cause::Refused => ErrorKind::Invalid,
            Cause::NoSpace => ErrorKind::NoSpace,
            Cause::Unsupported | Cause::NoRanges => ErrorKind::Unsupported,
            Cause::NoBucket
            | Cause::Busy
            | Cause::SlowDown(_)
            | Cause::Server
            | Cause::Unreached
            | Cause::TimedOut
            | Cause::Unknown => ErrorKind::Unavailable,
        }
    }
}

impl From<&object_store::Error> for Failure {
    fn from(error: &object_store::Error) -> Self {
        if let Some(refusal) = below::<Refusal>(error) {
            return Self::new(of_refusal(refusal), refusal.to_string());
        }
        if let Some(unreached) = below::<Unreached>(error) {
            let cause = match unreached {
                Unreached { asked: Asked::Credentials, .. } => Cause::NoCredentials,
                Unreached { timed_out: true, .. } => Cause::TimedOut,
                _ => Cause::Unreached,
            };
            return Self::new(cause, unreached.to_string());
        }
        let cause = match error {
            object_store::Error::NotFound { .. } => Cause::NotFound,
            object_store::Error::AlreadyExists { .. } => Cause::Exists,
            object_store::Error::Precondition { .. } | object_store::Error::NotModified { .. } => {
                Cause::Changed
            }
            object_store::Error::PermissionDenied { .. } => Cause::Denied,
            object_store::Error::Unauthenticated { .. } => Cause::BadCredentials,
            object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
                Cause::Unsupported
            }
            object_store::Error::InvalidPath { .. } => Cause::Refused,
            _ => match below::<io::Error>(error) {
                Some(e) => return Self::new(of_io(e), e.kind().to_string()),
                None => Cause::Unknown,
            },
        };
        Self::new(cause, String::new())
    }
}

/// The first error of that type in the chain.
fn below<T: StdError + 'static>(error: &object_store::Error) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn of_io(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Cause::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::NoSpace,
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => {
            Cause::Refused
        }
        _ => Cause::Unreached,
    }
}

/// By the provider's own word where it is known, else by status.
fn of_refusal(refusal: &Refusal) -> Cause {
    if refusal.no_ranges {
        return Cause::NoRanges;
    }
    if refusal.asked == Asked::Credentials {
        return match refusal.status {
            429 | 500.. => Cause::SlowDown(refusal.retry_after),
            _ => Cause::NoCredentials,
        };
    }
    let by_code = refusal.code.as_deref().and_then(|code| of_code(code, refusal));
    by_code.unwrap_or_else(|| of_status(refusal))
}

fn of_code(code: &str, refusal: &Refusal) -> Option<Cause> {
    Some(match code {
        "NoSuchBucket" | "ContainerNotFound" | "InvalidBucketName" | "AccountNotFound" => Cause::NoBucket,
        "BlobAlreadyExists" => Cause::Exists,
        "RequestTimeTooSkewed" | "RequestExpired" => Cause::ClockSkew,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "InvalidSecurity"
        | "TokenRefreshRequired"
        | "AuthenticationFailed"
        | "InvalidAuthenticationInfo"
        | "NoAuthenticationInformation" => Cause::BadCredentials,
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            Cause::WrongRegion(refusal.region.clone())
        }
        "SlowDown"
        | "ServerBusy"
        | "ThrottlingException"
        | "Throttling"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "XMinioServerNotInitialized" => Cause::SlowDown(refusal.retry_after),
        "RequestTimeout" | "InternalError" | "IncompleteBody" | "BadDigest" | "OperationTimedOut" => {
            Cause::Server
        }
        "XMinioStorageFull" | "QuotaExceeded" | "InsufficientCapacity" => Cause::NoSpace,
        "NotImplemented" => Cause::Unsupported,
        _ => return None,
    })
}

fn of_status(refusal: &Refusal) -> Cause {
    match refusal.status {
        304 | 412 => Cause::Changed,
        300..=399 => Cause::WrongRegion(refusal.region.clone()),
        401 => Cause::BadCredentials,
        403 => Cause::Denied,
        404 | 410 => Cause::NotFound,
        405 | 501 => Cause::Unsupported,
        408 => Cause::Server,
        409 => Cause::Busy,
        416 => Cause::WrongLength,
        429 | 503 => Cause::SlowDown(refusal.retry_after),
        507 => Cause::NoSpace,
        500.. => Cause::Server,
        _ => Cause::Refused,
    }
}

#[cfg(test)]
mod tests;
