//! Random lives of an overlay against a list of blocks per layer.

use gabion_store_core::CheckpointId;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::fs::StdFs;

const BLOCKS: u64 = 1200;

#[derive(Clone, Debug)]
enum Step {
    Write { first: u64, count: usize, byte: u8 },
    Zero { first: u64, count: u64 },
    Flush,
    Push,
    Rebase { count: usize },
    Reopen,
    Grow { blocks: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..BLOCKS, 1..20usize, 1..255u8).prop_map(|(first, count, byte)| Step::Write { first, count, byte }),
        1 => (0..BLOCKS, 500..600usize, 1..255u8).prop_map(|(first, count, byte)| Step::Write { first, count, byte }),
        4 => (0..BLOCKS, 1..40u64).prop_map(|(first, count)| Step::Zero { first, count }),
        1 => (0..BLOCKS, 500..600u64).prop_map(|(first, count)| Step::Zero { first, count }),
        3 => Just(Step::Flush),
        1 => Just(Step::Push),
        1 => (0..3usize).prop_map(|count| Step::Rebase { count }),
        2 => Just(Step::Reopen),
        1 => (1..200u64).prop_map(|blocks| Step::Grow { blocks }),
    ];
    vec(step, 1..60)
}

/// A block: what it holds, and what it may hold once the process was killed.
#[derive(Clone, Debug)]
struct Block {
    now: Content,
    flushed: Content,
    since: Vec<Content>,
}

impl Block {
    fn new() -> Self {
        Self { now: Content::Base, flushed: Content::Base, since: Vec::new() }
    }

    fn set(&mut self, content: Content) {
        self.now = content;
        self.since.push(content);
    }

    fn allows(&self, found: Content) -> bool {
        let same = |a: Content| a == found || (a == Content::Zero && found == Content::Fill(0));
        same(self.flushed) || self.since.iter().copied().any(same)
    }

    fn settle(&mut self, content: Content) {
        *self = Self { now: content, flushed: content, since: Vec::new() };
    }
}

async fn live(fs: Arc<dyn Fs>, folder: &Path, steps: Vec<Step>) {
    let mut overlay = LocalOverlay::create(fs.clone(), folder, info(BLOCKS * 4096)).unwrap();
    // Newest first, as the overlay has them.
    let mut model = vec![vec![Block::new(); BLOCKS as usize]];
    let mut bases = 0;
    for step in steps {
        let blocks = model[0].len() as u64;
        match step {
            Step::Write { first, count, byte } => {
                let count = count.min((blocks - first) as usize);
                fill(&*top(&overlay), first, count, byte).unwrap();
                model[0][first as usize..][..count].iter_mut().for_each(|b| b.set(Content::Fill(byte)));
            }
            Step::Zero { first, count } => {
                let count = count.min(blocks - first);
                top(&overlay).zero(BlockRange::new(first, first + count)).unwrap();
                model[0][first as usize..][..count as usize].iter_mut().for_each(|b| b.set(Content::Zero));
            }
            Step::Flush => {
                overlay.flush().await.unwrap();
                model.iter_mut().flatten().for_each(|block| block.settle(block.now));
            }
            Step::Push => match overlay.push_layer().await {
                Ok(_) => model.insert(0, vec![Block::new(); blocks as usize]),
                Err(_) => assert_eq!(model.len(), crate::overlay::record::MAX_LAYERS),
            },
            Step::Rebase { count } => {
                let base = CheckpointId::from_bytes([bases; 32]);
                let done = overlay.rebase(base, count).await;
                assert_eq!(done.is_ok(), count < model.len());
                if done.is_ok() {
                    model.truncate(model.len() - count);
                    assert_eq!(overlay.record().info.base, Some(base));
                    bases += 1;
                }
            }
            Step::Grow { blocks: more } => {
                let blocks = blocks + more;
                overlay.grow(blocks * 4096 - 100).await.unwrap();
                overlay.grow(blocks * 4096).await.unwrap();
                assert!(overlay.grow((blocks - 1) * 4096).await.is_err());
                model.iter_mut().for_each(|layer| layer.resize(blocks as usize, Block::new()));
            }
            Step::Reopen => {
                let record = overlay.record();
                drop(overlay);
                overlay = LocalOverlay::open(fs.clone(), folder, None).unwrap();
                assert_eq!(overlay.record().info, record.info);
                assert_eq!(overlay.record().layers, record.layers);
                for (layer, blocks) in overlay.layers().iter().zip(&mut model) {
                    let found = contents(&**layer, blocks.len() as u64);
                    for (at, (block, found)) in blocks.iter_mut().zip(found).enumerate() {
                        assert!(block.allows(found), "block {at} holds {found:?}, allowed: {block:?}");
                        block.settle(found);
                    }
                }
            }
        }
        let layers = overlay.layers();
        assert_eq!(layers.len(), model.len());
        for (layer, blocks) in layers.iter().zip(&model) {
            let expected: Vec<Content> = blocks.iter().map(|block| block.now).collect();
            assert_eq!(contents(&**layer, blocks.len() as u64), expected);
        }
    }
}

fn run(fs: Arc<dyn Fs>, folder: &Path, steps: Vec<Step>) {
    tokio::runtime::Runtime::new().unwrap().block_on(live(fs, folder, steps));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn in_memory(steps in steps()) {
        run(memory().1, Path::new("/vol"), steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn on_disk(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        run(Arc::new(StdFs), &folder.path().join("vol"), steps);
    }
}
