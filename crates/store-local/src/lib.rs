//! Local storage: stores in folders, volumes with crash-safe overlays, and the file-system seam under both.

pub mod fs;
pub mod store;

pub use store::{LocalStore, LocalStoreOptions};
