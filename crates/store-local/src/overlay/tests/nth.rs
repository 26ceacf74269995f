//! One fault at each operation of a fixed life: what was flushed is there after a reopen, and whatever was
//! not flushed is old or new.

use std::collections::HashSet;

use gabion_store_core::{CheckpointId, ErrorKind, Result};

use super::*;
use crate::fs::{FaultFs, FsFault, On};

const BLOCKS: u64 = 40;

/// The disk as its layers show it, and what each block may hold after a reopen.
struct Disk {
    allowed: Vec<HashSet<Content>>,
    now: Vec<Content>,
}

impl Disk {
    fn new() -> Self {
        let now = vec![Content::Base; BLOCKS as usize];
        Self { allowed: now.iter().map(|&content| HashSet::from([content])).collect(), now }
    }

    fn set(&mut self, first: u64, count: u64, content: Content, done: &Result<()>) {
        for block in first as usize..(first + count) as usize {
            self.allowed[block].insert(content);
            if content == Content::Zero {
                // Punched, with the mark not flushed.
                self.allowed[block].insert(Content::Fill(0));
            }
            if done.is_ok() {
                self.now[block] = content;
            }
        }
    }

    fn flushed(&mut self) {
        for (allowed, now) in self.allowed.iter_mut().zip(&self.now) {
            allowed.retain(|content| content == now);
        }
    }
}

/// What the layers show together.
fn view(overlay: &LocalOverlay) -> Vec<Content> {
    let mut view = vec![Content::Base; BLOCKS as usize];
    for layer in overlay.layers().iter().rev() {
        for (shown, here) in view.iter_mut().zip(contents(&**layer, BLOCKS)) {
            if here != Content::Base {
                *shown = here;
            }
        }
    }
    view
}

/// Lives until something other than a full disk fails. The errors that were seen.
async fn live(overlay: &LocalOverlay, disk: &mut Disk) -> Vec<ErrorKind> {
    let mut errors = Vec::new();
    let mut note = |result: Result<()>| {
        let error = result.err().map(|error| error.kind());
        errors.extend(error);
        error
    };
    for round in 0..6u8 {
        let at = u64::from(round) * 3;
        let top = top(overlay);
        let done = fill(&*top, at, 6, round + 1);
        disk.set(at, 6, Content::Fill(round + 1), &done);
        note(done);
        let done = top.zero(BlockRange::new(at + 2, at + 4));
        disk.set(at + 2, 2, Content::Zero, &done);
        note(done);
        let done = overlay.flush().await;
        if done.is_ok() {
            disk.flushed();
        }
        note(done);
        match round {
            1 | 3 => drop(note(overlay.push_layer().await.map(drop))),
            2 => drop(note(overlay.grow(BLOCKS * 4096 + 8192).await)),
            4 => {
                let bottom = contents(&**overlay.layers().last().unwrap(), BLOCKS);
                let count = overlay.layers().len() - 1;
                if count == 2 {
                    let done = overlay.rebase(CheckpointId::from_bytes([9; 32]), 1).await;
                    for (block, bottom) in bottom.into_iter().enumerate() {
                        if bottom == disk.now[block] {
                            // It may be the bottom's: then it is the new base's now.
                            disk.allowed[block].insert(Content::Base);
                        }
                    }
                    if done.is_ok() {
                        disk.now = view(overlay);
                    }
                    note(done);
                }
            }
            _ => {}
        }
    }
    errors
}

async fn fail_each(fault: FsFault) {
    for n in 1.. {
        let fs = FaultFs::new(Arc::new(MemFs::new()));
        let dynamic: Arc<dyn Fs> = Arc::new(fs.clone());
        let overlay = create(&dynamic, BLOCKS);
        let mut disk = Disk::new();
        fs.fail(On::change().skip(n - 1), fault);
        let errors = live(&overlay, &mut disk).await;
        let failed = fs.heal();
        if let Some(first) = errors.first() {
            // A full disk is said to be one, unless the fault hit a sync.
            let poisoned = errors.contains(&ErrorKind::Poisoned);
            assert!(poisoned || fault == FsFault::ENOSPC || errors.len() == 1, "{n}: {errors:?}");
            assert!(poisoned || fault != FsFault::ENOSPC || *first == ErrorKind::NoSpace);
        }
        drop(overlay);
        let overlay = open(&dynamic);
        for (block, shown) in view(&overlay).into_iter().enumerate() {
            let allowed = &disk.allowed[block];
            assert!(
                allowed.contains(&shown),
                "{fault:?} at {n}: block {block} is {shown:?}, allowed {allowed:?}"
            );
        }
        fill(&*top(&overlay), 0, 1, 99).unwrap();
        overlay.flush().await.unwrap();
        drop(overlay);
        assert_eq!(view(&open(&dynamic))[0], Content::Fill(99));
        if !failed {
            assert!(errors.is_empty());
            assert!(n > 50, "the life is shorter than thought: {n}");
            return;
        }
    }
}

#[tokio::test]
async fn an_io_error_anywhere() {
    fail_each(FsFault::EIO).await;
}

#[tokio::test]
async fn a_full_disk_anywhere() {
    fail_each(FsFault::ENOSPC).await;
}
