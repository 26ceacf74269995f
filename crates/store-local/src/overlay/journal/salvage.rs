//! What is whole of a journal that is damaged.
//!
//! A batch says which blocks became data or zero by one flush. Without it these blocks look as they did before that
//! flush, unless a later batch tells of them; the others are as they were. So every whole batch counts, in order.

use std::{ops::RangeInclusive, path::Path};

use gabion_store_core::{Error, Result, overlay::BlockStates};

use super::{
    HEADER_LEN, Header, SECTOR,
    codec::{BatchHead, apply_payload},
    recovery,
    scan::{Scan, WINDOW},
};
use crate::{fs::FsFile, overlay::record::LayerFiles};

/// What a salvage found behind some place of a journal.
#[derive(Debug)]
pub(super) struct Kept {
    /// Batches that are whole.
    pub(super) whole: u64,
    /// Sequence numbers of those between them that are not.
    pub(super) lost: Vec<RangeInclusive<u64>>,
    /// Sequence number behind all of these.
    next: u64,
}

/// Applies every whole batch of a journal that recovery refuses, and changes nothing; `None` if recovery takes it.
/// `Corrupt` if its header is damaged.
pub(super) fn salvage(
    file: &dyn FsFile,
    path: &Path,
    files: LayerFiles,
    blocks: u64,
) -> Result<Option<(BlockStates, Kept)>> {
    if recovery::takes(file, path, files, blocks)? {
        return Ok(None);
    }
    let scan = Scan::new(file, path)?;
    let header = scan.header(files.layer)?;
    let mut states = BlockStates::new(blocks);
    let mut kept = keep(&scan, &header, HEADER_LEN, 1, &mut states)?;
    if kept.next <= files.batches {
        kept.lost.push(kept.next..=files.batches);
    }
    Ok(Some((states, kept)))
}

/// Applies every whole batch from `at` on, where the one of `sequence` belongs.
pub(super) fn keep(
    scan: &Scan<'_>,
    header: &Header,
    mut at: u64,
    mut sequence: u64,
    states: &mut BlockStates,
) -> Result<Kept> {
    let mut kept = Kept { whole: 0, lost: Vec::new(), next: sequence };
    while let Some((offset, head, payload)) = next_whole(scan, header, at, sequence)? {
        if head.sequence > sequence {
            kept.lost.push(sequence..=head.sequence - 1);
        }
        apply_payload(&payload, states).map_err(|e| scan.corrupt(offset, head.sequence, e))?;
        kept.whole += 1;
        at = offset + head.stride();
        kept.next = head.sequence.saturating_add(1);
        if head.sequence == u64::MAX {
            return Ok(kept);
        }
        sequence = kept.next;
    }
    // An earlier batch in its place took the place of something.
    if scan.head(header, at)?.is_some_and(|head| head.sequence < sequence) {
        kept.lost.push(sequence..=sequence);
        kept.next = sequence.saturating_add(1);
    }
    Ok(kept)
}

/// The first whole batch from `at` on, of this or a higher sequence number, and where it begins.
fn next_whole(
    scan: &Scan<'_>,
    header: &Header,
    mut at: u64,
    sequence: u64,
) -> Result<Option<(u64, BatchHead, Vec<u8>)>> {
    let whole = |offset, head: Option<BatchHead>| match head.filter(|head| head.sequence >= sequence) {
        Some(head) => Ok::<_, Error>(scan.payload(&head, offset)?.map(|payload| (offset, head, payload))),
        None => Ok(None),
    };
    // Where it belongs, mostly.
    if let Some(found) = whole(at, scan.head(header, at)?)? {
        return Ok(Some(found));
    }
    let mut window = Vec::new();
    while at < scan.len {
        window.resize((scan.len - at).min(WINDOW as u64) as usize, 0);
        scan.read(&mut window, at)?;
        for (sector, bytes) in window.chunks(SECTOR as usize).enumerate() {
            let found = whole(at + sector as u64 * SECTOR, BatchHead::find(&header.nonce, bytes))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        at += window.len() as u64;
    }
    Ok(None)
}
