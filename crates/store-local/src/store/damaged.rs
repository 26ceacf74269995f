//! Entries that were found damaged: they count as absent, so that whoever has them stores them anew.
//!
//! What one process finds, a later one heals: `check` or a server notices, `import` stores again. So the
//! findings are kept in the store's folder, one line each. The file is a hint: what can't be read or
//! written there is found again by reading the entry, and an entry that another pack holds by now is
//! sound whatever the file says.

use std::collections::{HashMap, HashSet};

use gabion_store_core::{ChunkKind, Result, format::rows::EntryKey, sync::Mutex, types::PackId};

use super::folder::Folder;
use crate::fs::{FsFileExt as _, OpenMode};

/// Key of the file with what was found.
pub(super) const DAMAGED_KEY: &str = "damaged";
/// Damaged entries that are remembered; more of them and the disk is beyond healing by and by.
const MAX_DAMAGED: usize = 1 << 20;
/// Longest file that is read or appended to, in bytes.
const MAX_LEN: u64 = 128 << 20;

/// Entries found damaged, and in which pack.
#[derive(Debug)]
pub(super) struct Damaged {
    folder: Folder,
    known: Mutex<HashMap<EntryKey, PackId>>,
}

impl Damaged {
    /// With what earlier processes found.
    pub(super) fn open(folder: Folder) -> Self {
        let text = folder.read(DAMAGED_KEY, MAX_LEN).ok().flatten().unwrap_or_default();
        let known = text.split(|byte| *byte == b'\n').filter_map(decode).take(MAX_DAMAGED).collect();
        Self { folder, known: Mutex::new(known) }
    }

    /// Whether anything is known to be damaged.
    pub(super) fn any(&self) -> bool {
        !self.known.lock().is_empty()
    }

    /// What is known to be damaged, and in which pack.
    pub(super) fn known(&self) -> Vec<(EntryKey, PackId)> {
        self.known.lock().iter().map(|(key, pack)| (*key, *pack)).collect()
    }

    /// Whether the entry is known to be damaged in any pack.
    pub(super) fn knows(&self, key: &EntryKey) -> bool {
        self.known.lock().contains_key(key)
    }

    /// Whether the entry is damaged in this pack, as far as is known.
    pub(super) fn is(&self, key: &EntryKey, pack: PackId) -> bool {
        self.known.lock().get(key) == Some(&pack)
    }

    /// Remembers findings, here and for processes to come.
    pub(super) fn add(&self, found: &[(EntryKey, PackId)]) {
        let mut lines = String::from("\n");
        let mut known = self.known.lock();
        for (key, pack) in found {
            if known.len() < MAX_DAMAGED && known.insert(*key, *pack) != Some(*pack) {
                tracing::warn!(entry = %key.id, %pack, "a damaged entry counts as absent from now on");
                lines.push_str(&encode(key, *pack));
            }
        }
        drop(known);
        if lines.len() > 1
            && let Err(error) = self.append(lines.as_bytes())
        {
            tracing::info!(error = %error.report(), "damage that was found is not noted in the store");
        }
    }

    /// Forgets findings: the entries were read well from these packs, which someone has restored, or other packs have
    /// them.
    pub(super) fn remove(&self, sound: &[(EntryKey, PackId)]) {
        let mut known = self.known.lock();
        if known.is_empty() {
            return;
        }
        let healed: HashSet<_> =
            sound.iter().filter(|(key, pack)| known.get(key) == Some(pack)).copied().collect();
        for (key, _) in &healed {
            known.remove(key);
        }
        drop(known);
        if !healed.is_empty()
            && let Err(error) = self.rewrite(&healed)
        {
            tracing::info!(error = %error.report(), "entries that are sound again are still noted as damaged");
        }
    }

    fn rewrite(&self, without: &HashSet<(EntryKey, PackId)>) -> Result<()> {
        let _lock = self.folder.lock()?;
        let text = self.folder.read(DAMAGED_KEY, MAX_LEN)?.unwrap_or_default();
        let noted = text.split(|byte| *byte == b'\n').filter_map(decode);
        let kept: String =
            noted.filter(|found| !without.contains(found)).map(|(k, p)| encode(&k, p)).collect();
        self.folder.replace(DAMAGED_KEY, kept.as_bytes())
    }

    /// Not synced: what a crash takes away is found again. Begins a line, for one may have been torn.
    fn append(&self, lines: &[u8]) -> Result<()> {
        let _lock = self.folder.lock()?;
        let path = self.folder.path(DAMAGED_KEY);
        let write = || {
            let file = self.folder.fs().open(&path, OpenMode::Create)?;
            let end = file.len()?;
            if end < MAX_LEN { file.write_all_at(lines, end) } else { Ok(()) }
        };
        write().map_err(|e| self.folder.error("writing", DAMAGED_KEY, e))
    }
}

fn encode(key: &EntryKey, pack: PackId) -> String {
    format!("{} {} {pack}\n", key.kind as u8, key.id)
}

/// A line that [`encode`] wrote; any other, such as one that a crash tore, says nothing.
fn decode(line: &[u8]) -> Option<(EntryKey, PackId)> {
    let mut words = str::from_utf8(line).ok()?.split(' ');
    let kind = ChunkKind::from_byte(words.next()?.parse().ok()?)?;
    let key = EntryKey::new(kind, words.next()?.parse().ok()?);
    let pack = words.next()?.parse().ok()?;
    words.next().is_none().then_some((key, pack))
}
