//! Packs in memory: entries are collected in sections, and sections are sealed into packs.
//!
//! Entries are copied into slabs, so that a pack's memory is what it will be stored in, and an upload
//! sends the slabs as they are.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use gabion_store_core::{
    Result,
    format::{
        codec::{Codec, Encoded},
        pack::{self, Contents, ENTRY_HEADER_LEN, EntryHeader, HEADER_LEN, PackEntry},
        rows::EntryKey,
    },
    store::Placement,
    types::PackId,
};

/// Bytes allocated at a time. Entries don't cross slabs; the largest is a quarter of one.
const SLAB: usize = 1 << 20;

/// An entry ready to be stored.
#[derive(Debug)]
pub(super) struct Prepared {
    header: EntryHeader,
    stored: Bytes,
}

impl Prepared {
    /// Checks an entry and computes its checksum.
    pub(super) fn new(key: EntryKey, entry: Encoded) -> Result<Self> {
        Ok(Self { header: EntryHeader::new(key, &entry)?, stored: entry.bytes })
    }

    pub(super) fn key(&self) -> EntryKey {
        self.header.key
    }

    fn len(&self) -> usize {
        ENTRY_HEADER_LEN + self.stored.len()
    }
}

/// Entries of a pack that is not begun yet.
#[derive(Debug, Default)]
pub(super) struct Section {
    full: Vec<Bytes>,
    slab: BytesMut,
    /// Bytes in the full slabs.
    full_len: u64,
    /// In the order they were put; offsets count from the section's start.
    entries: Vec<PackEntry>,
    /// Places in `entries`.
    keys: HashMap<EntryKey, u32>,
}

impl Section {
    /// Bytes of the entries.
    pub(super) fn len(&self) -> u64 {
        self.full_len + self.slab.len() as u64
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn contains(&self, key: &EntryKey) -> bool {
        self.keys.contains_key(key)
    }

    /// Appends an entry that is not there yet.
    pub(super) fn push(&mut self, entry: &Prepared) {
        if self.slab.capacity() - self.slab.len() < entry.len() {
            let full = std::mem::replace(&mut self.slab, BytesMut::with_capacity(SLAB.max(entry.len())));
            if !full.is_empty() {
                self.full_len += full.len() as u64;
                self.full.push(full.freeze());
            }
        }
        let number = u32::try_from(self.entries.len()).expect("a section is bounded far below");
        self.keys.insert(entry.key(), number);
        self.entries.push(PackEntry::at(&entry.header, self.len()));
        self.slab.extend_from_slice(&entry.header.encode());
        self.slab.extend_from_slice(&entry.stored);
    }

    /// An entry that was put.
    pub(super) fn get(&self, key: &EntryKey) -> Option<Encoded> {
        let entry = &self.entries[*self.keys.get(key)? as usize];
        let bytes = match entry.offset.checked_sub(self.full_len) {
            Some(at) => Bytes::copy_from_slice(&self.slab[at as usize..][..entry.stored_len as usize]),
            None => slice(&self.full, entry.offset, entry.stored_len)?,
        };
        Some(encoded(entry, bytes))
    }

    fn finish(self) -> (Vec<Bytes>, Vec<PackEntry>) {
        let Self { mut full, slab, entries, .. } = self;
        full.push(slab.freeze());
        (full, entries)
    }
}

/// A pack as it will be stored.
#[derive(Debug)]
pub(super) struct SealedPack {
    pub(super) id: PackId,
    /// Its bytes, one part behind the other.
    pub(super) parts: Vec<Bytes>,
    pub(super) contents: Contents,
}

impl SealedPack {
    /// Makes a pack of the entries of sections, which share none.
    pub(super) fn seal(id: PackId, sections: impl IntoIterator<Item = Section>) -> Self {
        let mut parts = vec![Bytes::from(pack::encode_header(&id))];
        let mut entries = Vec::new();
        let mut at = HEADER_LEN as u64;
        for section in sections {
            let len = section.len();
            let (slabs, of_section) = section.finish();
            parts.extend(slabs);
            entries
                .extend(of_section.into_iter().map(|entry| PackEntry { offset: entry.offset + at, ..entry }));
            at += len;
        }
        let contents =
            Contents::new(entries).expect("entries stand one behind the other, none of them twice");
        parts.push(contents.seal(id).into());
        Self { id, parts, contents }
    }

    /// An entry of the pack.
    pub(super) fn get(&self, key: &EntryKey) -> Option<(Encoded, Placement)> {
        let entry = self.contents.find(key)?;
        let bytes = slice(&self.parts, entry.offset, entry.stored_len)?;
        Some((encoded(entry, bytes), self.placement(entry)))
    }

    pub(super) fn placement(&self, entry: &PackEntry) -> Placement {
        Placement {
            pack: self.id,
            offset: entry.offset,
            stored_len: entry.stored_len,
            raw_len: entry.raw_len,
            codec: entry.codec,
        }
    }
}

fn encoded(entry: &PackEntry, bytes: Bytes) -> Encoded {
    let codec: Codec = entry.codec;
    Encoded { codec, raw_len: entry.raw_len, bytes }
}

/// Bytes at an offset of parts that stand one behind the other; they don't cross a part's end.
fn slice(parts: &[Bytes], at: u64, len: u32) -> Option<Bytes> {
    let mut at = usize::try_from(at).ok()?;
    for part in parts {
        match at.checked_sub(part.len()) {
            Some(behind) => at = behind,
            None => return Some(part.slice(at..at + len as usize)),
        }
    }
    // An empty entry at the very end.
    (len == 0).then(Bytes::new)
}
