//! Error numbers of the protocol, and which of them an error becomes.

use gabion_store_core::ErrorKind;

/// Error numbers that NBD knows; they have these values on every platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Operation not permitted.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// Cannot allocate memory.
    NoMem = 12,
    /// Invalid argument.
    Inval = 22,
    /// No space left on device.
    NoSpc = 28,
    /// Value too large.
    Overflow = 75,
    /// Operation not supported: only in answer to a fast zero.
    NotSup = 95,
    /// Server is shutting down.
    Shutdown = 108,
}

/// What a failed request answers. `fast_zero` says whether it was a fast zero, the only one whose client
/// expects "not supported" and has another way.
pub fn errno_of(kind: ErrorKind, fast_zero: bool) -> Errno {
    match kind {
        // A client can't act on why data can't be had, and EPERM would tell it that its disk is
        // read-only.
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Corrupt
        | ErrorKind::Unavailable
        | ErrorKind::PermissionDenied
        | ErrorKind::Poisoned => Errno::Io,
        ErrorKind::Invalid => Errno::Inval,
        ErrorKind::ReadOnly => Errno::Perm,
        ErrorKind::NoSpace => Errno::NoSpc,
        ErrorKind::Unsupported if fast_zero => Errno::NotSup,
        ErrorKind::Unsupported => Errno::Inval,
        ErrorKind::Cancelled => Errno::Shutdown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_space_and_read_only_keep_their_meaning() {
        assert_eq!(errno_of(ErrorKind::NoSpace, false), Errno::NoSpc);
        assert_eq!(errno_of(ErrorKind::ReadOnly, false), Errno::Perm);
        assert_eq!(errno_of(ErrorKind::PermissionDenied, false), Errno::Io);
    }

    #[test]
    fn not_supported_is_for_fast_zeroes_alone() {
        assert_eq!(errno_of(ErrorKind::Unsupported, true), Errno::NotSup);
        assert_eq!(errno_of(ErrorKind::Unsupported, false), Errno::Inval);
    }
}
