//! Where damage is: which images, which of their checkpoints, which bytes of their disks.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};

use super::{Check, Damage, all};
use crate::{
    BLOCK_SIZE, BlockRange, ChunkKind, Error, NodeId,
    format::{
        node::{Node, span},
        rows::EntryKey,
    },
    index::NodeCache,
};

impl Check<'_> {
    /// Reports damaged entries for each image that needs them. Costs what is damaged, and each node once.
    pub(super) async fn place_damage(&mut self) {
        if self.bad.is_empty() {
            return;
        }
        let mut places = Places { nodes: &self.nodes, bad: &self.bad, spoilt: HashMap::new() };
        let mut reported = HashMap::new();
        let damage = &mut self.report.damage;
        for root in &self.roots {
            let checkpoint = EntryKey::new(ChunkKind::Checkpoint, root.checkpoint.as_chunk());
            let mut found = Vec::new();
            if self.bad.contains_key(&checkpoint) {
                found.push((checkpoint, None));
            } else if let Some((node, level)) = root.index {
                let runs = &mut Vec::new();
                places.visit(node, level, 0, runs).await;
                found.extend(runs.drain(..).map(|(key, run)| (key, Some(run))));
            }
            // One behind the other for each entry.
            found.sort_by_key(|(key, run)| (*key, run.map(|run: BlockRange| run.start)));
            for (key, run) in found {
                let size = root.size.unwrap_or(u64::MAX);
                let bytes = run.map_or_else(
                    || all(root.size),
                    |run| (run.start * BLOCK_SIZE as u64).min(size)..(run.end * BLOCK_SIZE as u64).min(size),
                );
                let at = match reported.entry((root.image.clone(), key)) {
                    Entry::Occupied(at) => *at.get(),
                    Entry::Vacant(slot) => {
                        damage.push(Damage {
                            image: root.image.clone(),
                            checkpoints: vec![root.checkpoint],
                            entry: Some(key),
                            ranges: Vec::new(),
                            error: self.bad[&key].clone(),
                        });
                        *slot.insert(damage.len() - 1)
                    }
                };
                let entry = &mut damage[at];
                if entry.checkpoints.last() != Some(&root.checkpoint) {
                    entry.checkpoints.push(root.checkpoint);
                } else if entry.checkpoints.len() == 1 {
                    match entry.ranges.last_mut() {
                        Some(last) if last.end == bytes.start => last.end = bytes.end,
                        _ => entry.ranges.push(bytes),
                    }
                }
            }
        }
    }
}

struct Places<'a> {
    nodes: &'a Arc<NodeCache>,
    bad: &'a HashMap<EntryKey, Error>,
    /// Whether there is damage at or below a node.
    spoilt: HashMap<NodeId, bool>,
}

impl Places<'_> {
    /// Adds the runs below a node that can't be read, each with the entry that is to blame. `true` if any.
    fn visit<'b>(
        &'b mut self,
        id: NodeId,
        level: u8,
        start: u64,
        found: &'b mut Vec<(EntryKey, BlockRange)>,
    ) -> BoxFuture<'b, bool> {
        async move {
            if self.spoilt.get(&id) == Some(&false) {
                return false;
            }
            let key = EntryKey::new(ChunkKind::Node, id.as_chunk());
            if self.bad.contains_key(&key) {
                found.push((key, BlockRange::new(start, start + span(level))));
                return true;
            }
            // It was read before; should it fail now, the next check tells.
            let Ok(node) = self.nodes.node(&id, level).await else { return false };
            let before = found.len();
            match &*node {
                Node::Inner { children, .. } => {
                    for (position, child) in children.iter() {
                        let start = start + u64::from(position) * span(level - 1);
                        self.visit(child, level - 1, start, found).await;
                    }
                }
                Node::Leaf(extents) => found.extend(extents.iter().filter_map(|extent| {
                    let key = EntryKey::new(ChunkKind::Data, extent.chunk);
                    let first = start + u64::from(extent.first);
                    let run = BlockRange::new(first, first + u64::from(extent.blocks));
                    self.bad.contains_key(&key).then_some((key, run))
                })),
            }
            let any = found.len() > before;
            self.spoilt.insert(id, any);
            any
        }
        .boxed()
    }
}
