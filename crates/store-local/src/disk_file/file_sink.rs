//! [`FileSink`]: an exported disk in a raw file of the host, or on a block device.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "files of the host are no part of a store, so they stay outside the seam"
)]

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, Permissions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use gabion_store_core::{BLOCK_SIZE, Error, ErrorKind, Result, ops::DiskSink};
use rustix::{
    fs::{RenameFlags, SeekFrom},
    io::Errno,
};

/// Bytes of zeros written at a time, where holes can't be made.
const ZEROS: usize = 1024 * 1024;
/// Most names tried for the file that is written.
const MAX_NAMES: u32 = 100;

/// Writes a disk to a file, sparsely, or onto a block device, zeros included.
///
/// **Atomicity**: a file appears under its name only by [`finish`](Self::finish), whole; until then it is
/// written beside it under a hidden name, which is removed on drop. A block device is written in place.
/// **Durability**: by [`finish`](Self::finish).
#[derive(Debug)]
pub struct FileSink {
    file: File,
    target: PathBuf,
    /// The hidden name of a new file, as long as it has no other. A block device has none.
    temporary: Option<PathBuf>,
    overwrite: bool,
    at: u64,
}

impl FileSink {
    /// Starts a disk of `size` bytes at `target`. Without `overwrite`, there must be nothing yet; with it, a
    /// file is replaced (keeping its permission bits; where a symbolic link points is replaced, not the
    /// link) and a block device written over.
    ///
    /// **Errors**: `AlreadyExists`; `Invalid` if `target` is neither a file nor a block device; `NotFound` if
    /// its folder is not there; `NoSpace` if the block device is smaller than the disk; `Conflict` if it is
    /// mounted.
    pub fn create(target: &Path, size: u64, overwrite: bool) -> Result<Self> {
        let failed = |e| Error::io(cannot_write(target), e);
        let there = match fs::symlink_metadata(target) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Self::new_file(target.to_owned(), None).map_err(failed);
            }
            Err(e) => return Err(failed(e)),
            Ok(_) if !overwrite => {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("{} exists: choose another name, or overwrite it with --force", target.display()),
                ));
            }
            // What is replaced is what a link points to.
            Ok(_) => fs::metadata(target).map_err(failed)?,
        };
        if there.is_file() {
            let target = fs::canonicalize(target).map_err(failed)?;
            return Self::new_file(target, Some(there.permissions().mode() & 0o777)).map_err(failed);
        }
        if there.file_type().is_block_device() {
            return Self::device(target, size);
        }
        Err(Error::invalid(format!("{} is neither a file nor a block device", target.display())))
    }

    /// A file with the permission bits of the one it replaces, if there is one.
    fn new_file(target: PathBuf, replaces: Option<u32>) -> io::Result<Self> {
        let (temporary, file) = create_beside(&target)?;
        let sink = Self { file, target, temporary: Some(temporary), overwrite: replaces.is_some(), at: 0 };
        if let Some(mode) = replaces {
            sink.file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(sink)
    }

    fn device(target: &Path, size: u64) -> Result<Self> {
        let failed = |e| Error::io(cannot_write(target), e);
        // For a block device: fail if it is mounted, or taken by a volume manager.
        let exclusive = rustix::fs::OFlags::EXCL;
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(exclusive.bits()).expect("flags of open fit an int"))
            .open(target)
            .map_err(failed)?;
        let capacity = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| failed(e.into()))?;
        if capacity < size {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("{} has {capacity} bytes, the disk needs {size}", target.display()),
            ));
        }
        Ok(Self { file, target: target.to_owned(), temporary: None, overwrite: true, at: 0 })
    }

    /// Makes the disk durable and, if it is a new file, gives it its name.
    ///
    /// **Errors**: `AlreadyExists` if something has taken the name meanwhile. After an error a new file has
    /// no name; only if the last step failed, syncing the folder, it has one that a crash may take away.
    pub fn finish(mut self) -> Result<()> {
        self.try_finish().map_err(|e| self.failed(e))
    }

    fn try_finish(&mut self) -> io::Result<()> {
        let Some(temporary) = &self.temporary else { return self.file.sync_all() };
        self.file.set_len(self.at)?;
        self.file.sync_all()?;
        if self.overwrite {
            fs::rename(temporary, &self.target)?;
        } else {
            rename_new(temporary, &self.target)?;
        }
        self.temporary = None;
        File::open(folder_of(&self.target))?.sync_all()
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(cannot_write(&self.target), error)
    }

    /// Writes bytes where they belong, except blocks of zeros.
    fn write_data_blocks(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let zeros = length_while(rest, is_zero);
            let data = length_while(&rest[zeros..], |block| !is_zero(block));
            self.at += zeros as u64;
            self.file.write_all_at(&rest[zeros..zeros + data], self.at)?;
            self.at += data as u64;
            rest = &rest[zeros + data..];
        }
        Ok(())
    }
}

impl DiskSink for FileSink {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        if self.temporary.is_some() {
            return self.write_data_blocks(bytes).map_err(|e| self.failed(e));
        }
        self.file.write_all_at(bytes, self.at).map_err(|e| self.failed(e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, mut length: u64) -> Result<()> {
        if self.temporary.is_some() {
            self.at += length;
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(length).unwrap_or(ZEROS).min(ZEROS)];
        while length > 0 {
            let part = length.min(ZEROS as u64);
            self.data(&zeros[..part as usize])?;
            length -= part;
        }
        Ok(())
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // What can't be removed stays under a name that says what it is.
            let _left_behind = fs::remove_file(temporary);
        }
    }
}

fn cannot_write(path: &Path) -> String {
    format!("{} can't be written", path.display())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Length of the blocks at the start for which something holds.
fn length_while(bytes: &[u8], holds: impl Fn(&[u8]) -> bool) -> usize {
    bytes.chunks(BLOCK_SIZE).take_while(|block| holds(block)).map(<[u8]>::len).sum()
}

fn is_zero(block: &[u8]) -> bool {
    const ZERO: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
    *block == ZERO[..block.len()]
}

/// A new file, hidden, in the folder of `target`.
fn create_beside(target: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    for _ in 0..MAX_NAMES {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".{}-{number}.partial", std::process::id()));
        let path = folder_of(target).join(hidden);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            // Left behind by a process of the same number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|file| (path, file)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Renames, unless there is something at `to`.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        // The file system can't do it in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        done => return Ok(done?),
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}
