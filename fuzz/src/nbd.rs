//! An NBD server in memory.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gabion_nbd::Server;
use gabion_store_core::{
    BlockDevice, Result,
    device::{Allocation, DeviceInfo, StatusExtent, ZeroMode},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, sink},
    runtime::Builder,
};

const SIZE: u64 = 1 << 16;

/// Sends the parts to a server one after the other and hangs up. The server ends; what it answers is dropped.
pub fn serve(parts: &[&[u8]]) {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (client, server) = duplex(64 << 10);
        let (mut answers, mut questions) = tokio::io::split(client);
        let send = async {
            for part in parts {
                if questions.write_all(part).await.is_err() {
                    return;
                }
            }
            let _ = questions.shutdown().await;
        };
        let receive = async {
            let _ = tokio::io::copy(&mut answers, &mut sink()).await;
        };
        let serve = Server::builder().export("", Arc::new(Memory::default())).serve_stream(server);
        let (_, (), ()) = tokio::join!(serve, send, receive);
        let _ = answers.read(&mut [0]).await;
    });
}

/// What a client sends to choose the default export.
pub fn hello(structured: bool) -> &'static [u8] {
    const OPTION: &[u8; 8] = b"IHAVEOPT";
    static SIMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    static STRUCTURED: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let build = || {
        let mut bytes = vec![0, 0, 0, 3]; // fixed newstyle, no zeroes
        if structured {
            bytes.extend([&OPTION[..], &8_u32.to_be_bytes(), &0_u32.to_be_bytes()].concat());
        }
        let go = [&OPTION[..], &7_u32.to_be_bytes(), &6_u32.to_be_bytes(), &[0; 6]];
        bytes.extend(go.concat());
        bytes
    };
    (if structured { &STRUCTURED } else { &SIMPLE }).get_or_init(build)
}

/// A disk in memory that insists on what a device may rely on.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(vec![0; SIZE as usize]))
    }
}

fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
    assert!(length > 0 && offset <= SIZE && length <= SIZE - offset, "{offset}+{length} got past the server");
    offset as usize..(offset + length) as usize
}

#[async_trait]
impl BlockDevice for Memory {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size: SIZE, read_only: false, durable_flush: true, fast_zero: true }
    }

    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(&self.0.lock()[range(offset, buf.len() as u64)]);
        Ok(())
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.0.lock()[range(offset, data.len() as u64)].copy_from_slice(&data);
        Ok(())
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.0.lock()[range(offset, length)].fill(0);
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u64, _: ZeroMode) -> Result<()> {
        self.0.lock()[range(offset, length)].fill(0);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>> {
        assert!(!range(offset, length).is_empty() && max > 0);
        Ok(vec![StatusExtent { length, allocation: Allocation::Data }])
    }
}
