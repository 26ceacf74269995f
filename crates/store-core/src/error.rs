//! The one error type of the library: a kind to act on, a message to read, a source to debug with.
//!
//! A kind exists only where a caller would act differently; the message names the object and says what
//! to do. Errors are cheap to clone, because one failed fetch answers every reader that waited for it.

use std::{error::Error as StdError, fmt, io, sync::Arc};

/// What went wrong, as far as a caller would act on it. Matched exhaustively where kinds become NBD
/// errors or exit codes, so a new kind is a breaking change on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The object is known not to exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// Someone else changed or holds it: a lost compare-and-swap, a lock, a file changed underneath.
    Conflict,
    /// Stored bytes are not what they must be.
    Corrupt,
    /// The request itself is wrong.
    Invalid,
    /// Writing to something that is served or opened read-only.
    ReadOnly,
    /// The disk or quota is full.
    NoSpace,
    /// It can't be had now; trying again later may work.
    Unavailable,
    /// The operating system or the store refused access.
    PermissionDenied,
    /// A sync of this volume failed; it answers no write until it is reopened and recovered.
    Poisoned,
    /// Understood, but this version or backend can't do it.
    Unsupported,
    /// The caller cancelled the operation.
    Cancelled,
}

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: kind, message, source. `Display` prints the message alone; [`Error::report`] the chain.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error without a source.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, context: context.into(), source: None }))
    }

    /// An error with the one that caused it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, context: context.into(), source: Some(source.into()) }))
    }

    /// An I/O error with the object it concerns; the kind follows from the error's own.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::with_source(kind_of_io(&source), context, source)
    }

    /// Stored bytes are not what they must be.
    pub fn corrupt(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, context)
    }

    /// The request itself is wrong.
    pub fn invalid(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }

    /// The object is known not to exist.
    pub fn not_found(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, context)
    }

    /// Wraps this error in a wider context, keeping its kind.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        let kind = self.kind();
        Self::with_source(kind, context, self)
    }

    /// What a caller may act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The whole chain on one line, outermost first, for people.
    pub fn report(&self) -> String {
        let mut line = self.0.context.clone();
        let mut next = self.source();
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        line
    }
}

/// Kind of an I/O error. Whatever the table does not know may pass, so it is `Unavailable`.
fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory => ErrorKind::Invalid,
        io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => ErrorKind::Conflict,
        _ => ErrorKind::Unavailable,
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind(), self.report())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
