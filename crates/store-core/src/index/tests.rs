use std::{collections::HashSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    BlockRange, ChunkId, ChunkStore,
    clock::Timestamp,
    format::node::{LEAF_BLOCKS, span},
    stores::{MemoryStore, Metered},
    testing::FixedClock,
    types::chunk_id,
};

fn cache(budget: usize) -> Arc<NodeCache> {
    let store = MemoryStore::new(&FixedClock::new(Timestamp(1))).unwrap();
    Arc::new(NodeCache::new(Arc::new(store) as Arc<dyn ChunkStore>, budget))
}

fn chunk(number: u64) -> ChunkId {
    chunk_id(&number.to_le_bytes())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

const MIB: u64 = 256;

/// Blocks of the model: about three leaves, so that edges of leaves and of the disk are met often.
const BLOCKS: u64 = 3 * LEAF_BLOCKS + 77;

async fn mapped(index: &Index) -> Vec<Option<Target>> {
    let mut all = Vec::new();
    while (all.len() as u64) < index.blocks() {
        let found = index.find(BlockRange::new(all.len() as u64, index.blocks())).await.unwrap();
        assert_eq!(found.range.start, all.len() as u64);
        let each =
            |offset| found.target.map(|target| Target { first: target.first + offset as u8, ..target });
        all.extend((0..found.range.count()).map(each));
    }
    all
}

fn changes() -> impl Strategy<Value = Vec<(u64, u64, Option<u64>)>> {
    prop::collection::vec((0_u64..90, 1_u64..=32, prop::option::weighted(0.8, 0_u64..40)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn writer_behaves_like_an_array(rounds in prop::collection::vec(changes(), 1..4), budget in prop::sample::select(vec![0, 1 << 20])) {
        runtime().block_on(async {
            let nodes = cache(budget);
            let mut index = Index::new(Arc::clone(&nodes), None, BLOCKS * 4096);
            let mut model = vec![None; BLOCKS as usize];
            for round in rounds {
                let before = index.clone();
                let old_model = model.clone();
                let mut writer = IndexWriter::new(index.clone(), BLOCKS * 4096).await.unwrap();
                let mut at = 0;
                for (gap, length, target) in round {
                    let range = BlockRange::new(at + gap, at + gap + length);
                    if range.end > BLOCKS { break }
                    at = range.end;
                    let target = target.map(|number| Target { chunk: chunk(number), first: 0 });
                    writer.push(Change { range, target }).await.unwrap();
                    for block in range.start..range.end {
                        let offset = (block - range.start) as u8;
                        model[block as usize] = target.map(|target| Target { first: offset, ..target });
                    }
                }
                let written = writer.finish().await.unwrap();
                index = Index::new(Arc::clone(&nodes), written.root, BLOCKS * 4096);
                assert_eq!(mapped(&index).await, model);
                // The old disk is untouched, and the diff is just where they differ.
                assert_eq!(mapped(&before).await, old_model);
                let mut differ = Vec::new();
                diff(&before, &index, |range| differ.extend(range.start..range.end)).await.unwrap();
                let expected: Vec<_> = (0..BLOCKS).filter(|block| model[*block as usize] != old_model[*block as usize]).collect();
                assert_eq!(differ, expected);
            }
        });
    }
}

#[tokio::test]
async fn an_emptied_disk_has_no_root_and_equal_content_one_id() {
    let nodes = cache(1 << 20);
    let empty = Index::new(Arc::clone(&nodes), None, 64 * MIB * 4096);
    let write = async |base: Index, changes: &[(u64, u64, Option<u64>)]| {
        let mut writer = IndexWriter::new(base, 64 * MIB * 4096).await.unwrap();
        for &(start, end, number) in changes {
            let target = number.map(|number| Target { chunk: chunk(number), first: 0 });
            writer.push(Change { range: BlockRange::new(start, end), target }).await.unwrap();
        }
        let written = writer.finish().await.unwrap();
        Index::new(Arc::clone(&nodes), written.root, 64 * MIB * 4096)
    };
    let at_once = write(empty.clone(), &[(5, 9, Some(1)), (5000, 5001, Some(2))]).await;
    let first = write(empty.clone(), &[(5, 9, Some(1)), (40, 41, Some(3))]).await;
    let in_steps = write(first, &[(40, 41, None), (5000, 5001, Some(2))]).await;
    assert_eq!(at_once.root(), in_steps.root());
    let emptied = write(in_steps, &[(0, 64 * MIB, None)]).await;
    assert_eq!(emptied.root(), None);
}

#[tokio::test]
async fn a_tebibyte_disk_costs_a_path_a_block() {
    let nodes = cache(8 << 20);
    let size = 1 << 40;
    let mut writer = IndexWriter::new(Index::new(Arc::clone(&nodes), None, size), size).await.unwrap();
    let target = Some(Target { chunk: chunk(1), first: 3 });
    writer.push(Change { range: BlockRange::new(200_000_000, 200_000_001), target }).await.unwrap();
    let written = writer.finish().await.unwrap();
    assert_eq!(written.nodes.len(), 4);
    let index = Index::new(Arc::clone(&nodes), written.root, size);
    let all = BlockRange::new(0, size / 4096);
    let mut at = all;
    let mut holes = 0;
    while !at.is_empty() {
        let found = index.find(at).await.unwrap();
        holes += u64::from(found.target.is_none());
        at.start = found.range.end;
    }
    assert!(holes < 16, "{holes} holes");
    let found = index.find(BlockRange::new(200_000_000, 200_000_500)).await.unwrap();
    assert_eq!(found, Mapping { range: BlockRange::new(200_000_000, 200_000_001), target });
    let other = Index::new(Arc::clone(&nodes), None, size);
    let mut differ = Vec::new();
    diff(&index, &other, |range| differ.push(range)).await.unwrap();
    assert_eq!(differ, [BlockRange::new(200_000_000, 200_000_001)]);
}

#[tokio::test]
async fn growing_keeps_content_and_reads_zeros() {
    let nodes = cache(1 << 20);
    let small = 300 * 4096;
    let mut writer = IndexWriter::new(Index::new(Arc::clone(&nodes), None, small), small).await.unwrap();
    writer
        .push(Change { range: BlockRange::new(290, 300), target: Some(Target { chunk: chunk(1), first: 0 }) })
        .await
        .unwrap();
    let root = writer.finish().await.unwrap().root;
    for size in [small + 4096, 512 * 4096, span(1) * 4096, span(1) * 4096 + 1, span(2) * 4096 + 5] {
        let old = Index::new(Arc::clone(&nodes), root, small);
        let writer = IndexWriter::new(old.clone(), size).await.unwrap();
        let grown = Index::new(Arc::clone(&nodes), writer.finish().await.unwrap().root, size);
        let found = grown.find(BlockRange::new(295, grown.blocks())).await.unwrap();
        assert_eq!(found.range, BlockRange::new(295, 300));
        assert_eq!(found.target.unwrap().first, 5);
        let behind = grown.find(BlockRange::new(300, grown.blocks())).await.unwrap();
        assert_eq!(behind.target, None);
        let mut differ = Vec::new();
        diff(&old, &grown, |range| differ.push(range)).await.unwrap();
        assert_eq!(differ, [BlockRange::new(300, grown.blocks())]);
    }
    let shrunk = IndexWriter::new(Index::new(Arc::clone(&nodes), root, small), small - 4096).await;
    assert_eq!(shrunk.unwrap_err().kind(), crate::ErrorKind::Invalid);
}

#[tokio::test]
async fn bad_changes_are_refused() {
    let nodes = cache(1 << 20);
    let mut writer = IndexWriter::new(Index::new(nodes, None, 10 * 4096), 10 * 4096).await.unwrap();
    let change = |start, end| Change { range: BlockRange::new(start, end), target: None };
    writer.push(change(2, 4)).await.unwrap();
    for bad in [change(3, 5), change(5, 5), change(9, 11), change(u64::MAX - 1, u64::MAX)] {
        assert!(writer.push(bad).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_walk_sees_each_node_once() {
    let nodes = cache(1 << 20);
    let size = 16 * MIB * 4096;
    let mut writer = IndexWriter::new(Index::new(Arc::clone(&nodes), None, size), size).await.unwrap();
    // The same chunk at the same place of every leaf: all leaves are one node.
    for leaf in 0..8 {
        let range = BlockRange::new(leaf * LEAF_BLOCKS, leaf * LEAF_BLOCKS + 2);
        writer.push(Change { range, target: Some(Target { chunk: chunk(9), first: 4 }) }).await.unwrap();
    }
    let written = writer.finish().await.unwrap();
    let index = Index::new(Arc::clone(&nodes), written.root, size);
    let mut seen = HashSet::new();
    let mut reached = Vec::new();
    walk_nodes(
        &nodes,
        written.root.unwrap(),
        index.level(),
        &mut seen,
        |r| reached.push(r),
        |_, e| panic!("{e:?}"),
    )
    .await;
    assert_eq!(reached.len(), 3);
    assert_eq!(reached[2], Reached::Chunk(chunk(9), 6));
    walk_nodes(
        &nodes,
        written.root.unwrap(),
        index.level(),
        &mut seen,
        |r| panic!("{r:?}"),
        |_, e| panic!("{e:?}"),
    )
    .await;
}

/// A tree of three levels, loaded in parts: what was asked for needs no request any more, and there was one for
/// each level.
#[tokio::test]
async fn ranges_load_with_one_request_for_each_level() {
    let store = Arc::new(MemoryStore::new(&FixedClock::new(Timestamp(1))).unwrap());
    let leaves: Vec<u64> = (0..3000).map(|leaf| leaf * 7 * LEAF_BLOCKS).collect();
    let size = 40_000 * LEAF_BLOCKS * 4096;
    let nodes = Arc::new(NodeCache::new(store.clone() as Arc<dyn ChunkStore>, 1 << 30));
    let mut writer = IndexWriter::new(Index::new(nodes, None, size), size).await.unwrap();
    for leaf in &leaves {
        let target = Some(Target { chunk: chunk(*leaf), first: 0 });
        writer.push(Change { range: BlockRange::new(leaf + 3, leaf + 4), target }).await.unwrap();
    }
    let root = writer.finish().await.unwrap().root;
    let at = |leaf: u64| BlockRange::new(leaf * 7 * LEAF_BLOCKS, leaf * 7 * LEAF_BLOCKS + 10);
    // Unsorted, overlapping, empty, and where there is nothing.
    let wanted = [at(2000), at(5), BlockRange::new(0, 100), at(2001), at(5), BlockRange::new(9, 9), at(700)];
    let metered = Arc::new(Metered::new(store));
    let nodes = Arc::new(NodeCache::new(metered.clone() as Arc<dyn ChunkStore>, 1 << 30));
    let index = Index::new(nodes, root, size);
    index.load(&wanted).await.unwrap();
    let asked = metered.metrics().get;
    assert_eq!((index.level(), asked.calls), (2, 3));
    assert_eq!(
        asked.entries,
        1 + 3 + 5,
        "the root, the inner nodes of 0 and 5, 700, 2000 and 2001, and five leaves"
    );
    for range in wanted.into_iter().filter(|range| !range.is_empty()) {
        assert!(index.try_find(range).is_some());
    }
    assert!(index.try_find(at(1000)).is_none());
    index.load(&wanted).await.unwrap();
    assert_eq!(metered.metrics().get.calls, 3, "all of it is there");
    // Everything, as far as one call goes.
    index.load(&[BlockRange::new(0, index.blocks())]).await.unwrap();
    assert!(leaves.iter().all(|leaf| index.try_find(BlockRange::new(*leaf, leaf + 1)).is_some()));
    assert!(metered.metrics().get.calls <= 6);
    Index::new(Arc::clone(index.nodes()), None, size).load(&wanted).await.unwrap();
}
