//! Where two disks differ: only subtrees with different ids are looked at.

use super::{Index, Mapping};
use crate::{
    BlockRange, NodeId, Result,
    format::node::{LEAF_BLOCKS, Node, span},
};

/// Runs of blocks, in order and merged, that the two indexes map differently, beyond the smaller disk
/// included. Blocks of equal content in different chunks count as different. Cost is O(changed).
pub async fn diff(a: &Index, b: &Index, mut found: impl FnMut(BlockRange)) -> Result<()> {
    let mut last: Option<BlockRange> = None;
    let mut emit = |range: BlockRange| match &mut last {
        Some(before) if before.end == range.start => before.end = range.end,
        _ => {
            if let Some(before) = last.replace(range) {
                found(before);
            }
        }
    };
    let common = a.blocks().min(b.blocks());
    let all = a.blocks().max(b.blocks());
    // A work list instead of recursion: (level, number of the node at that level), last first.
    let mut work = vec![(a.level().max(b.level()), 0_u64)];
    while let Some((level, number)) = work.pop() {
        let range =
            BlockRange::new(number.saturating_mul(span(level)), (number + 1).saturating_mul(span(level)));
        let range = range.intersect(&BlockRange::new(0, common));
        if range.is_empty() {
            continue;
        }
        let (in_a, in_b) = (id_at(a, level, number).await?, id_at(b, level, number).await?);
        match (in_a, in_b) {
            (At::Id(a), At::Id(b)) if a == b => {}
            _ if level == 0 => diff_leaf(a, b, range, &mut emit).await?,
            _ => work.extend((0..256).rev().map(|child| (level - 1, number * 256 + child))),
        }
    }
    if common < all {
        emit(BlockRange::new(common, all));
    }
    if let Some(range) = last {
        found(range);
    }
    Ok(())
}

/// Identity of the subtree at a place of a tree, which may be shallower than that place's level.
enum At {
    Id(Option<NodeId>),
    Above,
}

async fn id_at(index: &Index, level: u8, number: u64) -> Result<At> {
    if level > index.level() {
        return Ok(if number == 0 && index.root().is_some() { At::Above } else { At::Id(None) });
    }
    if level == index.level() {
        return Ok(At::Id(index.root().filter(|_| number == 0)));
    }
    Ok(At::Id(match index.node_at(level + 1, number / 256).await?.as_deref() {
        Some(Node::Inner { children, .. }) => children.get((number % 256) as u8),
        _ => None,
    }))
}

async fn diff_leaf(a: &Index, b: &Index, range: BlockRange, emit: &mut impl FnMut(BlockRange)) -> Result<()> {
    debug_assert!(range.count() <= LEAF_BLOCKS);
    let mut rest = range;
    while !rest.is_empty() {
        let (in_a, in_b) = (a.find(rest).await?, b.find(rest).await?);
        let end = in_a.range.end.min(in_b.range.end);
        if same(&in_a, &in_b) {
            rest.start = end;
        } else {
            emit(BlockRange::new(rest.start, end));
            rest.start = end;
        }
    }
    Ok(())
}

fn same(a: &Mapping, b: &Mapping) -> bool {
    a.target == b.target
}
