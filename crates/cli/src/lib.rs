//! Content-addressed storage for virtual disks.
