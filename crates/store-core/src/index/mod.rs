//! The index of a disk: which chunk each run of blocks holds, as a Merkle tree over a store.
//!
//! Reading loads nodes on demand through a [`NodeCache`]; [`IndexWriter`] makes a new tree out of an old
//! one and changes in disk order, sharing what did not change; [`diff`] walks only where two trees differ.

mod cache;
mod diff;
mod leaf;
mod reader;
#[cfg(test)]
mod tests;
mod walk;
mod writer;

pub use cache::NodeCache;
pub use diff::diff;
pub use reader::{Index, Mapping, Target};
pub use walk::{Reached, walk_nodes};
pub use writer::{Added, Change, IndexWriter, Written};
