//! Every step of a transfer fails, before and after its effect, or is cancelled; a rerun finishes.

use std::sync::Arc;

use super::{add, assert_whole, clock, disk, history, memory, name, run, side};
use crate::{
    ChunkKind, ErrorKind, Result, Store,
    format::node::Node,
    index::{Reached, walk_nodes},
    ops::{Job, TransferOptions, Transferred, open_checkpoint, tests::nodes, transfer},
    testing::{BadEntry, Call, Fault, FaultStore, Gate},
};

const READS: [Call; 3] = [Call::ReadImage, Call::GetEncoded, Call::GetMap];
const WRITES: [Call; 9] = [
    Call::ReadImage,
    Call::Contains,
    Call::PutEncoded,
    Call::Sync,
    Call::ReadCatalog,
    Call::WriteCatalog,
    Call::PutMap,
    Call::Locate,
    Call::WriteImage,
];

/// Two checkpoints, of which the target has the first, and its disk in another image, too.
struct Rig {
    here: Store,
    there: Store,
}

impl Rig {
    async fn new() -> Self {
        let (here, there) = (memory(), memory());
        let mut content = disk(9, 1);
        add(&here, "vm", &content).await;
        run(&here, &there, "vm", "vm").await.unwrap();
        content[5 << 20..6 << 20].copy_from_slice(&disk(1, 77));
        content[1 << 20] ^= 1;
        add(&here, "vm", &content).await;
        Self { here, there }
    }

    /// What holds at every moment: the name leads to one of the two, whole, and no node to what is missing.
    async fn assert_sound(&self) {
        let (mine, theirs) = (history(&self.here, "vm").await, history(&self.there, "vm").await);
        assert!(theirs == mine || theirs == mine[1..], "{theirs:?}");
        assert_whole(&self.there).await;
        assert_closed(&self.here, &self.there).await;
    }
}

/// Every node of the source's checkpoints that is in the target leads to what is there.
async fn assert_closed(here: &Store, there: &Store) {
    let mut all = Vec::new();
    for id in history(here, "vm").await {
        let cache = nodes(here);
        let (_, index) = open_checkpoint(&cache, id).await.unwrap();
        let Some(root) = index.root() else { continue };
        let visit = |reached| {
            if let Reached::Node(id) = reached {
                all.push(id);
            }
        };
        walk_nodes(&cache, root, index.level(), &mut Default::default(), visit, |_, e| panic!("{e:?}")).await;
    }
    for id in all {
        let id = id.as_chunk();
        let Some(Ok(bytes)) = there.chunks.get(ChunkKind::Node, &[id]).await.pop() else { continue };
        let (kind, below): (_, Vec<_>) = match Node::decode(&bytes).unwrap() {
            Node::Leaf(extents) => (ChunkKind::Data, extents.iter().map(|extent| extent.chunk).collect()),
            Node::Inner { children, .. } => {
                (ChunkKind::Node, children.iter().map(|(_, child)| child.as_chunk()).collect())
            }
        };
        let present = there.chunks.contains(kind, &below).await.unwrap();
        assert!(present.iter().all(|present| *present), "a node without what it needs");
    }
}

/// Fails one call after the other. Returns the number of calls that could fail.
async fn every_call(calls: &[Call], at_target: bool, faults: &[Fault]) -> usize {
    let mut failed = 0;
    for &call in calls {
        for fault in faults {
            for number in 0.. {
                let rig = Rig::new().await;
                let (source, target) =
                    (FaultStore::new(rig.here.clone(), 1), FaultStore::new(rig.there.clone(), 1));
                let faulty = if at_target { &target } else { &source };
                faulty.script(call, number, fault.clone());
                let done = run(&source.store(), &target.store(), "vm", "vm").await;
                if faulty.calls(call) <= number {
                    assert_eq!(done.unwrap().published, 1);
                    break;
                }
                failed += 1;
                rig.assert_sound().await;
                let before = history(&rig.there, "vm").await.len();
                assert_eq!(before == 2, published(&done, call), "{call:?} {number} {fault:?} {done:?}");
                let rerun = run(&rig.here, &rig.there, "vm", "vm").await.unwrap();
                assert_eq!(rerun.published, 2 - before as u64);
                rig.assert_sound().await;
                assert_eq!(history(&rig.there, "vm").await, history(&rig.here, "vm").await);
            }
        }
    }
    failed
}

