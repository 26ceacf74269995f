//! What a session agreed on, and the one place where requests are checked against it.

use gabion_store_core::device::{DeviceInfo, ZeroMode};

use crate::{
    errno::Errno,
    limits::MAX_PAYLOAD,
    proto::{cmd, cmd_flag, request::Request, transmission},
};

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    /// The device, as it was when the handshake ended.
    pub(crate) info: DeviceInfo,
    /// Structured replies.
    pub(crate) structured: bool,
    /// The context `base:allocation` is selected.
    pub(crate) allocation: bool,
}

/// A request that is known to be good: its range lies within the device and its flags are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Read,
    Write { fua: bool },
    Flush,
    Trim { fua: bool },
    WriteZeroes { mode: ZeroMode, fua: bool },
    Cache,
    BlockStatus { one: bool },
    Disconnect,
}

/// A request that is answered with an error, without asking the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) why: &'static str,
}

const fn refuse<T>(errno: Errno, why: &'static str) -> Result<T, Refusal> {
    Err(Refusal { errno, why })
}

/// Transmission flags of a device: nothing that it can't do.
pub(crate) fn transmission_flags(info: &DeviceInfo, structured: bool) -> u16 {
    let mut flags = transmission::HAS_FLAGS | transmission::SEND_CACHE;
    if structured {
        flags |= transmission::SEND_DF;
    }
    if info.read_only {
        return flags | transmission::READ_ONLY | transmission::CAN_MULTI_CONN;
    }
    flags |= transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES;
    if info.fast_zero {
        flags |= transmission::SEND_FAST_ZERO;
    }
    if info.durable_flush {
        // A device is one object for all connections, and its flush covers whoever wrote.
        flags |= transmission::SEND_FLUSH | transmission::SEND_FUA | transmission::CAN_MULTI_CONN;
    }
    flags
}

impl Terms {
    /// Checks a request. What it returns needs no further check anywhere below.
    #[inline]
    pub(crate) fn check(&self, request: &Request) -> Result<Op, Refusal> {
        let op = self.command(request)?;
        let writes = matches!(op, Op::Write { .. } | Op::Trim { .. } | Op::WriteZeroes { .. });
        if writes && self.info.read_only {
            return refuse(Errno::Perm, "the export is read-only");
        }
        if matches!(op, Op::Flush | Op::Disconnect) {
            return Ok(op);
        }
        if matches!(op, Op::Read | Op::Write { .. }) && request.length > MAX_PAYLOAD {
            return refuse(Errno::Inval, "more than 32 MiB in one request");
        }
        let size = self.info.size;
        if request.offset > size || u64::from(request.length) > size - request.offset {
            return match op {
                Op::Write { .. } | Op::WriteZeroes { .. } => {
                    refuse(Errno::NoSpc, "beyond the end of the disk")
                }
                _ => refuse(Errno::Inval, "beyond the end of the disk"),
            };
        }
        Ok(op)
    }

    /// The command, if it and its flags are among those that were agreed on.
    #[inline]
    fn command(&self, request: &Request) -> Result<Op, Refusal> {
        let can_flush = self.info.durable_flush && !self.info.read_only;
        let fua = request.flags & cmd_flag::FUA != 0;
        let (op, own_flags) = match request.command {
            cmd::READ => (Op::Read, if self.structured { cmd_flag::DF } else { 0 }),
            cmd::WRITE => (Op::Write { fua }, 0),
            cmd::FLUSH if can_flush => (Op::Flush, 0),
            cmd::FLUSH => return refuse(Errno::Inval, "the export has no flush"),
            cmd::TRIM => (Op::Trim { fua }, 0),
            cmd::WRITE_ZEROES => {
                let mode = ZeroMode {
                    no_hole: request.flags & cmd_flag::NO_HOLE != 0,
                    fast: request.flags & cmd_flag::FAST_ZERO != 0,
                };
                let fast = if self.info.fast_zero { cmd_flag::FAST_ZERO } else { 0 };
                (Op::WriteZeroes { mode, fua }, cmd_flag::NO_HOLE | fast)
            }
            cmd::CACHE => (Op::Cache, 0),
            cmd::BLOCK_STATUS if !self.allocation => {
                return refuse(Errno::Inval, "no metadata context is selected");
            }
            cmd::BLOCK_STATUS if request.length == 0 => {
                return refuse(Errno::Inval, "block status of no bytes");
            }
            cmd::BLOCK_STATUS => {
                (Op::BlockStatus { one: request.flags & cmd_flag::REQ_ONE != 0 }, cmd_flag::REQ_ONE)
            }
            cmd::DISC => return Ok(Op::Disconnect),
            _ => return refuse(Errno::Inval, "unknown command"),
        };
        let known = own_flags | if can_flush { cmd_flag::FUA } else { 0 };
        if request.flags & !known != 0 {
            return refuse(Errno::Inval, "a flag that is unknown or was not agreed on");
        }
        Ok(op)
    }
}
