//! What `check` and `du` ask of a store: its packs, what is wrong with them, and what takes how much space.

use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{
        layout::{self, IMAGES, LOCATORS, MAPS, PACKS},
        pack::{self, Contents, HEADER_LEN, MAX_PACK_LEN, PackEntry, Trailer},
        rows::EntryKey,
    },
    types::{PackId, id_of},
};

use super::{Inner, LocalStore, folder::Folder, read::Packs, writer::placement};
use crate::fs::FsFileExt as _;

/// What a store's folder holds; lengths of files, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packs, those that nothing refers to included.
    pub packs: u64,
    /// Number of packs.
    pub pack_count: u64,
    /// Locators, replaced ones included.
    pub locators: u64,
    /// Image maps and boot traces, replaced ones included.
    pub maps: u64,
    /// Image records, catalog, descriptor and whatever else lies in the folder.
    pub records: u64,
    /// Entries of the live locators; one that stands in two counts twice.
    pub entries: u64,
}

/// What [`LocalStore::verify_pack`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackReport {
    /// The pack.
    pub pack: PackId,
    /// Whether contents and trailer are there and intact. A pack without is being written, or was left behind
    /// by a crash; its entries were found by scanning.
    pub sealed: bool,
    /// Intact entries, by offset.
    pub entries: Vec<PackEntry>,
    /// Entries of the contents that are damaged, by offset.
    pub damaged: Vec<DamagedEntry>,
}

/// An entry that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedEntry {
    /// The entry.
    pub key: EntryKey,
    /// Where it lies in its pack.
    pub offset: u64,
    /// What is wrong.
    pub why: String,
}

impl LocalStore {
    /// All packs in the folder, sorted; also those that nothing refers to. Blocks.
    pub fn packs(&self) -> Result<Vec<PackId>> {
        Self::list_packs(&self.0.folder)
    }

    pub(super) fn list_packs(store: &Folder) -> Result<Vec<PackId>> {
        let mut packs = Vec::new();
        for folder in store.list(PACKS)? {
            for name in store.list(&format!("{PACKS}/{folder}"))? {
                match name.parse::<PackId>() {
                    Ok(id) if layout::pack_key(&id) == format!("{PACKS}/{folder}/{name}") => packs.push(id),
                    _ => tracing::warn!(folder, name, "a file among the packs is none"),
                }
            }
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// Reads all entries of a pack and checks their checksums, and with `hash` also that each decodes to
    /// the bytes its id names. Damage is reported, not an error. Blocks.
    pub fn verify_pack(&self, id: PackId, hash: bool) -> Result<PackReport> {
        match self.0.packs.contents(id) {
            Ok(contents) => Ok(self.0.verify_contents(id, &contents, hash)),
            Err(e) if e.kind() == ErrorKind::Corrupt => self.0.packs.scan(id),
            Err(e) => Err(e),
        }
    }

    /// What takes how much space. Blocks.
    pub fn usage(&self) -> Result<Usage> {
        let folder = &self.0.folder;
        let mut usage = Usage {
            locators: files(folder, LOCATORS)?.1,
            maps: files(folder, MAPS)?.1,
            records: files(folder, "")?.1 + files(folder, IMAGES)?.1,
            ..Usage::default()
        };
        for name in folder.list(PACKS)? {
            let (count, bytes) = files(folder, &format!("{PACKS}/{name}"))?;
            usage.pack_count += count;
            usage.packs += bytes;
        }
        let (live, _) = self.0.locators.reload()?;
        usage.entries = live.catalog.locators.iter().map(|locator| locator.entries).sum();
        Ok(usage)
    }
}

impl Packs {
    /// A sealed pack's contents. `Corrupt` if it is not sealed, or damaged there.
    pub(super) fn contents(&self, id: PackId) -> Result<Contents> {
        let key = layout::pack_key(&id);
        let file = self.file(id)?;
        let error = |e| self.folder().error("reading", &key, e);
        let len = file.len().map_err(error)?;
        let read = |at: u64, count: usize| {
            let mut bytes = vec![0; count];
            file.read_exact_at(&mut bytes, at).map(|()| bytes).map_err(error)
        };
        let Some(trailer_at) = len.checked_sub(Trailer::LEN as u64) else {
            return Err(Error::corrupt(format!("pack {id} is cut off")));
        };
        let header = pack::decode_header(&read(0, HEADER_LEN)?)?;
        let trailer = Trailer::decode(&read(trailer_at, Trailer::LEN)?, len)?;
        if header != id || trailer.pack != id {
            return Err(Error::corrupt(format!("pack {id} says it is pack {header}")));
        }
        Contents::decode(&read(trailer.contents_at, trailer.contents_len())?, &trailer)
    }

    /// The intact entries at the front of a pack whose contents can't be read.
    pub(super) fn scan(&self, id: PackId) -> Result<PackReport> {
        const WINDOW: usize = 8 << 20;
        let key = layout::pack_key(&id);
        let file = self.file(id)?;
        let error = |e| self.folder().error("reading", &key, e);
        let len = file.len().map_err(error)?.min(MAX_PACK_LEN);
        let mut report = PackReport { pack: id, sealed: false, entries: Vec::new(), damaged: Vec::new() };
        let mut at = HEADER_LEN as u64;
        while at < len {
            let mut bytes = vec![0; WINDOW.min((len - at) as usize)];
            file.read_exact_at(&mut bytes, at).map_err(error)?;
            let found: Vec<PackEntry> = pack::scan(&bytes, at).map(|scanned| scanned.entry).collect();
            let Some(last) = found.last() else { break };
            at = last.end();
            report.entries.extend(found);
        }
        Ok(report)
    }
}

impl Inner {
    fn verify_contents(&self, id: PackId, contents: &Contents, hash: bool) -> PackReport {
        let mut order = contents.entries().to_vec();
        order.sort_unstable_by_key(|entry| entry.offset);
        let mut report = PackReport { pack: id, sealed: true, entries: Vec::new(), damaged: Vec::new() };
        // Some MiB at a time, so that memory does not grow with the pack.
        for part in order.chunks(64) {
            let wanted: Vec<_> = part.iter().map(|entry| (entry.key, placement(id, entry))).collect();
            for (entry, stored) in part.iter().zip(self.packs.read(&wanted)) {
                let checked = stored.and_then(|stored| {
                    if !hash || id_of(entry.key.kind, &stored.decode()?) == entry.key.id {
                        return Ok(());
                    }
                    Err(Error::corrupt("it decodes to other bytes than its id names"))
                });
                match checked {
                    Ok(()) => report.entries.push(*entry),
                    Err(e) => report.damaged.push(DamagedEntry {
                        key: entry.key,
                        offset: entry.offset,
                        why: e.report(),
                    }),
                }
            }
        }
        report
    }
}

/// Number and length of the files right in a folder.
fn files(folder: &Folder, key: &str) -> Result<(u64, u64)> {
    let (mut count, mut bytes) = (0, 0);
    for name in folder.list(key)? {
        let path = if key.is_empty() { name } else { format!("{key}/{name}") };
        match folder.fs().stat(&folder.path(&path)) {
            Ok(stat) if !stat.is_dir => {
                count += 1;
                bytes += stat.len;
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(folder.error("looking at", &path, e)),
        }
    }
    Ok((count, bytes))
}
