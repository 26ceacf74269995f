//! Changing the extents of a leaf.

use super::Change;
use crate::format::node::{Extent, LEAF_BLOCKS};

/// The extents of leaf number `leaf` after `changes`, which are in order, apart, and within the leaf.
pub(super) fn apply(old: &[Extent], leaf: u64, changes: &[Change]) -> Vec<Extent> {
    let start = leaf * LEAF_BLOCKS;
    let mut new = Vec::with_capacity(old.len() + changes.len());
    let mut rest = old.iter().copied().peekable();
    for change in changes {
        let (first, end) = ((change.range.start - start) as u16, (change.range.end - start) as u16);
        // What lies before the change stays; what it covers goes; a tail behind it is looked at again.
        while let Some(extent) = rest.next_if(|extent| extent.end() <= first) {
            append(&mut new, extent);
        }
        if let Some(extent) = rest.peek().copied()
            && extent.first < first
        {
            append(&mut new, Extent { blocks: first - extent.first, ..extent });
        }
        if let Some(target) = change.target {
            let blocks = end - first;
            append(&mut new, Extent { first, blocks, chunk: target.chunk, chunk_first: target.first });
        }
        while rest.next_if(|extent| extent.end() <= end).is_some() {}
        if let Some(extent) = rest.peek_mut()
            && extent.first < end
        {
            let cut = end - extent.first;
            *extent = Extent {
                first: end,
                blocks: extent.blocks - cut,
                chunk_first: extent.chunk_first + cut as u8,
                ..*extent
            };
        }
    }
    for extent in rest {
        append(&mut new, extent);
    }
    new
}

/// Appends an extent, merged into the last one if it continues it.
fn append(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.continues_into(&extent) => last.blocks += extent.blocks,
        _ => extents.push(extent),
    }
}
