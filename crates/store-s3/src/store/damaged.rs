//! Entries that were found damaged: they count as absent here, so that whoever has them stores them anew.

use std::collections::HashMap;

use gabion_store_core::{format::rows::EntryKey, sync::Mutex, types::PackId};

/// Damaged entries that are remembered; a bucket with more of them needs a check.
const MAX: usize = 1 << 16;

/// Entries that were found damaged through this handle, and in which pack.
#[derive(Debug, Default)]
pub(super) struct Damaged(Mutex<HashMap<EntryKey, PackId>>);

impl Damaged {
    /// Whether the entry is damaged in this pack, as far as is known.
    pub(super) fn is(&self, key: &EntryKey, pack: PackId) -> bool {
        self.0.lock().get(key) == Some(&pack)
    }

    pub(super) fn add(&self, key: EntryKey, pack: PackId) {
        let mut known = self.0.lock();
        if known.len() < MAX && known.insert(key, pack) != Some(pack) {
            tracing::warn!(entry = %key.id, %pack, "a damaged entry counts as absent from now on");
        }
    }
}
