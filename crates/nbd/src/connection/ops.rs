//! Requests that have to wait for the device, and the forms of their replies.

use bytes::Bytes;
use gabion_store_core::{
    BlockDevice, Error, Result,
    device::{Allocation, StatusExtent, ZeroMode},
};
use tracing::warn;

use crate::{
    errno::{Errno, errno_of},
    handshake::ALLOCATION_CONTEXT,
    proto::{
        STATE_HOLE, STATE_ZERO, cmd, cmd_flag,
        reply::{READ_PREFIX, SimpleReply, block_status, error, read_prefix},
        request::Request,
    },
    terms::Op,
};

/// Most extents in one answer to a block-status request; the client asks again for the rest.
const MAX_EXTENTS: usize = 4096;

/// The form of replies of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) structured: bool,
}

impl Answer {
    /// Length of what stands before the data of a read, in bytes.
    pub(super) fn read_prefix_len(self) -> usize {
        if self.structured { READ_PREFIX } else { SimpleReply::LEN }
    }

    /// Writes what stands before the data of a read that succeeded, of which nothing can fail any more.
    pub(super) fn write_read_prefix(self, request: &Request, prefix: &mut [u8]) {
        if self.structured {
            prefix.copy_from_slice(&read_prefix(request.cookie, request.offset, request.length));
        } else {
            prefix.copy_from_slice(&SimpleReply { error: 0, cookie: request.cookie }.encode());
        }
    }

    /// An error reply.
    pub(super) fn failure(self, cookie: u64, errno: Errno, why: &str) -> Vec<u8> {
        if self.structured {
            error(cookie, errno, why)
        } else {
            SimpleReply { error: errno as u32, cookie }.encode().into()
        }
    }

    /// The reply to a request that the device failed, which is logged.
    pub(super) fn device_failure(self, request: &Request, error: &Error) -> Vec<u8> {
        let fast_zero = request.command == cmd::WRITE_ZEROES && request.flags & cmd_flag::FAST_ZERO != 0;
        let errno = errno_of(error.kind(), fast_zero);
        if errno != Errno::NotSup {
            warn!(?request, ?errno, error = %error.report(), "request failed");
        }
        self.failure(request.cookie, errno, &error.to_string())
    }
}

/// A request that may have to wait.
#[derive(Debug)]
pub(super) enum Job {
    Read,
    Write { payload: Bytes, fua: bool },
    Flush,
    Trim { fua: bool },
    WriteZeroes { mode: ZeroMode, fua: bool },
    Cache,
    BlockStatus { one: bool },
}

impl Job {
    /// The job of a request that has no payload in either direction; `None` for the others.
    pub(super) fn of(op: Op) -> Option<Self> {
        match op {
            Op::Flush => Some(Self::Flush),
            Op::Trim { fua } => Some(Self::Trim { fua }),
            Op::WriteZeroes { mode, fua } => Some(Self::WriteZeroes { mode, fua }),
            Op::Cache => Some(Self::Cache),
            Op::BlockStatus { one } => Some(Self::BlockStatus { one }),
            Op::Read | Op::Write { .. } | Op::Disconnect => None,
        }
    }

    /// Does it; the whole reply.
    pub(super) async fn run(self, device: &dyn BlockDevice, answer: Answer, request: &Request) -> Vec<u8> {
        match self.reply(device, answer, request).await {
            Ok(reply) => reply,
            Err(error) => answer.device_failure(request, &error),
        }
    }

    async fn reply(self, device: &dyn BlockDevice, answer: Answer, request: &Request) -> Result<Vec<u8>> {
        let (offset, length) = (request.offset, u64::from(request.length));
        let durable = match self {
            Self::Read => {
                let prefix = answer.read_prefix_len();
                let mut reply = vec![0; prefix + request.length as usize];
                device.read(offset, &mut reply[prefix..]).await?;
                answer.write_read_prefix(request, &mut reply[..prefix]);
                return Ok(reply);
            }
            Self::BlockStatus { one } => {
                let max = if one { 1 } else { MAX_EXTENTS };
                let extents = device.status(offset, length, max).await?;
                let extents = on_the_wire(&extents, request.length, max)?;
                return Ok(block_status(request.cookie, ALLOCATION_CONTEXT, &extents));
            }
            Self::Write { payload, fua } => {
                device.write(offset, payload).await?;
                fua
            }
            Self::Trim { fua } => {
                device.trim(offset, length).await?;
                fua
            }
            Self::WriteZeroes { mode, fua } => {
                device.write_zeroes(offset, length, mode).await?;
                fua
            }
            Self::Cache => {
                device.prefetch(offset, length).await?;
                false
            }
            Self::Flush => true,
        };
        if durable {
            device.flush().await?;
        }
        Ok(SimpleReply { error: 0, cookie: request.cookie }.encode().into())
    }
}

/// Extents as the protocol has them: never empty, neighbours merged, never beyond the request.
fn on_the_wire(extents: &[StatusExtent], length: u32, max: usize) -> Result<Vec<(u32, u32)>> {
    let mut left = length;
    let mut wire: Vec<(u32, u32)> = Vec::with_capacity(extents.len().min(max));
    for extent in extents {
        let length = u32::try_from(extent.length).map_or(left, |length| length.min(left));
        let state = match extent.allocation {
            Allocation::Data => 0,
            Allocation::Zero => STATE_ZERO,
            Allocation::Hole => STATE_HOLE | STATE_ZERO,
        };
        left -= length;
        let room = wire.len() < max;
        match wire.last_mut() {
            _ if length == 0 => {}
            Some(last) if last.1 == state => last.0 += length,
            _ if room => wire.push((length, state)),
            _ => break,
        }
    }
    if wire.is_empty() {
        return Err(Error::corrupt("the device gave no extent for a block-status request"));
    }
    Ok(wire)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent() -> impl Strategy<Value = StatusExtent> {
        let allocation = prop_oneof![Just(Allocation::Data), Just(Allocation::Zero), Just(Allocation::Hole)];
        let length = prop_oneof![0..100_u64, Just(u64::MAX), Just(1 << 32)];
        (length, allocation).prop_map(|(length, allocation)| StatusExtent { length, allocation })
    }

    proptest! {
        /// Whatever a device says, the client gets what the protocol allows.
        #[test]
        fn extents_are_legal(
            extents in prop::collection::vec(extent(), 0..20),
            length in 1..500_u32,
            max in 1..10_usize,
        ) {
            match on_the_wire(&extents, length, max) {
                Err(_) => prop_assert!(extents.iter().all(|extent| extent.length == 0)),
                Ok(wire) => {
                    prop_assert!((1..=max).contains(&wire.len()));
                    prop_assert!(wire.iter().all(|(length, state)| *length > 0 && *state != STATE_HOLE));
                    prop_assert!(wire.windows(2).all(|pair| pair[0].1 != pair[1].1));
                    prop_assert!(wire.iter().map(|(length, _)| u64::from(*length)).sum::<u64>() <= u64::from(length));
                }
            }
        }
    }
}
