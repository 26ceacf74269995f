//! [`LazyFile`]: a raw disk image that a volume stands on while it is ingested.

use std::path::{Path, PathBuf};

use gabion_store_core::{Error, ErrorKind, Result, volume::BaseSource};

use super::{FileIdentity, HostFile, private_copy};

/// A raw image file as a lazy base. Guest writes never reach it.
///
/// Where the file system can share blocks between files, what is read is a private copy that nobody changes;
/// elsewhere the file itself, held as QEMU holds an image that it reads, and looked at after every read: the
/// times of a file never go back, so a look after the read covers what happened before it as well.
///
/// **Errors**: `Conflict` for every read of a file that is no longer what it was when it was taken on.
#[derive(Debug)]
pub struct LazyFile {
    /// What is read.
    file: HostFile,
    /// The file that was taken on.
    path: PathBuf,
    identity: FileIdentity,
    private: bool,
}

impl LazyFile {
    /// Takes a raw image on. `private_copy` is where a copy that shares its blocks may be put: a path that
    /// does not exist, in a folder of the volume's. On success the copy, if there is one
    /// ([`is_private`](Self::is_private)), is durable with its name.
    ///
    /// **Errors**: those of [`HostFile::open`], so a file that a process writes to is `Conflict`;
    /// `Unsupported` for a block device, whose changes can't be seen; `AlreadyExists` for `private_copy`.
    pub fn open(path: &Path, private_copy: &Path) -> Result<Self> {
        let source = HostFile::open(path)?;
        if source.is_block_device() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} is a block device, which can't be served lazily: import it", path.display()),
            ));
        }
        let (path, identity) = (source.path().to_owned(), source.identity());
        let private = private_copy::share_blocks(&source, private_copy)?;
        let file = if private { HostFile::open_unlocked(private_copy)? } else { source };
        Ok(Self { file, path, identity, private })
    }

    /// Takes up again what [`open`](Self::open) took on, after the volume was closed: the private copy if
    /// there is one, else the file at `path`, if it is still what it was.
    ///
    /// **Errors**: `Conflict` if the file is another one or was changed; `Corrupt` if the private copy is
    /// not as long as the file was.
    pub fn reopen(path: &Path, identity: FileIdentity, private_copy: &Path) -> Result<Self> {
        let path =
            std::path::absolute(path).map_err(|e| Error::io(format!("{} is no path", path.display()), e))?;
        match HostFile::open_unlocked(private_copy) {
            Ok(file) if file.size() == identity.size => {
                return Ok(Self { file, path, identity, private: true });
            }
            Ok(file) => {
                return Err(Error::corrupt(format!(
                    "{} has {} bytes, but is the copy of a disk of {}",
                    private_copy.display(),
                    file.size(),
                    identity.size
                )));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let file = HostFile::open(&path)?;
        if !file.identity().same_state(&identity) {
            return Err(changed(&path));
        }
        Ok(Self { file, path, identity, private: false })
    }

    /// What the file was when it was taken on: for the volume's record.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Absolute path of the file that was taken on: for the volume's record.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a private copy is read, so that nothing that happens to the file matters any more.
    pub fn is_private(&self) -> bool {
        self.private
    }

    fn unchanged(&self) -> Result<()> {
        self.file.check().map_err(|e| self.named(&e))
    }

    /// A conflict, in terms of the file that was taken on.
    fn named(&self, error: &Error) -> Error {
        match error.kind() {
            ErrorKind::Conflict => changed(self.file.path()),
            _ => error.clone(),
        }
    }
}

fn changed(path: &Path) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{} was changed since it was taken on as the base of a volume, which can't be read on without it: \
             start a new volume",
            path.display()
        ),
    )
}

impl BaseSource for LazyFile {
    fn size(&self) -> u64 {
        self.identity.size
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let read = self.file.try_read_exact_at(buf, offset)?;
        Some(read.and_then(|()| self.unchanged()))
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| self.named(&e))?;
        self.unchanged()
    }

    fn first_run(&self, start: u64, end: u64) -> Result<(bool, u64)> {
        let run = self.file.first_run(start, end)?;
        self.unchanged()?;
        Ok(run)
    }

    fn check(&self) -> Result<()> {
        if self.private { self.unchanged() } else { self.file.check_with_path().map_err(|e| self.named(&e)) }
    }
}
