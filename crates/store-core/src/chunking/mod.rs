//! Cutting disk content into chunks. Not part of any format: readers don't care where cuts fall.

mod cutter;
mod source;
#[cfg(test)]
mod tests;

pub use cutter::{Chunking, Cutter, Piece};
pub use source::{DiskSource, Next, Segment, Segments};
