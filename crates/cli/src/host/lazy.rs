//! A volume's lazy base: a file of the host that it stands on until its content is in the home store.

use std::path::Path;

use gabion_store_local::{
    disk_file::FileIdentity,
    overlay::{LocalOverlay, record::LazyBase},
};

/// In a volume's folder: the blocks of its lazy base, where the file system can share them.
pub(super) const PRIVATE_COPY: &str = "base.raw";
/// Format of a lazy base in a volume's record: raw is the only one.
const RAW: u8 = 0;

/// A lazy base for a volume's record.
pub(super) fn base_of(path: &Path, identity: FileIdentity) -> LazyBase {
    LazyBase {
        path: path.to_owned(),
        device: identity.device,
        inode: identity.inode,
        size: identity.size,
        mtime_ns: identity.modified,
        ctime_ns: identity.changed,
        format: RAW,
        private_copy: Some(PRIVATE_COPY.to_owned()),
    }
}

pub(super) fn identity_of(lazy: &LazyBase) -> FileIdentity {
    FileIdentity {
        device: lazy.device,
        inode: lazy.inode,
        size: lazy.size,
        modified: lazy.mtime_ns,
        changed: lazy.ctime_ns,
    }
}

/// Removes the copy of a lazy base that is ingested. If it stays, so does only its space.
pub(super) fn drop_private_copy(overlay: &LocalOverlay) {
    let copy = overlay.folder().join(PRIVATE_COPY);
    match std::fs::remove_file(&copy) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{} is no longer needed and can't be removed: {e}", copy.display());
        }
        _ => {}
    }
}
