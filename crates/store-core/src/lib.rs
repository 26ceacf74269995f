//! Content-addressed storage for virtual disks: the parts that need neither a file system nor a network.
//!
//! The layers, each knowing only those to its right:
//!
//! ```text
//! replicate ► ops (import, export, checkpoint, diff, check) ► volume ► index ► stores ► format ► types
//! ```
//!
//! Invariant: this crate names no other crate of the workspace, opens no file and no socket.

pub mod blocking;
pub mod chunking;
pub mod clock;
pub mod device;
pub mod error;
pub mod format;
pub mod index;
pub mod ops;
pub mod overlay;
#[doc(hidden)]
pub mod random;
pub mod replicate;
pub mod store;
pub mod stores;
#[doc(hidden)]
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod types;
pub mod volume;

pub use device::BlockDevice;
pub use error::{Error, ErrorKind, Result};
pub use store::{ChunkStore, IndexStore, Store};
pub use types::{BLOCK_SIZE, BlockRange, CheckpointId, ChunkId, ChunkKind, ImageName, NodeId};
