//! Disk images as files of the host: what an import reads, a lazy base stands on, an export writes.
//!
//! These files belong to someone else. They are no part of a store, so they stay outside the [`Fs`] seam:
//! nothing here is made durable by the rules of a store, and nothing here is trusted to stay as it is. What a
//! file was when it was opened is its [`FileIdentity`]; whoever reads one checks it, so that a file which
//! changes underneath is an error and never a mix of two disks.
//!
//! [`Fs`]: crate::fs::Fs

mod file_sink;
mod host_file;
mod identity;
mod lazy_source;
mod locks;
mod private_copy;
mod probe;
mod raw_source;
mod stream_sink;
mod stream_source;

pub use file_sink::FileSink;
pub use host_file::HostFile;
pub use identity::FileIdentity;
pub use lazy_source::LazyFile;
pub use probe::{Format, PROBE_LEN, probe, probe_head};
pub use raw_source::RawFile;
pub use stream_sink::StreamSink;
pub use stream_source::StreamSource;