/// Whether the image has the checkpoint, by what the transfer said. Only the reading back of a lost answer could
/// leave it open, and here only one call fails.
fn published(done: &Result<Transferred>, call: Call) -> bool {
    if let Err(error) = done {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{call:?}: {error:?}");
    }
    done.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_call_may_fail() {
    let faults = [Fault::Before(ErrorKind::Unavailable), Fault::After(ErrorKind::Unavailable)];
    let failed = every_call(&READS, false, &faults).await;
    assert!(failed >= 10, "{failed}");
    let failed = every_call(&WRITES, true, &faults).await;
    assert!(failed >= 20, "{failed}");
}

/// A source that answers something else: nothing of that batch arrives, and the error names the entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_lies_is_found_out() {
    for how in [BadEntry::Corrupt, BadEntry::Cut, BadEntry::Missing] {
        let rig = Rig::new().await;
        let newest = history(&rig.here, "vm").await[0];
        let mut bad = vec![(ChunkKind::Checkpoint, newest.as_chunk())];
        let cache = nodes(&rig.here);
        let (_, index) = open_checkpoint(&cache, newest).await.unwrap();
        let visit = |reached| match reached {
            Reached::Node(id) => bad.push((ChunkKind::Node, id.as_chunk())),
            Reached::Chunk(id, _) => bad.push((ChunkKind::Data, id)),
        };
        let level = index.level();
        walk_nodes(&cache, index.root().unwrap(), level, &mut Default::default(), visit, |_, _| {}).await;
        let mut lies = 0;
        for (kind, id) in bad {
            let present = rig.there.chunks.contains(kind, &[id]).await.unwrap()[0];
            let source = FaultStore::new(rig.here.clone(), 1);
            source.break_entry(kind, id, how);
            let target = memory();
            run(&rig.here, &target, "vm~1", "vm").await.unwrap();
            let done = run(&source.store(), &target, "vm", "vm").await;
            if present {
                done.unwrap();
                continue;
            }
            lies += 1;
            let error = done.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{how:?} {error:?}");
            assert!(error.report().contains(&id.to_string()), "{}", error.report());
            assert_eq!(target.chunks.contains(kind, &[id]).await.unwrap(), [false]);
            assert_whole(&target).await;
            assert_closed(&rig.here, &target).await;
        }
        assert!(lies >= 5, "{lies}");
    }
}

/// Cancelled while each call of either side is under way: it ends at once, and a rerun finishes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_is_cancelled_at_every_step_of_sending() {
    let cases = [(false, Call::GetEncoded), (true, Call::Contains), (true, Call::PutEncoded)];
    for (at_target, call) in cases {
        for after in [false, true] {
            for number in 0.. {
                let rig = Rig::new().await;
                let (source, target) =
                    (FaultStore::new(rig.here.clone(), 1), FaultStore::new(rig.there.clone(), 1));
                let faulty = if at_target { &target } else { &source };
                let gate = Arc::new(Gate::new());
                let held = if after { Fault::HoldAfter(gate.clone()) } else { Fault::Hold(gate.clone()) };
                faulty.script(call, number, held);
                let job = Job::default();
                let (from, to) = (source.store(), target.store());
                let (what, image, now) = ("vm".parse().unwrap(), name("vm"), clock());
                let options = TransferOptions::default();
                let moving = transfer(side(&from), side(&to), &what, &image, &now, options, &job);
                let stop = async {
                    gate.arrived(1).await;
                    job.cancel.cancel();
                };
                let ended = futures::future::select(Box::pin(moving), Box::pin(stop)).await;
                let done = match ended {
                    futures::future::Either::Left((done, _)) => {
                        assert_eq!(done.unwrap().published, 1);
                        break;
                    }
                    futures::future::Either::Right(((), moving)) => moving.await,
                };
                assert_eq!(done.unwrap_err().kind(), ErrorKind::Cancelled, "{call:?} {number}");
                gate.open();
                rig.assert_sound().await;
                assert_eq!(history(&rig.there, "vm").await.len(), 1);
                run(&rig.here, &rig.there, "vm", "vm").await.unwrap();
                rig.assert_sound().await;
            }
        }
    }
}

/// A rerun sends only what did not arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rerun_finds_what_arrived() {
    let (here, there) = (memory(), memory());
    add(&here, "vm", &disk(64, 1)).await;
    let whole = run(&here, &memory(), "vm", "vm").await.unwrap();
    let target = FaultStore::new(there.clone(), 1);
    target.script(Call::PutEncoded, 4, Fault::Before(ErrorKind::Unavailable));
    run(&here, &target.store(), "vm", "vm").await.unwrap_err();
    let rerun = run(&here, &there, "vm", "vm").await.unwrap();
    assert!(rerun.chunks < whole.chunks && rerun.bytes + (4 << 20) < whole.bytes, "{rerun:?} of {whole:?}");
    assert_eq!(rerun.checkpoint, whole.checkpoint);
    assert_whole(&there).await;
}
