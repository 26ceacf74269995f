//! Which checkpoint may go on top of which.

use super::{add, disk, history, memory, name, run, run_with};
use crate::{
    ErrorKind,
    ops::{TransferOptions, tag, tests::clock},
    testing::{Call, Fault, FaultStore, Gate},
};

use std::sync::Arc;

fn forced() -> TransferOptions {
    TransferOptions { force: true, ..TransferOptions::default() }
}

fn with_history() -> TransferOptions {
    TransferOptions { history: true, ..TransferOptions::default() }
}

#[tokio::test]
async fn only_a_descendant_goes_on_top() {
    let (here, there) = (memory(), memory());
    let first = add(&here, "vm", &disk(1, 1)).await;
    run(&here, &there, "vm", "vm").await.unwrap();
    let theirs = add(&there, "vm", &disk(1, 2)).await;
    let mine = add(&here, "vm", &disk(1, 3)).await;

    let refused = run(&here, &there, "vm", "vm").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.report().contains("--force"), "{}", refused.report());
    assert_eq!(history(&there, "vm").await, [theirs, first]);

    run(&here, &there, "vm", "mine").await.unwrap();
    assert_eq!(history(&there, "mine").await, [mine]);
    run_with(&here, &there, "vm", "vm", forced()).await.unwrap();
    assert_eq!(history(&there, "vm").await, [mine, theirs, first]);
    super::assert_whole(&there).await;
}

#[tokio::test]
async fn history_is_sent_if_asked_for() {
    let (here, there) = (memory(), memory());
    let mut all = Vec::new();
    for seed in 0..4 {
        all.insert(0, add(&here, "vm", &disk(1, seed)).await);
    }
    run(&here, &there, "vm~2", "vm").await.unwrap();
    assert_eq!(history(&there, "vm").await, [all[2]]);
    // The newest alone, then what lies between is not asked for any more.
    let done = run_with(&here, &there, "vm", "vm", with_history()).await.unwrap();
    assert_eq!(done.published, 2);
    assert_eq!(history(&there, "vm").await, [all[0], all[1], all[2]]);
    let done = run_with(&here, &there, "vm", "whole", with_history()).await.unwrap();
    assert_eq!(done.published, 4);
    assert_eq!(history(&there, "whole").await, all);
    // What an image has is not put on top of it again, unless by force.
    assert_eq!(run(&here, &there, "vm~3", "whole").await.unwrap().published, 0);
    assert_eq!(run_with(&here, &there, "vm~3", "whole", forced()).await.unwrap().published, 1);
    assert_eq!(history(&there, "whole").await[0], all[3]);
    super::assert_whole(&there).await;
}

#[tokio::test]
async fn an_older_one_does_not_go_on_top_of_a_newer() {
    let (here, there) = (memory(), memory());
    for seed in 0..2 {
        add(&here, "vm", &disk(1, seed)).await;
    }
    run(&here, &there, "vm", "vm").await.unwrap();
    let refused = run(&here, &there, "vm~1", "vm").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

/// An image that began as a volume of another has that one's checkpoint as its parent only.
#[tokio::test]
async fn an_image_descends_from_what_its_oldest_was_made_from() {
    let (here, there) = (memory(), memory());
    let base = add(&here, "base", &disk(1, 1)).await;
    run(&here, &there, "base", "vm").await.unwrap();
    add(&here, "work", &disk(1, 9)).await;
    // Its history goes on from the base, which is not part of it.
    tag(&here, &clock(), &"base".parse().unwrap(), &name("grown")).await.unwrap();
    let grown = add(&here, "grown", &disk(1, 5)).await;
    let found = here.index.read_image(&name("grown")).await.unwrap().unwrap();
    let mut cut = found.value;
    assert_eq!(cut.history.pop().unwrap().checkpoint, base);
    here.index.write_image(&cut, Some(&found.version)).await.unwrap();

    assert_eq!(run(&here, &there, "grown", "vm").await.unwrap().published, 1);
    assert_eq!(history(&there, "vm").await, [grown, base]);
    assert_eq!(run(&here, &there, "work", "vm").await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let (here, there) = (memory(), memory());
    add(&here, "vm1", &disk(1, 1)).await;
    let error = run(&here, &there, "vm", "vm").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.report().contains("vm1"), "{}", error.report());
}

/// Of two pushes of different checkpoints to one name one wins; the other is told, and its data is whole.
#[tokio::test]
async fn of_two_pushes_to_one_name_one_wins() {
    let (here, there) = (memory(), memory());
    let base = add(&here, "vm", &disk(1, 1)).await;
    run(&here, &there, "vm", "vm").await.unwrap();
    let other = memory();
    run(&here, &other, "vm", "vm").await.unwrap();
    let mine = add(&here, "vm", &disk(1, 2)).await;
    add(&other, "vm", &disk(1, 3)).await;

    for call in [Call::Sync, Call::WriteCatalog, Call::WriteImage] {
        for after in [false, true] {
            let target = memory();
            run(&here, &target, "vm~1", "vm").await.unwrap();
            let (faults, gate) = (FaultStore::new(target.clone(), 1), Arc::new(Gate::new()));
            let held = if after { Fault::HoldAfter(gate.clone()) } else { Fault::Hold(gate.clone()) };
            faults.script(call, 0, held);
            let slow = faults.store();
            let (late, _) = futures::join!(run(&other, &slow, "vm", "vm"), async {
                gate.arrived(1).await;
                let first = run(&here, &target, "vm", "vm").await;
                // Behind its record the late one was first.
                assert_eq!(first.is_err(), call == Call::WriteImage && after, "{call:?} {after}");
                gate.open();
            });
            if call == Call::WriteImage && after {
                late.unwrap();
            } else {
                assert_eq!(late.unwrap_err().kind(), ErrorKind::Conflict, "{call:?} {after}");
                assert_eq!(history(&target, "vm").await, [mine, base]);
            }
            super::assert_whole(&target).await;
        }
    }
}

/// Two that push the same, to a name that is new: both succeed, and it is there once.
#[tokio::test]
async fn two_pushes_of_the_same_are_one() {
    let here = memory();
    let only = add(&here, "vm", &disk(2, 1)).await;
    for call in [Call::Sync, Call::WriteCatalog, Call::WriteImage] {
        let target = memory();
        let (faults, gate) = (FaultStore::new(target.clone(), 1), Arc::new(Gate::new()));
        faults.script(call, 0, Fault::Hold(gate.clone()));
        let slow = faults.store();
        let (late, first) = futures::join!(run(&here, &slow, "vm", "vm"), async {
            gate.arrived(1).await;
            let first = run(&here, &target, "vm", "vm").await;
            gate.open();
            first
        });
        assert_eq!((late.unwrap().published, first.unwrap().published), (0, 1), "{call:?}");
        assert_eq!(history(&target, "vm").await, [only]);
    }
}
