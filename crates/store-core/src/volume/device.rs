//! A volume as a block device.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Base, Place, Shared, Volume, prefetch,
    write::{Attempt, Content, Fills, is_durable},
};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockRange, Error, ErrorKind, Result,
    blocking::spawn_blocking,
    device::{Allocation, DeviceInfo, StatusExtent, ZeroMode},
    types::check_range,
};

/// Zeros that must be allocated are written in pieces of this many bytes.
const ZERO_PIECE: u64 = 1024 * 1024;
/// Prefetching of what is not in a store reads this much at a time.
const PREFETCH_PIECE: u64 = 4 * 1024 * 1024;

#[async_trait]
impl BlockDevice for Volume {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.size(),
            read_only: self.shared.overlay.is_none(),
            durable_flush: is_durable(self.shared.overlay.as_ref()),
            fast_zero: self.shared.overlay.is_some(),
        }
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let view = self.shared.view();
        if let Err(error) = check_range(offset, buf.len() as u64, view.size) {
            return Some(Err(error));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, end) = view.place(BlockRange::covering(at, (buf.len() - done) as u64));
            let len = run_len(at, end, buf.len() - done);
            let to = &mut buf[done..done + len];
            let read = match place {
                Place::Zero => {
                    to.fill(0);
                    Ok(())
                }
                Place::Layer(layer) => layer.try_read(at, to)?,
                Place::Base => view.base.try_read(at, to)?,
            };
            if let Err(error) = read {
                return Some(Err(self.shared.failed(format_args!("reading at {at}"), error)));
            }
            done += len;
        }
        Some(Ok(()))
    }

    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let view = self.shared.view();
        check_range(offset, buf.len() as u64, view.size)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, end) = view.place(BlockRange::covering(at, (buf.len() - done) as u64));
            let len = run_len(at, end, buf.len() - done);
            let to = &mut buf[done..done + len];
            let read = match place {
                Place::Zero => {
                    to.fill(0);
                    Ok(())
                }
                Place::Layer(layer) => {
                    let (layer, mut bytes) = (Arc::clone(layer), vec![0; len]);
                    off_thread(move || layer.read(at, &mut bytes).map(|()| bytes))
                        .await
                        .map(|bytes| to.copy_from_slice(&bytes))
                }
                Place::Base => view.base.read(at, to).await,
            };
            read.map_err(|error| self.shared.failed(format_args!("reading at {at}"), error))?;
            done += len;
        }
        Ok(())
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<()>> {
        let attempt = check_range(offset, data.len() as u64, self.size())
            .and_then(|()| self.shared.attempt_write(offset, Content::Data(data), &Fills::default(), false));
        match attempt {
            Ok(Attempt::Done) => Some(Ok(())),
            Ok(Attempt::Needs(..) | Attempt::WouldWait) => None,
            Err(error) => Some(Err(self.shared.failed(format_args!("writing at {offset}"), error))),
        }
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        check_range(offset, data.len() as u64, self.size())?;
        self.shared
            .write(offset, Written::Data(data))
            .await
            .map_err(|error| self.shared.failed(format_args!("writing at {offset}"), error))
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        check_range(offset, length, self.size())?;
        self.shared
            .zero(offset, length)
            .await
            .map(drop)
            .map_err(|error| self.shared.failed(format_args!("trimming {length} bytes at {offset}"), error))
    }

    async fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> Result<()> {
        check_range(offset, length, self.size())?;
        if mode.no_hole && mode.fast {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "zeros that stay allocated are never written fast",
            ));
        }
        let zeroed = async {
            if mode.no_hole {
                return self.shared.write_zeros(offset, length).await;
            }
            let whole = self.shared.zero(offset, length).await?;
            if whole.is_empty() {
                return self.shared.write_zeros(offset, length).await;
            }
            let (start, end) = (whole.byte_start(), (whole.end * BLOCK_SIZE as u64).min(offset + length));
            self.shared.write_zeros(offset, start - offset).await?;
            self.shared.write_zeros(end, offset + length - end).await
        };
        zeroed
            .await
            .map_err(|error| self.shared.failed(format_args!("zeroing {length} bytes at {offset}"), error))
    }

    async fn flush(&self) -> Result<()> {
        match &self.shared.overlay {
            Some(overlay) => overlay.flush().await.map_err(|error| self.shared.failed("flushing", error)),
            None => Ok(()),
        }
    }

    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>> {
        let view = self.shared.view();
        check_range(offset, length, view.size)?;
        let mut extents: Vec<StatusExtent> = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let range = BlockRange::covering(at, end - at);
            let (place, run) = view.place(range);
            let (allocation, run) = match place {
                Place::Zero => (Allocation::Hole, run),
                Place::Layer(_) => (Allocation::Data, run),
                Place::Base => {
                    let (zero, run) = view
                        .base
                        .first_run(BlockRange::new(range.start, run))
                        .await
                        .map_err(|error| self.shared.failed(format_args!("mapping at {at}"), error))?;
                    (if zero { Allocation::Hole } else { Allocation::Data }, run)
                }
            };
            let run = (run * BLOCK_SIZE as u64).min(end) - at;
            let full = extents.len() == max;
            match extents.last_mut() {
                Some(last) if last.allocation == allocation => last.length += run,
                _ if full => break,
                _ => extents.push(StatusExtent { length: run, allocation }),
            }
            at += run;
        }
        Ok(extents)
    }

    async fn prefetch(&self, offset: u64, length: u64) -> Result<()> {
        check_range(offset, length, self.size())?;
        if matches!(&*self.shared.view().base, Base::Index(_)) {
            return prefetch::range(&self.shared, BlockRange::covering(offset, length)).await;
        }
        let mut buf = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let piece = (end - at).min(PREFETCH_PIECE);
            buf.resize(piece as usize, 0);
            if self.try_read(at, &mut buf).is_none() {
                self.read(at, &mut buf).await?;
            }
            at += piece;
        }
        Ok(())
    }
}

