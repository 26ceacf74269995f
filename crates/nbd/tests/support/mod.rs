//! What the integration tests share: a device in memory and a client that speaks in raw bytes.

#![expect(dead_code, reason = "each test binary uses a part of it")]
#![expect(unreachable_pub, reason = "a module of test binaries")]

pub mod client;
pub mod device;
