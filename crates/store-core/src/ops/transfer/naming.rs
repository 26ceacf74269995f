//! What has arrived becomes known to the target's other handles while more is on its way: a rerun, which is one,
//! finds it, however the transfer ended.

use super::send::died;
use crate::{
    Result, Store,
    ops::publish::name_entries,
    sync::{AbortOnDropHandle, spawn},
};

/// Names what was put, one part after the other, beside the transfer.
pub(super) struct Naming {
    store: Store,
    /// Bytes of a part.
    every: u64,
    /// Bytes sent when a part was named last.
    named: u64,
    /// Names a part.
    task: Option<AbortOnDropHandle<Result<()>>>,
}

impl Naming {
    /// Begins at `sent` bytes.
    pub(super) fn new(store: &Store, every: u64, sent: u64) -> Self {
        Self { store: store.clone(), every, named: sent, task: None }
    }

    /// `sent` bytes were put by now. Waits only if a whole part came while the last one was being named; **errors**
    /// are those of that one.
    pub(super) async fn follow(&mut self, sent: u64) -> Result<()> {
        if sent - self.named < self.every {
            return Ok(());
        }
        self.finish().await?;
        self.named = sent;
        let store = self.store.clone();
        self.task = Some(AbortOnDropHandle::new(spawn(async move { name_entries(&store).await })));
        Ok(())
    }

    /// Waits for what is being named.
    pub(super) async fn finish(&mut self) -> Result<()> {
        match self.task.take() {
            Some(task) => task.await.map_err(died)?,
            None => Ok(()),
        }
    }
}
