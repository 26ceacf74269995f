//! Content-addressed storage for virtual disks: open a store, make volumes, serve them over NBD.
//!
//! This crate puts the others together for a host: [`Places`] says where things lie, a [`Host`] opens
//! stores and volumes there, and a [`Server`] serves them. The `gabion` command is a thin layer on top.
//! Library users who choose their own backend take `gabion-store-core` and what they need beside it.

mod address;
pub mod control;
pub mod disk;
mod host;
mod open;
mod places;
mod replicate;
mod server;
mod settings;
mod size;
mod staging;

pub use gabion_nbd as nbd;
pub use gabion_store_core as core;
pub use gabion_store_local as local;

pub use address::InStore;
pub use host::{Host, OpenVolume};
pub use open::{Opened, StoreKind, StoreUrl, open};
pub use places::Places;
pub use replicate::{FlushTo, ReplicateOptions, ReplicationReply, parse_duration};
pub use server::{Export, Server, ServerBuilder, ServerHandle};
pub use settings::{Origin, Setting, Settings, parse_compression};
pub use staging::{Located, StagedImage};
pub use size::{format_bytes, parse_size};
