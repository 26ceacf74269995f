//! A lazy base: a disk that is served at once and ingested in the background.

use std::sync::Arc;

use super::{Alone, Base, BaseSource, CheckpointOptions, Home, IndexBase, Shared};
use crate::{
    BLOCK_SIZE, Result,
    chunking::{DiskSource, Next},
    format::checkpoint::Checkpoint,
    index::Index,
    ops::{Job, ingest, pin, store_checkpoint},
};

impl Shared {
    /// Ingests the base if it is a source still, and stands on the result. `alone` is the right to.
    pub(super) async fn complete_base(
        self: &Arc<Self>,
        alone: &Alone,
        home: &Home,
        options: &CheckpointOptions,
        job: &Job,
    ) -> Result<()> {
        let view = self.view();
        let Base::Source(source) = &*view.base else { return Ok(()) };
        source.check()?;
        let disk = WholeSource { source: Arc::clone(source), at: 0 };
        let ingested =
            ingest(Index::new(Arc::clone(&home.nodes), None, 0), disk, options.ingest, job).await?;
        // Only a source that is still what it was has been read as one disk.
        source.check()?;
        let checkpoint = Checkpoint::new(ingested.size, ingested.index.root(), home.clock.now())?;
        let id = store_checkpoint(&home.store, &checkpoint).await?;
        // It has no name, so nothing but its pin makes it a root.
        pin(&home.store, &*home.clock, options.owner, id).await?;
        self.stand_on(alone, (id, IndexBase::new(ingested.index)), 0).await
    }
}

/// Reads a source from its start to its end.
struct WholeSource {
    source: Arc<dyn BaseSource>,
    at: u64,
}

impl DiskSource for WholeSource {
    fn size(&self) -> Option<u64> {
        Some(self.source.size())
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let size = self.source.size();
        if self.at == size {
            return Ok(Next::End);
        }
        let (hole, end) = self.source.first_run(self.at, size)?;
        if hole {
            let len = end - self.at;
            self.at = end;
            return Ok(Next::Zero(len));
        }
        let len = (end - self.at).min(buf.len() as u64) as usize;
        debug_assert!(len > 0 && buf.len() >= BLOCK_SIZE.min(len));
        self.source.read(self.at, &mut buf[..len])?;
        self.at += len as u64;
        Ok(Next::Data(len))
    }
}
