//! Local storage: stores in folders, volumes with crash-safe overlays, a disk cache for stores that are far away, and
//! the file-system seam under all of them. Beside them, disk images of the host: [`disk_file`].

pub mod cache;
pub mod disk_file;
pub mod fs;
pub mod overlay;
pub mod store;
