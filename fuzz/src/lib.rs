//! What several fuzz targets need: the things that foreign bytes are given to.

pub mod cache;
pub mod config;
pub mod nbd;
pub mod volume;
