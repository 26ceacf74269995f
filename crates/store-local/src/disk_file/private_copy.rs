//! A copy of a file that shares its blocks, where the file system can do that.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "clones a file of the host, which is outside the seam"
)]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use gabion_store_core::{Error, Result};
use rustix::io::Errno;

use super::HostFile;

/// Makes `to` a copy of `from` that shares its blocks, durable with its name. False, and nothing made, where
/// that can't be done.
///
/// **Errors**: `AlreadyExists` if there is something at `to`; `Conflict` if `from` changed meanwhile. After
/// an error there is nothing of ours at `to`.
pub(super) fn share_blocks(from: &HostFile, to: &Path) -> Result<bool> {
    let failed = |e| Error::io(format!("{} can't be made a copy", to.display()), e);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to).map_err(failed)?;
    let made = match clone_blocks(&file, from) {
        Ok(true) => sync(&file, to).map_err(failed).and_then(|()| from.check()).map(|()| true),
        Ok(false) => Ok(false),
        Err(e) => Err(failed(e)),
    };
    if !matches!(made, Ok(true)) {
        fs::remove_file(to).map_err(failed)?;
    }
    made
}

fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(target_os = "linux")]
fn clone_blocks(to: &File, from: &HostFile) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        // Each of them says: not here, or not between these two.
        Err(
            Errno::OPNOTSUPP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::NOTTY
            | Errno::NOSYS
            | Errno::PERM
            | Errno::TXTBSY,
        ) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn clone_blocks(_: &File, _: &HostFile) -> io::Result<bool> {
    Ok(false)
}
