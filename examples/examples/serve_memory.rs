//! A stack in memory, served over NBD: a disk of any size that costs what is written to it.
//!
//! `cargo run -p gabion-examples --example serve_memory`, then `nbdinfo` the URI it prints. Ctrl-C ends it.

use std::sync::Arc;

use gabion_nbd::Server;
use gabion_store_core::{
    Result,
    overlay::MemoryOverlay,
    volume::{Base, Volume},
};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example tells what it does")]
async fn main() -> Result<()> {
    let size = 1 << 40;
    let disk = Volume::writable("scratch disk", Arc::new(MemoryOverlay::new(size)), Base::Empty, None, size);
    let socket = std::env::temp_dir().join(format!("gabion-example-{}.sock", std::process::id()));
    let server = Server::builder().export("scratch", Arc::new(disk)).serve_unix(&socket).await?;
    println!("serving one TiB at {}", server.uri());
    if std::env::args().nth(1).as_deref() != Some("--once") {
        tokio::signal::ctrl_c().await.map_err(|e| gabion_store_core::Error::io("waiting for Ctrl-C", e))?;
    }
    server.shutdown().await
}
