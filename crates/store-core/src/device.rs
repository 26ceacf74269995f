//! [`BlockDevice`]: what a front end such as the NBD server sees of a disk. Nothing here knows chunks.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::Result;

/// What a device is and can do. Constant for the life of an export's connection, except that `size`
/// may have grown for later connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Size in bytes.
    pub size: u64,
    /// Writes of every kind answer `ReadOnly`.
    pub read_only: bool,
    /// A successful [`BlockDevice::flush`] makes all that was answered before it durable. False for a
    /// device with no durable layer, which then must not promise it.
    pub durable_flush: bool,
    /// `write_zeroes` with `fast` is understood.
    pub fast_zero: bool,
}

/// How [`BlockDevice::write_zeroes`] may reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ZeroMode {
    /// The range must stay allocated: zeros are written as data.
    pub no_hole: bool,
    /// Answer `Unsupported` at once rather than write zeros slowly.
    pub fast: bool,
}

/// What is known of a run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Holds data.
    Data,
    /// Allocated, reads as zeros.
    Zero,
    /// Not allocated, reads as zeros.
    Hole,
}

/// A run of bytes of one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusExtent {
    /// Length in bytes, never 0.
    pub length: u64,
    /// What the run is.
    pub allocation: Allocation,
}

/// A disk of bytes, shared by every connection to it.
///
/// **Ranges**: callers have checked them: `offset <= size && length <= size - offset`, `length > 0`.
/// Any alignment is allowed.
///
/// **Ordering**: a request's effect is visible to every request that starts after it was answered.
/// Overlapping requests in flight together are each whole per 512-byte sector, in no order.
///
/// **Durability**: none until [`flush`](Self::flush) succeeds, which covers every write, trim and zero
/// answered before it began, whoever sent it.
///
/// **Errors**: a read never invents zeros for data that can't be had.
///
/// **Cancel safety**: dropping a future leaves each sector of a write old or new.
#[async_trait]
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// What the device is.
    fn info(&self) -> DeviceInfo;

    /// Reads if that needs no waiting: no disk, no network, no decompression, no allocation. `None`
    /// means "use [`read`](Self::read)", and `buf` may then hold anything.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let _ = (offset, buf);
        None
    }

    /// Fills `buf` from `offset`.
    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Writes if that needs no more than a copy into the page cache. `None` means nothing was written:
    /// use [`write`](Self::write).
    fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<()>> {
        let _ = (offset, data);
        None
    }

    /// Writes `data` at `offset`.
    async fn write(&self, offset: u64, data: Bytes) -> Result<()>;

    /// Discards what can be discarded of a range: whole blocks read as zeros afterwards, partial blocks
    /// at the edges are left as they are.
    async fn trim(&self, offset: u64, length: u64) -> Result<()>;

    /// Makes a range read as zeros, partial blocks included.
    async fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> Result<()>;

    /// Makes everything answered before this call durable.
    async fn flush(&self) -> Result<()>;

    /// Allocation from `offset` on: at least one extent, at most `max`, together no longer than `length`
    /// and starting at `offset`. Neighbouring extents differ.
    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>>;

    /// Brings a range into the cache, as far as there is one. A hint: errors surface at the read.
    async fn prefetch(&self, offset: u64, length: u64) -> Result<()> {
        let _ = (offset, length);
        Ok(())
    }
}
