//! Races and failures that a test has to set up by hand.

use std::sync::mpsc;

use super::*;
use crate::{
    ChunkKind,
    overlay::Overlay,
    testing::{BadEntry, FaultStore},
};

/// Holds a volume's barrier on another thread, as a slow write does, until the sender is dropped.
fn hold_barrier(volume: &Volume) -> (mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (release, released) = mpsc::channel::<()>();
    let (held, is_held) = mpsc::channel();
    let shared = Arc::clone(&volume.shared);
    let thread = std::thread::spawn(move || {
        let _barrier = shared.barrier.write();
        held.send(()).unwrap();
        let _ended = released.recv();
    });
    is_held.recv().unwrap();
    (release, thread)
}

/// A disk grows inside its last block, whose new bytes are written while a trim or zeroing that was asked for
/// before is still on its way: it must leave them alone.
#[tokio::test]
async fn what_zeroes_up_to_the_end_spares_what_the_disk_grows_by() {
    for trim in [true, false] {
        let overlay = Arc::new(MemoryOverlay::new(5000));
        let volume = Volume::writable("volume 'vm'", Arc::clone(&overlay) as _, Base::Empty, None, 5000);
        volume.write(0, Bytes::from(vec![1; 5000])).await.unwrap();
        let (release, thread) = hold_barrier(&volume);
        let zeroing = async {
            match trim {
                true => volume.trim(0, 5000).await,
                false => volume.write_zeroes(0, 5000, ZeroMode::default()).await,
            }
        };
        let mut zeroing = std::pin::pin!(zeroing);
        assert!(futures::poll!(&mut zeroing).is_pending());
        volume.grow(6000).await.unwrap();
        // As a write of the new bytes leaves the block.
        let mut block = vec![1; 904];
        block.resize(BLOCK_SIZE, 2);
        overlay.layers()[0].write(1, &block).unwrap();
        drop(release);
        thread.join().unwrap();
        zeroing.await.unwrap();
        let all = content(&volume).await;
        assert!(all[..4096].iter().all(|byte| *byte == 0));
        assert!(all[5000..].iter().all(|byte| *byte == 2), "what was written to the grown disk is gone");
        assert!(trim || all[4096..5000].iter().all(|byte| *byte == 0));
    }
}

/// Windows in many pieces are rewritten with blocks of the base. If these are damaged, what the layers hold
/// gets into the store nevertheless.
#[tokio::test]
async fn a_damaged_base_does_not_end_checkpoints() {
    let faults = FaultStore::new(memory(), 1);
    let store = faults.store();
    let disk = noise(256 << 10, 5);
    let options_of_import = ImportOptions::default();
    import(&store, &clock(), &name("vm"), Disk::new(disk), options_of_import, &Job::default()).await.unwrap();
    let volume = fork(&store, "vm").await;
    for block in (0..64).step_by(2) {
        volume.write(block * BLOCK_SIZE as u64, vec![9; BLOCK_SIZE].into()).await.unwrap();
    }
    let entry = resolve(&store, &"vm".parse().unwrap()).await.unwrap();
    let (_, index) = open_checkpoint(&nodes(&store), entry.checkpoint).await.unwrap();
    for block in 0..64 {
        let found = index.find(BlockRange::new(block, 64)).await.unwrap().target.unwrap();
        faults.break_entry(ChunkKind::Data, found.chunk, BadEntry::Missing);
    }
    volume.checkpoint(&home(&store), &options(&name("vm")), &Job::default()).await.unwrap();
    let mut block = vec![0; BLOCK_SIZE];
    volume.read(62 * BLOCK_SIZE as u64, &mut block).await.unwrap();
    assert_eq!(block, [9; BLOCK_SIZE]);
    assert_eq!(volume.local_blocks(), 0);
    assert_eq!(volume.read(63 * BLOCK_SIZE as u64, &mut block).await.unwrap_err().kind(), ErrorKind::Corrupt);
}
