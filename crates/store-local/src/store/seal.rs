//! From a full pack to one that is ready to be live, in steps that can be taken again after a failure.

use gabion_store_core::{
    Result,
    format::{
        catalog::LocatorRef,
        layout,
        locator::Outline,
        pack::{Contents, PackEntry},
        rows::EntryKey,
    },
    types::{LocatorId, PackId, WriteId},
};

use super::{
    folder::Folder,
    queue::Ready,
    records,
    writer::{OpenPack, Writer, pack_folder, placement},
};
use crate::fs::FsFileExt as _;

/// A pack on its way to the queue. Each step is durable before the next begins.
#[derive(Debug)]
pub(super) struct Sealing {
    id: PackId,
    number: u64,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// The pack has entries, but neither contents nor trailer.
    Open(OpenPack),
    /// The pack is durable.
    Sealed(Contents),
    /// So is its locator, and the queue has both.
    Queued,
    /// The pack's file could not be made durable.
    Lost,
}

impl Sealing {
    pub(super) fn new(pack: OpenPack) -> Self {
        Self { id: pack.id, number: pack.number, step: Step::Open(pack) }
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.step, Step::Lost)
    }

    /// Takes the steps that are left. `known_damaged` names entries that must not enter the locator.
    pub(super) fn advance(
        &mut self,
        writer: &Writer,
        known_damaged: impl Fn(&EntryKey, PackId) -> bool,
    ) -> Result<()> {
        loop {
            self.step = match std::mem::replace(&mut self.step, Step::Lost) {
                Step::Open(pack) => match seal(&writer.folder, &pack) {
                    Ok(contents) => Step::Sealed(contents),
                    Err(SealError::Again(e)) => {
                        self.step = Step::Open(pack);
                        return Err(e);
                    }
                    Err(SealError::Lost(e)) => {
                        writer.lose(&pack, &e);
                        writer.folder.remove_quietly(&layout::pack_key(&self.id));
                        return Err(e);
                    }
                },
                Step::Sealed(contents) => {
                    let sound: Vec<&PackEntry> = contents
                        .entries()
                        .iter()
                        .filter(|entry| !known_damaged(&entry.key, self.id))
                        .collect();
                    match write_locator(&writer.folder, self.id, &sound) {
                        Ok(locator) => {
                            writer.queue.ready(self.number, Ready { pack: self.id, contents, locator });
                            Step::Queued
                        }
                        Err(e) => {
                            self.step = Step::Sealed(contents);
                            return Err(e);
                        }
                    }
                }
                Step::Queued => {
                    self.step = Step::Queued;
                    return Ok(());
                }
                Step::Lost => return Ok(()),
            };
        }
    }
}

enum SealError {
    /// Nothing is lost.
    Again(gabion_store_core::Error),
    /// After a failed sync nobody knows what is on disk.
    Lost(gabion_store_core::Error),
}

/// Writes contents and trailer behind the last entry and makes the pack durable with its name.
fn seal(folder: &Folder, pack: &OpenPack) -> Result<Contents, SealError> {
    let key = layout::pack_key(&pack.id);
    let contents = Contents::new(pack.entries.clone()).map_err(SealError::Again)?;
    let tail = contents.seal(pack.id);
    let written = pack
        .file
        .write_all_at(&tail, pack.len)
        // A write that failed may have left bytes behind.
        .and_then(|()| pack.file.set_len(pack.len + tail.len() as u64));
    written.map_err(|e| SealError::Again(folder.error("writing", &key, e)))?;
    let synced = pack.file.sync_data().map_err(|e| folder.error("syncing", &key, e));
    synced
        .and_then(|()| folder.sync_dir(pack_folder(&key)))
        .and_then(|()| folder.sync_dir(layout::PACKS))
        .map_err(SealError::Lost)?;
    Ok(contents)
}

/// Writes the locator of one pack.
fn write_locator(folder: &Folder, pack: PackId, entries: &[&PackEntry]) -> Result<LocatorRef> {
    let id = LocatorId::random()?;
    let mut outline = Outline::new(entries.len() as u64);
    for entry in entries {
        outline.add(&entry.key, &pack)?;
    }
    let mut rows = outline.finish(id);
    for entry in entries {
        rows.push(entry.key, &placement(pack, entry))?;
    }
    let reference = rows.reference();
    folder.write_new(&layout::locator_key(&id), |append| append(&rows.finish()))?;
    Ok(reference)
}

/// Makes packs live, in this order; `reload` makes the locators see the new catalog. Writes even if an earlier
/// attempt that reported an error got through: only a write that succeeded is known to be durable.
pub(super) fn enter(writer: &Writer, packs: &[Ready], reload: impl Fn() -> Result<()>) -> Result<()> {
    let write_id = WriteId::random()?;
    let locators: Vec<LocatorRef> = packs.iter().map(|ready| ready.locator).collect();
    records::change_catalog(&writer.folder, |catalog| {
        catalog.add_locators(&locators);
        catalog.write_id = write_id;
        Ok(())
    })?;
    reload()?;
    for ready in packs {
        writer.now_live(ready.pack, ready.contents.entries());
    }
    Ok(())
}
