//! Content-addressed storage for virtual disks.

pub mod disk;
