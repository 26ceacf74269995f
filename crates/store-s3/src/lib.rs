//! The object-store backend: stores in S3, GCS, Azure or behind a web server, in the same layout as
//! a local folder.
//!
//! This crate is empty: the backend is the next piece of work. It has its place in the workspace so
//! that the arrows between the crates are checked from the start.
