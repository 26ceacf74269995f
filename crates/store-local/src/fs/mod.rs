//! The seam to the file system: every file operation of this crate goes through [`Fs`].
//!
//! All methods block; callers put them where blocking is right. Names, like `read_at`, follow the
//! standard library's; the durability of each is that of POSIX: bytes need [`FsFile::sync_data`], names
//! need [`Fs::sync_dir`] of their folder.
//!
//! [`StdFs`] is the machine's. With the feature `testing` there are `MemFs`, which keeps everything in memory,
//! `CrashFs`, which tells what a power failure at any moment would leave, and `FaultFs`, which fails when told to. Nothing
//! here or above asks which one it has: the wrappers stand around any, and around each other.
//! [`replace`] is the one way in which records are replaced.

#[cfg(any(test, feature = "testing"))]
mod crash_fs;
#[cfg(any(test, feature = "testing"))]
mod fault_fs;
mod helpers;
#[cfg(any(test, feature = "testing"))]
mod mem_fs;
#[cfg(any(test, feature = "testing"))]
mod sparse;
mod std_fs;
#[cfg(test)]
mod tests;

#[cfg(any(test, feature = "testing"))]
pub use crash_fs::{CrashFs, CrashImage, CrashPoint, CrashPoints};
#[cfg(any(test, feature = "testing"))]
pub use fault_fs::{FaultFs, FsFault, FsOp, On};
pub(crate) use helpers::folder_of;
pub use helpers::{FsFileExt, exists, make_folders, read_whole, remove_tree, replace};
#[cfg(any(test, feature = "testing"))]
pub use mem_fs::MemFs;
pub use std_fs::StdFs;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist; made with mode 0600.
    CreateNew,
    /// Made with mode 0600 if it does not exist, kept as it is if it does.
    Create,
}

/// What a file is, as far as this crate asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Length in bytes.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A file system.
pub trait Fs: Send + Sync + fmt::Debug + 'static {
    /// Opens a file. What is no file fails here or at its first use.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn FsFile>>;
    /// Renames a file over whatever has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder with mode 0700; its parent exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// What a path is; `NotFound` if nothing.
    fn stat(&self, path: &Path) -> io::Result<FileStat>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock of a file (`flock`), which is made if needed and never replaced or
    /// removed. `WouldBlock` at once if it is held elsewhere, unless `wait`. Released on drop, or when the
    /// process dies.
    fn lock(&self, path: &Path, wait: bool) -> io::Result<Box<dyn FsLock>>;
}

/// An open file. Shared freely; no cursor.
#[expect(clippy::len_without_is_empty, reason = "the length is a call that can fail, not a container's")]
pub trait FsFile: Send + Sync + fmt::Debug {
    /// Reads up to `buf.len()` bytes at `offset`; 0 is the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`read_at`](Self::read_at), but only what is in memory: `None` if that would wait for the disk.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Option<usize>>;
    /// Writes up to `buf.len()` bytes at `offset`.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts, or grows with a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the bytes, and the length, durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
    /// Turns a range into a hole that reads as zeros; the length stays. `Unsupported`, with nothing
    /// changed, where the file system knows no holes.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Drops clean pages of the file from memory, so that reads see the disk.
    fn drop_cache(&self) -> io::Result<()>;
}

/// A held lock: what it protects may be written into the file, for whoever finds it held.
pub trait FsLock: Send + Sync + fmt::Debug {
    /// Replaces the file's text. A hint for people and tools; not durable.
    fn write_note(&self, note: &str) -> io::Result<()>;
}
