//! Content-addressed storage for virtual disks: open a store, make volumes, serve them over NBD.
//!
//! This crate puts the others together for a host: [`Places`] says where things lie, a [`Host`] opens
//! stores and volumes there, and a [`Server`] serves them. The `gabion` command is a thin layer on top.
//! Library users who choose their own backend take `gabion-store-core` and what they need beside it.

mod address;
#[cfg(feature = "nbd")]
pub mod control;
pub mod disk;
mod duration;
mod host;
mod open;
mod places;
mod prices;
#[cfg(feature = "nbd")]
mod replicate;
#[cfg(feature = "nbd")]
mod server;
mod settings;
mod size;
mod staging;
#[cfg(feature = "nbd")]
mod warm;

#[cfg(feature = "nbd")]
pub use gabion_nbd as nbd;
pub use gabion_store_core as core;
pub use gabion_store_local as local;
pub use gabion_store_s3 as s3;

pub use address::InStore;
pub use duration::{format_duration, parse_duration};
pub use host::{Host, OpenImage, OpenVolume, Pinning};
pub use open::{Opened, StackOptions, StoreKind, StoreUrl, init, open, open_with};
pub use places::Places;
pub use prices::{Cost, Prices, format_dollars};
#[cfg(feature = "nbd")]
pub use replicate::{FlushTo, ReplicateOptions, ReplicationReply};
#[cfg(feature = "nbd")]
pub use server::{Export, Server, ServerBuilder, ServerHandle};
pub use settings::{Origin, Setting, Settings, parse_compression};
pub use size::{format_bytes, parse_size};
pub use staging::{Located, StagedImage};
#[cfg(feature = "nbd")]
pub use warm::WarmUp;
