//! The locks by which QEMU's processes tell each other what they do with an image.
//!
//! QEMU says with shared locks on single bytes of the file what it does (`PERM_BASE` + n) and what it does
//! not want others to do (`SHARED_BASE` + n), for each permission n; before it starts, it looks whether
//! another holds the opposite byte. All locks belong to the open file (OFD), so they die with it and bind
//! threads of one process too. The numbers are part of QEMU's interface (`block/file-posix.c`).

use std::{os::fd::AsFd, path::Path};

use gabion_store_core::Result;

/// Takes a file for reading, as QEMU takes a read-only image: others may read it, none may write or resize it.
///
/// **Errors**: `Conflict` if another process has it open for writing, or does not share it with readers.
/// Where the file system knows no such locks, none is taken.
#[cfg(target_os = "linux")]
pub(super) fn share_for_reading(file: &impl AsFd, path: &Path) -> Result<()> {
    use gabion_store_core::{Error, ErrorKind};
    use linux::{Held, PERM_BASE, READ, RESIZE, SHARED_BASE, WRITE, held_by_another, lock_shared};

    let file = file.as_fd();
    // As QEMU does: say first, then look. Of two that start together, at least one sees the other.
    for byte in [PERM_BASE + READ, SHARED_BASE + WRITE, SHARED_BASE + RESIZE] {
        match lock_shared(file, byte) {
            Ok(()) => {}
            Err(e) if linux::unsupported(e) => {
                tracing::debug!(path = %path.display(), "the file system knows no locks");
                return Ok(());
            }
            Err(e) => return Err(Error::io(format!("{} can't be locked", path.display()), e.into())),
        }
    }
    for byte in [SHARED_BASE + READ, PERM_BASE + WRITE, PERM_BASE + RESIZE] {
        match held_by_another(file, byte) {
            Ok(Held::No) => {}
            Ok(Held::Yes) => {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "{} is in use by another process that writes to it: stop that (a running VM?) first",
                        path.display()
                    ),
                ));
            }
            Err(e) => {
                return Err(Error::io(format!("the locks of {} can't be read", path.display()), e.into()));
            }
        }
    }
    Ok(())
}

/// QEMU takes no such locks on this system either.
#[cfg(not(target_os = "linux"))]
pub(super) fn share_for_reading(_: &impl AsFd, _: &Path) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::BorrowedFd;

    use nix::{
        errno::Errno,
        fcntl::{FcntlArg, fcntl},
        libc::{self, off_t},
    };

    pub(super) const PERM_BASE: off_t = 100;
    pub(super) const SHARED_BASE: off_t = 200;
    /// Reads consistent data.
    pub(super) const READ: off_t = 0;
    pub(super) const WRITE: off_t = 1;
    pub(super) const RESIZE: off_t = 3;

    pub(super) enum Held {
        No,
        Yes,
    }

    fn byte_lock(kind: i32, byte: off_t) -> libc::flock {
        libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: byte,
            l_len: 1,
            // Must be 0 for locks that belong to an open file.
            l_pid: 0,
        }
    }

    pub(super) fn lock_shared(file: BorrowedFd<'_>, byte: off_t) -> Result<(), Errno> {
        fcntl(file, FcntlArg::F_OFD_SETLK(&byte_lock(libc::F_RDLCK, byte))).map(drop)
    }

    /// Whether another open file holds the byte in any way.
    pub(super) fn held_by_another(file: BorrowedFd<'_>, byte: off_t) -> Result<Held, Errno> {
        let mut lock = byte_lock(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
        Ok(if i32::from(lock.l_type) == libc::F_UNLCK { Held::No } else { Held::Yes })
    }

    pub(super) fn unsupported(error: Errno) -> bool {
        matches!(error, Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS)
    }
}
