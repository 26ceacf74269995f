//! [`Sparse`]: the bytes of a file in memory. Holes cost nothing, and a clone shares every page until one of the two
//! is written to, so that a test can keep thousands of versions of a file.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// Pages that are not there are zero. Bytes behind `len` are zero, unless [`Sparse::keep_len`] left some there.
#[derive(Clone, Default)]
pub(super) struct Sparse {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
}

impl Sparse {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Number of pages that take space.
    pub(super) fn pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Reads up to the end of the file.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let len = (buf.len() as u64).min(self.len.saturating_sub(offset)) as usize;
        self.peek(&mut buf[..len], offset);
        len
    }

    /// Reads as if the file had no end.
    pub(super) fn peek(&self, buf: &mut [u8], offset: u64) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(buf.len() - done);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => buf[done..done + n].copy_from_slice(&page[within..within + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
    }

    /// Writes until `may_add` refuses a page; the bytes written.
    pub(super) fn write(&mut self, buf: &[u8], offset: u64, mut may_add: impl FnMut() -> bool) -> usize {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(buf.len() - done);
            let page = match self.pages.entry(at / PAGE as u64) {
                Entry::Occupied(page) => page.into_mut(),
                Entry::Vacant(_) if !may_add() => break,
                Entry::Vacant(hole) => hole.insert(Arc::new([0; PAGE])),
            };
            Arc::make_mut(page)[within..within + n].copy_from_slice(&buf[done..done + n]);
            done += n;
        }
        if done > 0 {
            self.len = self.len.max(offset + done as u64);
        }
        done
    }

    /// Cuts, or grows with a hole.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, self.len.next_multiple_of(PAGE as u64));
        }
        self.len = len;
    }

    /// Says where the file ends and leaves its pages alone, even those behind the end.
    pub(super) fn keep_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Whether there may be bytes behind the end.
    pub(super) fn reaches_beyond_end(&self) -> bool {
        let last = self.pages.last_key_value();
        last.is_some_and(|(index, _)| (index + 1) * PAGE as u64 > self.len)
    }

    /// Makes all behind the end zero.
    pub(super) fn clear_beyond_end(&mut self) {
        self.clear(self.len, u64::MAX / PAGE as u64 * PAGE as u64);
    }

    /// Makes `start..end` zero and frees the pages that lie wholly in it.
    pub(super) fn clear(&mut self, start: u64, end: u64) {
        let page = PAGE as u64;
        let (first, last) = (start.div_ceil(page), end / page);
        if first < last {
            let mut inside = self.pages.split_off(&first);
            self.pages.append(&mut inside.split_off(&last));
        }
        for index in [start / page, end / page] {
            let Some(bytes) = self.pages.get_mut(&index) else { continue };
            let from = start.saturating_sub(index * page).min(page) as usize;
            let to = end.saturating_sub(index * page).min(page) as usize;
            if from < to {
                Arc::make_mut(bytes)[from..to].fill(0);
            }
        }
    }

    /// Ranges of bytes in `start..end` that pages are there for: nothing else can be other than zero.
    pub(super) fn present(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let page = PAGE as u64;
        let pages = self.pages.range(start / page..end.div_ceil(page));
        pages.map(|(index, _)| ((index * page).max(start), ((index + 1) * page).min(end))).collect()
    }
}
