//! [`FlushRemote`]: a disk whose FLUSH reaches the volume's home store.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::Replicator;
use crate::{
    BlockDevice, Result,
    device::{DeviceInfo, StatusExtent, ZeroMode},
};

/// A device in front of a volume: a flush is answered once the volume's image holds everything answered before.
///
/// **Durability**: a flush makes everything durable on this host first, then publishes a checkpoint that holds it;
/// FLUSHes that arrive together share one. **Errors**: if home can't be reached, the FLUSH fails, what it
/// should have published is owed to the next, and the volume is not poisoned by it: writes go on.
#[derive(Debug)]
pub struct FlushRemote {
    inner: Arc<dyn BlockDevice>,
    replicator: Arc<Replicator>,
    local: Arc<AtomicBool>,
}

impl FlushRemote {
    /// Puts remote flushes in front of `inner`, which is the replicator's volume or stands in front of it. Once
    /// `local` is set a flush stops at this host: for the last one of a server, when no client is left that would
    /// take it for more.
    pub fn new(inner: Arc<dyn BlockDevice>, replicator: Arc<Replicator>, local: Arc<AtomicBool>) -> Self {
        Self { inner, replicator, local }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl BlockDevice for FlushRemote {
    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        self.inner.try_read(offset, buf)
    }

    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read(offset, buf).await
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<()>> {
        self.inner.try_write(offset, data)
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.inner.write(offset, data).await
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.trim(offset, length).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> Result<()> {
        self.inner.write_zeroes(offset, length, mode).await
    }

    async fn flush(&self) -> Result<()> {
        self.inner.flush().await?;
        if self.local.load(Ordering::Acquire) {
            return Ok(());
        }
        self.replicator.round().await
    }

    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>> {
        self.inner.status(offset, length, max).await
    }

    async fn prefetch(&self, offset: u64, length: u64) -> Result<()> {
        self.inner.prefetch(offset, length).await
    }
}
