//! Exit codes: one exhaustive table, shown by `gabion help`.

use std::process::ExitCode;

use gabion::core::ErrorKind;

/// What `--help` says of exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done                          7  read-only
  1  damage found, or left         8  no space left
  2  wrong usage or bad input      9  unavailable, try again later
  3  not found                    10  permission denied
  4  exists already               11  poisoned: reopen the volume
  5  in use, or changed by others 12  not supported by this version
  6  stored data is corrupt      130  interrupted

Environment:
  GABION_HOME          folder of store, volumes, caches, sockets and config.toml
  GABION_STORE         store to use, as with --store
  GABION_MEMORY_CACHE  size of the memory cache, as 512M
  GABION_HEAL_FROM     URL or name of the store that damage in local stores is made good from
  GABION_DISK_CACHE    size of the disk cache of remote stores, as 10G; 0 for none
  GABION_TIMEOUT       a guest's longest wait for its disk, as 30s
  GABION_LOG           what to log on stderr: error, warn (default), info, debug";

/// `check` found damage, or `repair` left some.
pub(crate) const DAMAGE: u8 = 1;

/// Exit code of an error.
pub(crate) fn code(kind: ErrorKind) -> ExitCode {
    ExitCode::from(match kind {
        ErrorKind::Invalid => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::AlreadyExists => 4,
        ErrorKind::Conflict => 5,
        ErrorKind::Corrupt => 6,
        ErrorKind::ReadOnly => 7,
        ErrorKind::NoSpace => 8,
        ErrorKind::Unavailable => 9,
        ErrorKind::PermissionDenied => 10,
        ErrorKind::Poisoned => 11,
        ErrorKind::Unsupported => 12,
        ErrorKind::Cancelled => 130,
    })
}
