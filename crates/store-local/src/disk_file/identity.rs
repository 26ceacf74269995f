//! [`FileIdentity`]: what a file was when it was taken on, so that a change is noticed.

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// What tells one state of a file from another: which file it is, its size, and when it was last changed.
///
/// The times are those of the file system, whose clock ticks every few milliseconds at worst on the systems
/// that matter; [`HostFile::open`](super::HostFile::open) waits until the tick of the last change is over, so
/// that every later write gives another identity. Writes through a shared memory map are seen when the kernel
/// stamps them: at the first write to a page, and again after the page was written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Device that the file system is on. May differ after a restart of the host.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes; 0 for block devices.
    pub size: u64,
    /// Time of the last change of content, in nanoseconds since the Unix epoch.
    pub modified: i64,
    /// Time of the last change of content, name or attributes, in nanoseconds since the Unix epoch. No
    /// program can set it.
    pub changed: i64,
}

impl FileIdentity {
    #[allow(
        clippy::allow_attributes,
        clippy::unnecessary_cast,
        clippy::cast_lossless,
        reason = "the fields' types differ between systems"
    )]
    pub(super) fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether both are the same state of the same file, possibly across a restart of the host, which may
    /// number devices anew.
    pub fn same_state(&self, other: &Self) -> bool {
        Self { device: 0, ..*self } == Self { device: 0, ..*other }
    }

    /// Whether both are the same file, in whatever state.
    pub fn same_file(&self, other: &Self) -> bool {
        self.device == other.device && self.inode == other.inode
    }
}
