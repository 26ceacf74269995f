//! Filling the cache: entries are appended to one segment after the other, and the oldest segment goes.
//!
//! What was used since it was written gets a second chance: it is copied to the new segment before its own goes,
//! up to half a segment each time, so that there is always room for new entries.

use std::{io, sync::Arc};

use gabion_store_core::{ChunkId, ChunkKind, Error, ErrorKind, Result, format::codec::MAX_RAW_LEN};

use super::{
    Inner, Segment,
    queue::Entry,
    segment::{self, HEAD_LEN, HEADER_LEN, Head, ROW_LEN, Row, TRAILER_LEN},
};
use crate::fs::{FsFile, FsFileExt as _, OpenMode};

/// Bytes gathered for one write.
const WRITE_LEN: usize = 1 << 20;

/// Where the next entry goes.
#[derive(Debug)]
pub(super) struct Writer {
    head: Option<HeadSegment>,
    /// Number of the next segment; none is ever used twice.
    next: u32,
    /// Bytes of entries to let pass before the disk is tried again, and how many after the next failure.
    rest: u64,
    pause: u64,
}

/// The segment that is being filled.
#[derive(Debug)]
pub(super) struct HeadSegment {
    pub(super) number: u32,
    pub(super) file: Arc<dyn FsFile>,
    /// Entries written, and, behind them, entries in `gathered`.
    pub(super) rows: Vec<Row>,
    /// Rows that the index has.
    pub(super) written_rows: usize,
    /// Bytes written.
    pub(super) written: u64,
    /// What follows them and is not written yet.
    pub(super) gathered: Vec<u8>,
}

impl HeadSegment {
    fn end(&self) -> u64 {
        self.written + self.gathered.len() as u64
    }

    /// Length if an entry of `len` bytes were added and the table behind it.
    fn len_with(&self, len: usize) -> u64 {
        let table = (self.rows.len() + 1) * ROW_LEN + TRAILER_LEN;
        self.end() + (HEAD_LEN + len + table) as u64
    }

    fn add(&mut self, kind: ChunkKind, id: ChunkId, content: &[u8]) {
        let offset = self.end() as u32;
        self.gathered.extend(Head::new(kind, id, content).encode());
        self.gathered.extend_from_slice(content);
        self.rows.push(Row { kind, id, offset, len: content.len() as u32 });
    }
}

impl Writer {
    pub(super) fn new(head: Option<HeadSegment>, next: u32, pause: u64) -> Self {
        Self { head, next, rest: 0, pause }
    }

    pub(super) fn head(&self) -> Option<u32> {
        self.head.as_ref().map(|head| head.number)
    }
}

/// Whether an entry of `len` bytes fits an empty segment.
fn fits(len: usize, segment_len: u64) -> bool {
    len <= MAX_RAW_LEN && (HEADER_LEN + HEAD_LEN + len + ROW_LEN + TRAILER_LEN) as u64 <= segment_len
}

impl Inner {
    /// Writes entries that are not here yet. Failures are this cache's own: it warns, and rests a while.
    pub(super) fn write(&self, entries: Vec<Entry>) {
        let writer = &mut *self.writer.lock();
        for Entry { kind, id, bytes } in entries {
            if writer.rest > 0 {
                writer.rest = writer.rest.saturating_sub(bytes.len() as u64);
            } else if fits(bytes.len(), self.segment_len)
                && !self.index.contains(kind, &id)
                && let Err(error) = self.append(writer, kind, id, &bytes)
            {
                self.write_failed(writer, &error);
            }
        }
        if let Err(error) = self.flush(writer) {
            self.write_failed(writer, &error);
        }
    }

    fn append(&self, writer: &mut Writer, kind: ChunkKind, id: ChunkId, content: &[u8]) -> Result<()> {
        let has_room = |head: &HeadSegment| head.len_with(content.len()) <= self.segment_len;
        if !writer.head.as_ref().is_some_and(has_room) {
            self.seal(writer)?;
            self.begin(writer)?;
            self.make_room(writer)?;
        }
        if let Some(head) = &mut writer.head {
            head.add(kind, id, content);
            if head.gathered.len() >= WRITE_LEN {
                self.flush(writer)?;
            }
        }
        Ok(())
    }

    /// Writes what is gathered; from then on it is found.
    fn flush(&self, writer: &mut Writer) -> Result<()> {
        let Some(head) = &mut writer.head else { return Ok(()) };
        if head.gathered.is_empty() {
            return Ok(());
        }
        head.file.write_all_at(&head.gathered, head.written).map_err(|e| self.error("writing", e))?;
        head.written = head.end();
        head.gathered.clear();
        self.set_len(head.number, head.written);
        for row in &head.rows[head.written_rows..] {
            self.index.insert(head.number, row);
        }
        head.written_rows = head.rows.len();
        Ok(())
    }

