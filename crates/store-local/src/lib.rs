//! Local storage: stores in folders, volumes with crash-safe overlays, and the file-system seam under both.
//! Beside them, disk images of the host: [`disk_file`].

pub mod disk_file;
pub mod fs;
pub mod overlay;
pub mod store;
