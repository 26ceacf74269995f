//! Callers that go away in the middle of a checkpoint, after each number of polls.

use std::{
    future::poll_fn,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use gabion_store_core::{BlockDevice as _, testing::Rng, volume::Volume};
use gabion_store_local::fs::MemFs;

use super::rig::{Rig, whole};

/// Writes whole and partial blocks, and zeros.
pub(crate) async fn scribble(volume: &Volume, disk: &mut [u8], seed: u64) {
    let mut rng = Rng::new(seed);
    for _ in 0..8 {
        let at = rng.below(disk.len());
        let len = (1 + rng.below(9000)).min(disk.len() - at);
        let data = rng.bytes(len);
        disk[at..at + len].copy_from_slice(&data);
        volume.write(at as u64, Bytes::from(data)).await.unwrap();
        let at = rng.below(disk.len());
        let len = (1 + rng.below(9000)).min(disk.len() - at);
        disk[at..at + len].fill(0);
        volume.write_zeroes(at as u64, len as u64, Default::default()).await.unwrap();
    }
}

/// Polls a future so many times, unless it ends before.
async fn some_of<T>(mut future: Pin<&mut impl Future<Output = T>>, polls: usize) -> Option<T> {
    let mut polled = 0;
    poll_fn(|cx| {
        if polled == polls {
            return Poll::Ready(None);
        }
        polled += 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_dropped_after_any_poll_is_made_up_for() {
    let rig = Rig::new(Arc::new(MemFs::new()), Path::new("/"), 300_001);
    let opened = rig.open(rig.store()).await;
    let mut disk = vec![0; 300_001];
    let mut ended = 0;
    for polls in 0..200 {
        scribble(&opened.volume, &mut disk, polls as u64).await;
        let made = some_of(pin!(opened.checkpoint()), polls).await;
        // Whatever the dropped one left running must not undo what comes now.
        scribble(&opened.volume, &mut disk, 1000 + polls as u64).await;
        assert!(whole(&opened.volume).await == disk, "after {polls} polls");
        if polls % 3 == 0 {
            let id =
                opened.checkpoint().await.unwrap_or_else(|e| panic!("after {polls} polls: {}", e.report()));
            assert!(rig.content(id).await == disk, "after {polls} polls");
            assert_eq!(opened.overlay.inner.record().layers.len(), 1, "after {polls} polls");
        }
        ended += usize::from(made.is_some());
        if ended == 5 {
            break;
        }
    }
    assert_eq!(ended, 5, "no checkpoint came to its end");
    opened.checkpoint().await.unwrap();
    opened.volume.flush().await.unwrap();
    drop(opened);
    let opened = rig.open(rig.store()).await;
    assert!(whole(&opened.volume).await == disk);
    rig.assert_whole().await;
}
