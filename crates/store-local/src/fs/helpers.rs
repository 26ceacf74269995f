//! What every user of the seam needs on top of it: whole reads and writes, and replacing a file atomically.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::{Fs, FsFile, OpenMode};

/// Reads and writes that finish: short ones go on, interrupted ones are tried again.
pub trait FsFileExt: FsFile {
    /// Fills `buf` from `offset`; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at `offset`. After an error any part of it may have been written.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// As [`read_exact_at`](Self::read_exact_at), but only if all of it is in memory; else `None`, and
    /// `buf` may hold anything.
    fn try_read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<()>>;
}

impl<F: FsFile + ?Sized> FsFileExt for F {
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the file ends at {offset}, {} bytes early", buf.len()),
                    ));
                }
                Ok(n) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn write_all_at(&self, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.write_at(buf, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    buf = &buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn try_read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<Option<()>> {
        while !buf.is_empty() {
            match self.try_read_at(buf, offset) {
                // The end of the file is for `read_exact_at` to report.
                Ok(None | Some(0)) => return Ok(None),
                Ok(Some(n)) => {
                    buf = &mut buf[n..];
                    offset += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(()))
    }
}

/// Whether a path names anything.
pub fn exists(fs: &dyn Fs, path: &Path) -> io::Result<bool> {
    match fs.stat(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// All bytes of a file, at most `max_len`: a longer one is `InvalidData`, and nothing is allocated for it.
pub fn read_whole(fs: &dyn Fs, path: &Path, max_len: u64) -> io::Result<Vec<u8>> {
    let file = fs.open(path, OpenMode::Read)?;
    let len = file.len()?;
    let too_long = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {len} bytes, at most {max_len} are expected", path.display()),
        )
    };
    if len > max_len {
        return Err(too_long());
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| too_long())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces, or makes, the file at `path` by one that holds `bytes`.
///
/// **Atomicity**: whoever opens `path`, at any time and after any crash, finds the old bytes or the new.
/// **Durability**: on success the new ones. **Errors**: the file is old or new; if only the last step,
/// syncing the folder, failed, it is new but a crash may bring the old one back. **Concurrency**: callers
/// hold the lock that orders writers of `path`; the bytes pass through `<path>.tmp`.
pub fn replace(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = temporary_name(path);
    // A new inode each time: one whose sync failed may have lost pages that the kernel calls clean.
    match fs.remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // The bytes must be durable before the name points to them.
    let renamed = write_synced(fs, &temporary, bytes).and_then(|()| fs.rename(&temporary, path));
    if let Err(e) = renamed {
        // What stays behind is removed by the next replacement.
        let _left_behind = fs.remove_file(&temporary);
        return Err(e);
    }
    // The name must be durable before anyone acts on it.
    fs.sync_dir(folder)
}

fn write_synced(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = fs.open(path, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(".tmp");
    PathBuf::from(name)
}

/// The folder that a path lies in: the current one if it says none, and `/` for itself.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        None if path.has_root() => path,
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes a folder, and those above it that are missing, durably. What is there already is fine, if it is a folder.
pub fn make_folders(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    let above = folder_of(path);
    match fs.create_dir(path) {
        Ok(()) => {
            fs.sync_dir(above)?;
            keep_name(fs, above)
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && above != path => {
            make_folders(fs, above)?;
            fs.create_dir(path)?;
            fs.sync_dir(above)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if !fs.stat(path)?.is_dir {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            keep_name(fs, path)
        }
        Err(e) => Err(e),
    }
}

/// Makes the name of a folder durable that was there: who made it may have been killed before that. Those above it
/// are, since each is before anything is made in it.
fn keep_name(fs: &dyn Fs, folder: &Path) -> io::Result<()> {
    match fs.sync_dir(folder_of(folder)) {
        // A folder that is nobody's to read has nothing that we made.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Removes a file, or a folder with all in it. What is not there is removed already. Not durable.
pub fn remove_tree(fs: &dyn Fs, path: &Path) -> io::Result<()> {
    let gone = |done: io::Result<()>| match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    match fs.stat(path) {
        Ok(stat) if stat.is_dir => {
            for name in fs.read_dir(path)? {
                remove_tree(fs, &path.join(name))?;
            }
            gone(fs.remove_dir(path))
        }
        Ok(_) => gone(fs.remove_file(path)),
        Err(e) => gone(Err(e)),
    }
}
