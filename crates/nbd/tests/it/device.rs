//! A disk in memory that keeps a log of what was asked of it, can be told to wait, and to fail.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use gabion_store_core::{
    BlockDevice, Error, ErrorKind, Result,
    device::{Allocation, DeviceInfo, StatusExtent, ZeroMode},
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Unit of allocation, in bytes.
pub(crate) const BLOCK: usize = 4096;

/// What the device was asked to do, in order of completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Write(u64, usize),
    Trim(u64, u64),
    Zero(u64, u64, ZeroMode),
    Flush,
    Prefetch(u64, u64),
    Status(u64, u64, usize),
}

#[derive(Debug)]
pub(crate) struct MemDevice {
    pub(crate) info: DeviceInfo,
    /// Requests are answered at once where possible.
    pub(crate) fast: bool,
    bytes: Mutex<Vec<u8>>,
    /// Per block.
    allocation: Mutex<Vec<Allocation>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// Every asynchronous operation takes a permit; an open gate has very many.
    pub(crate) gate: Semaphore,
    /// Asynchronous operations that began.
    pub(crate) begun: AtomicUsize,
    /// Asynchronous operations that ended or were dropped.
    pub(crate) ended: AtomicUsize,
    /// What every operation fails with.
    pub(crate) fail: Mutex<Option<Error>>,
    pub(crate) panics: AtomicBool,
}

struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl MemDevice {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            info: DeviceInfo { size: size as u64, read_only: false, durable_flush: true, fast_zero: true },
            fast: true,
            bytes: Mutex::new(vec![0; size]),
            allocation: Mutex::new(vec![Allocation::Hole; size.div_ceil(BLOCK)]),
            calls: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            fail: Mutex::default(),
            panics: AtomicBool::new(false),
        }
    }

    /// With these bytes, all of them data.
    pub(crate) fn with_bytes(bytes: Vec<u8>) -> Self {
        let device = Self::new(bytes.len());
        device.allocation.lock().fill(Allocation::Data);
        *device.bytes.lock() = bytes;
        device
    }

    /// With bytes that differ in every block.
    pub(crate) fn patterned(size: usize) -> Self {
        Self::with_bytes((0..size).map(|at| (at / 7 + at / BLOCK) as u8).collect())
    }

    pub(crate) fn read_only(mut self) -> Self {
        self.info.read_only = true;
        self
    }

    /// Answers nothing at once.
    pub(crate) fn waiting(mut self) -> Self {
        self.fast = false;
        self
    }

    /// Answers nothing at all until [`Semaphore::add_permits`].
    pub(crate) fn gated(mut self) -> Self {
        self.gate = Semaphore::new(0);
        self.waiting()
    }

    pub(crate) fn contents(&self) -> Vec<u8> {
        self.bytes.lock().clone()
    }

    pub(crate) fn failing(self, kind: ErrorKind, message: &str) -> Self {
        *self.fail.lock() = Some(Error::new(kind, message));
        self
    }

    fn failure(&self) -> Result<()> {
        assert!(!self.panics.load(Ordering::SeqCst), "the device was told to panic");
        self.fail.lock().clone().map_or(Ok(()), Err)
    }

    async fn pass(&self) -> Result<Ended<'_>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let ended = Ended(&self.ended);
        self.gate.acquire().await.expect("the gate is never closed").forget();
        self.failure()?;
        Ok(ended)
    }

    fn get(&self, offset: u64, buf: &mut [u8]) {
        let start = offset as usize;
        buf.copy_from_slice(&self.bytes.lock()[start..start + buf.len()]);
    }

    fn put(&self, offset: u64, data: &[u8]) {
        let start = offset as usize;
        self.bytes.lock()[start..start + data.len()].copy_from_slice(data);
        self.mark(start / BLOCK, (start + data.len()).div_ceil(BLOCK), Allocation::Data);
        self.calls.lock().push(Call::Write(offset, data.len()));
    }

    fn mark(&self, first: usize, end: usize, allocation: Allocation) {
        if first < end {
            self.allocation.lock()[first..end].fill(allocation);
        }
    }
}

#[async_trait]
impl BlockDevice for MemDevice {
    fn info(&self) -> DeviceInfo {
        self.info
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        if !self.fast {
            // "`buf` may then hold anything."
            buf.fill(0xee);
            return None;
        }
        Some(self.failure().map(|()| self.get(offset, buf)))
    }

    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let _ended = self.pass().await?;
        self.get(offset, buf);
        Ok(())
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<()>> {
        self.fast.then(|| self.failure().map(|()| self.put(offset, data)))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        let _ended = self.pass().await?;
        self.put(offset, &data);
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        let _ended = self.pass().await?;
        let (first, end) = ((offset as usize).div_ceil(BLOCK), (offset + length) as usize / BLOCK);
        if first < end {
            self.bytes.lock()[first * BLOCK..end * BLOCK].fill(0);
            self.mark(first, end, Allocation::Hole);
        }
        self.calls.lock().push(Call::Trim(offset, length));
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> Result<()> {
        let _ended = self.pass().await?;
        let (start, end) = (offset as usize, (offset + length) as usize);
        self.bytes.lock()[start..end].fill(0);
        let allocation = if mode.no_hole { Allocation::Zero } else { Allocation::Hole };
        self.mark(start.div_ceil(BLOCK), end / BLOCK, allocation);
        self.calls.lock().push(Call::Zero(offset, length, mode));
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        let _ended = self.pass().await?;
        self.calls.lock().push(Call::Flush);
        Ok(())
    }

    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let _ended = self.pass().await?;
        self.calls.lock().push(Call::Status(offset, length, max));
        let blocks = self.allocation.lock();
        let mut extents: Vec<StatusExtent> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let block = at as usize / BLOCK;
            let next = ((block as u64 + 1) * BLOCK as u64).min(end);
            let full = extents.len() == max;
            match extents.last_mut() {
                Some(last) if last.allocation == blocks[block] => last.length += next - at,
                _ if full => break,
                _ => extents.push(StatusExtent { length: next - at, allocation: blocks[block] }),
            }
            at = next;
        }
        Ok(extents)
    }

    async fn prefetch(&self, offset: u64, length: u64) -> Result<()> {
        let _ended = self.pass().await?;
        self.calls.lock().push(Call::Prefetch(offset, length));
        Ok(())
    }
}

/// Waits until `done`, without sleeping.
pub(crate) async fn until(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::client::DEADLINE, waiting).await.expect("it comes about");
}

/// A device for several owners.
pub(crate) fn shared(device: MemDevice) -> Arc<MemDevice> {
    Arc::new(device)
}
