//! The catalog: which locators are live, and what must not be collected. Changed by CAS only.

use crate::{
    CheckpointId, ImageName,
    clock::Timestamp,
    types::{LocatorId, MapId, VolumeId, WriteId},
};

/// A locator named by the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocatorRef {
    /// The locator.
    pub id: LocatorId,
    /// Number of its entries; tiers of merging go by it.
    pub entries: u64,
}

/// A checkpoint that is being published: a root until its image record holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRoot {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The image it is published to.
    pub image: ImageName,
    /// When it was added, for people.
    pub since: Timestamp,
}

/// A checkpoint that a volume stands on: a root until the volume is removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The volume.
    pub owner: VolumeId,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// When it was added, for people.
    pub since: Timestamp,
}

/// An object that a newer one replaced; deleted once the grace has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// A merged locator.
    Locator(LocatorId, Timestamp),
    /// A folded image map.
    Map(MapId, Timestamp),
}

/// The catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// Raised each time entries are condemned: answers given under an older one are void.
    pub condemn_generation: u64,
    /// Live locators, sorted by id.
    pub locators: Vec<LocatorRef>,
    /// Publishes under way, sorted by image and checkpoint.
    pub pending: Vec<PendingRoot>,
    /// Bases of volumes, sorted by owner and checkpoint.
    pub pins: Vec<Pin>,
    /// Objects that wait for their deletion.
    pub replaced: Vec<Replaced>,
    /// The attempt that wrote this version.
    pub write_id: WriteId,
}