    /// Ends the segment that is being filled with its table.
    fn seal(&self, writer: &mut Writer) -> Result<()> {
        self.flush(writer)?;
        let Some(head) = &writer.head else { return Ok(()) };
        let table = segment::table(head.number, &head.rows, head.written as u32);
        head.file.write_all_at(&table, head.written).map_err(|e| self.error("writing", e))?;
        self.set_len(head.number, head.written + table.len() as u64);
        writer.head = None;
        writer.pause = self.segment_len;
        Ok(())
    }

    fn begin(&self, writer: &mut Writer) -> Result<()> {
        let number = writer.next;
        writer.next = number.checked_add(1).ok_or_else(|| {
            Error::invalid(format!("disk cache {}: out of numbers, remove the folder", self.dir.display()))
        })?;
        let file = self
            .fs
            .open(&self.path(number), OpenMode::CreateNew)
            .map_err(|e| self.error("making a segment of", e))?;
        self.segments.write().insert(number, Segment { file: Arc::clone(&file), len: 0 });
        let head = HeadSegment {
            number,
            file,
            rows: Vec::new(),
            written_rows: 0,
            written: 0,
            gathered: segment::header(number),
        };
        writer.head = Some(head);
        Ok(())
    }

    /// Lets the oldest segments go until the one being filled may become full, with the length of one to
    /// spare for the one that is being copied from.
    pub(super) fn make_room(&self, writer: &mut Writer) -> Result<()> {
        while let Some(oldest) = self.oldest_beyond(writer.head()) {
            self.copy_used(writer, oldest);
            self.remove(oldest)?;
        }
        Ok(())
    }

    /// The oldest segment beside the head, if they are too many.
    fn oldest_beyond(&self, head: Option<u32>) -> Option<u32> {
        let segments = self.segments.read();
        let others = || segments.iter().filter(|(number, _)| Some(**number) != head);
        let len: u64 = others().map(|(_, segment)| segment.len).sum();
        let oldest = others().next().map(|(number, _)| *number);
        oldest.filter(|_| len.saturating_add(2 * self.segment_len) > self.capacity)
    }

    /// Copies what was used in a segment to the head, as far as that has room for it.
    fn copy_used(&self, writer: &mut Writer, number: u32) {
        let (Some(head), Some(file)) = (&mut writer.head, self.file(number)) else { return };
        for place in self.index.used_in(number) {
            if head.len_with(place.len as usize) > self.segment_len / 2 {
                break;
            }
            let mut bytes = vec![0; HEAD_LEN + place.len as usize];
            let read = file.read_exact_at(&mut bytes, u64::from(place.offset));
            if let (Ok(()), Some((kind, id))) = (read, segment::entry_of(&bytes)) {
                head.add(kind, id, &bytes[HEAD_LEN..]);
            }
        }
    }

    /// Removes a segment and forgets what is in it. Readers that are at it finish.
    fn remove(&self, number: u32) -> Result<()> {
        match self.fs.remove_file(&self.path(number)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(self.error("removing from", e)),
            _ => {}
        }
        self.segments.write().remove(&number);
        self.index.forget(number);
        Ok(())
    }

    /// After a failed write: what is written stays, the segment is left, and so many bytes pass by before the
    /// disk is tried again. A full disk gets a segment's space back.
    fn write_failed(&self, writer: &mut Writer, error: &Error) {
        self.warn_once(error);
        writer.rest = writer.pause;
        writer.pause = writer.pause.saturating_mul(2).min(self.capacity.max(self.segment_len));
        if let Some(head) = writer.head.take() {
            // Whatever part of it arrived.
            self.set_len(head.number, head.end());
            if head.written_rows == 0 {
                let _stays = self.remove(head.number);
            }
        }
        let oldest = self.segments.read().keys().next().copied();
        if let Some(oldest) = oldest.filter(|_| error.kind() == ErrorKind::NoSpace) {
            let _stays = self.remove(oldest);
        }
    }

    fn set_len(&self, number: u32, len: u64) {
        if let Some(segment) = self.segments.write().get_mut(&number) {
            segment.len = len;
        }
    }

    fn file(&self, number: u32) -> Option<Arc<dyn FsFile>> {
        self.segments.read().get(&number).map(|segment| Arc::clone(&segment.file))
    }
}
