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
/// an error there is nothing of ours at `to`. **Killed** at any moment, there is the whole copy or nothing at `to`, and
/// maybe a remnant beside it, which a later call replaces.
pub(super) fn share_blocks(from: &HostFile, to: &Path) -> Result<bool> {
    share_by(clone_blocks, from, to)
}

fn share_by(
    clone: impl FnOnce(&File, &HostFile) -> io::Result<bool>,
    from: &HostFile,
    to: &Path,
) -> Result<bool> {
    let failed = |e| Error::io(format!("{} can't be made a copy", to.display()), e);
    if fs::exists(to).map_err(failed)? {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let mut unfinished = to.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = Path::new(&unfinished);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(unfinished)
        .map_err(failed)?;
    let made = match clone(&file, from) {
        Ok(true) => name(&file, unfinished, to).map_err(failed).and_then(|()| from.check()).map(|()| true),
        Ok(false) => Ok(false),
        Err(e) => Err(failed(e)),
    };
    if !matches!(made, Ok(true)) {
        for path in [unfinished, to] {
            match fs::remove_file(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
                _ => {}
            }
        }
    }
    made
}

/// Gives a whole copy its name, durably.
fn name(file: &File, unfinished: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(unfinished, path)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Who is killed while he makes a copy leaves nothing that is taken for one.
    #[test]
    fn a_copy_has_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, copy) = (folder.path().join("disk"), folder.path().join("base.raw"));
        fs::write(&disk, b"content").unwrap();
        let disk = HostFile::open(&disk).unwrap();
        let remnant = folder.path().join("base.raw.tmp");
        fs::write(&remnant, b"what a killed one left, longer than the disk").unwrap();
        for shares in [true, false] {
            let clone = |mut file: &File, _: &HostFile| {
                assert!(!copy.exists(), "it may be killed now");
                io::Write::write_all(&mut file, b"content").map(|()| shares)
            };
            assert_eq!(share_by(clone, &disk, &copy).unwrap(), shares);
            assert!(!remnant.exists());
            assert_eq!(fs::read(&copy).ok(), shares.then(|| b"content".to_vec()));
            if shares {
                let again = share_blocks(&disk, &copy).unwrap_err();
                assert_eq!(again.kind(), gabion_store_core::ErrorKind::AlreadyExists);
                fs::remove_file(&copy).unwrap();
            }
        }
    }
}
