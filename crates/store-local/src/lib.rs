//! Local storage: stores in folders, volumes with crash-safe overlays, and the file-system seam under both.

pub mod fs;
pub mod overlay;
pub mod store;
