//! What changed between two disks.

use crate::{BlockRange, Result, index, index::Index};

/// Where two disks differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskDiff {
    /// Runs of blocks that differ, in order.
    pub ranges: Vec<BlockRange>,
    /// Blocks in all of them.
    pub blocks: u64,
}

/// Where `a` and `b` differ, by their indexes alone: no content is read, and the cost is O(changed).
pub async fn diff(a: &Index, b: &Index) -> Result<DiskDiff> {
    let mut found = DiskDiff::default();
    index::diff(a, b, |range| {
        found.blocks += range.count();
        found.ranges.push(range);
    })
    .await?;
    Ok(found)
}
