//! The control socket: HTTP with JSON over a Unix socket, beside a server's NBD socket.
//!
//! A volume's lock file names the control socket of the process that holds it ([`note`]), so that a command
//! on a volume in use reaches its server without configuration.

mod client;
mod protocol;
mod server;

pub use client::{checkpoint, exports};
pub use protocol::{CheckpointReply, CheckpointRequest, ExportReply, note, socket_of_note};
pub use server::ControlServer;