/// What a write writes, owned, because it may go to another thread.
#[derive(Clone)]
enum Written {
    Data(Bytes),
    Zeros(u64),
}

impl Written {
    fn content(&self) -> Content<'_> {
        match self {
            Self::Data(data) => Content::Data(data),
            Self::Zeros(length) => Content::Zeros(*length),
        }
    }
}

impl Shared {
    async fn write(self: &Arc<Self>, offset: u64, what: Written) -> Result<()> {
        let mut fills = Fills::default();
        loop {
            let (shared, what) = (Arc::clone(self), what.clone());
            let attempt;
            (attempt, fills) = off_thread(move || {
                let attempt = shared.attempt_write(offset, what.content(), &fills, true)?;
                Ok((attempt, fills))
            })
            .await?;
            match attempt {
                Attempt::Done => return Ok(()),
                Attempt::Needs(base, block) => {
                    let mut content = vec![0; BLOCK_SIZE];
                    base.read(block * BLOCK_SIZE as u64, &mut content).await?;
                    fills.add(base, block, content);
                }
                Attempt::WouldWait => {}
            }
        }
    }

    async fn write_zeros(self: &Arc<Self>, offset: u64, length: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            // Pieces end at block boundaries, so that only the edges are partial.
            let stop = (at + ZERO_PIECE) / BLOCK_SIZE as u64 * BLOCK_SIZE as u64;
            let piece = stop.min(end) - at;
            self.write(at, Written::Zeros(piece)).await?;
            at += piece;
        }
        Ok(())
    }

    async fn zero(self: &Arc<Self>, offset: u64, length: u64) -> Result<BlockRange> {
        let shared = Arc::clone(self);
        off_thread(move || shared.zero_blocks(offset, length)).await
    }
}

/// Runs what may wait for the disk where that holds up no connection.
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|e| Error::with_source(ErrorKind::Unavailable, "a request died", e))?
}

fn run_len(at: u64, end: u64, left: usize) -> usize {
    let run = end * BLOCK_SIZE as u64 - at;
    usize::try_from(run).map_or(left, |run| run.min(left))
}
