//! What clients may take of a server.

use std::time::Duration;

/// Largest payload of a request or a reply to a read, in bytes, as told to clients. Trims and zeroings
/// may be larger.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// Bounds on what clients may use. `Default` suits a host with tens of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time for a whole handshake; then the connection is closed. Default 10 s.
    pub handshake: Duration,
    /// Connections at a time; more are closed at once. Default 256.
    pub connections: usize,
    /// Requests of one connection that wait for the device at a time; further ones stay in the socket.
    /// Requests that the device answers at once are not counted. At least 1. Default 64.
    pub in_flight: usize,
    /// Bytes that one connection's waiting requests and unsent replies may hold, above some 5 MiB of
    /// buffers; further requests stay in the socket. One request is always let in, so that the bound is
    /// never below 32 MiB. Default 64 MiB.
    pub connection_bytes: usize,
    /// Time that requests in flight have to finish at a shutdown. Default 1 s.
    pub drain: Duration,
    /// Time that devices have to flush at a shutdown. Default 10 s.
    pub flush: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            connections: 256,
            in_flight: 64,
            connection_bytes: 64 << 20,
            drain: Duration::from_secs(1),
            flush: Duration::from_secs(10),
        }
    }
}
