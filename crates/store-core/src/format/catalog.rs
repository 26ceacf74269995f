//! The catalog: which locators are live, and what must not be collected. Changed by CAS only.

use crate::{
    CheckpointId, Error, ImageName, Result,
    clock::Timestamp,
    format::{
        features::Features,
        wire::{Reader, Writer},
    },
    types::{LocatorId, MapId, VolumeId, WriteId},
};

const MAGIC: &[u8; 8] = b"GABICATL";
const WHAT: &str = "catalog";
/// Newest format version of catalogs this library knows.
pub const CATALOG_VERSION: u16 = 1;

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
    /// When it was added: for people, and to tell publishes of the same apart.
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
    /// Live locators, oldest first, none twice. Where two name one entry the newer one is right, so the
    /// order must be kept: new locators go to the end, a merged one takes the place of its sources,
    /// which stood side by side.
    pub locators: Vec<LocatorRef>,
    /// Publishes under way, sorted by image, checkpoint and time.
    pub pending: Vec<PendingRoot>,
    /// Bases of volumes, sorted by owner and checkpoint.
    pub pins: Vec<Pin>,
    /// Objects that wait for their deletion, sorted, none twice.
    pub replaced: Vec<Replaced>,
    /// The attempt that wrote this version.
    pub write_id: WriteId,
}

impl PendingRoot {
    /// What they are sorted by. No two are the same.
    pub(crate) fn key(&self) -> (&str, CheckpointId, Timestamp) {
        (self.image.as_str(), self.checkpoint, self.since)
    }
}

impl Replaced {
    fn key(&self) -> (u8, &[u8; 16]) {
        match self {
            Self::Locator(id, _) => (0, id.as_bytes()),
            Self::Map(id, _) => (1, id.as_bytes()),
        }
    }
}

impl Catalog {
    /// Most elements of each of its lists.
    pub const MAX_LIST: usize = 65_536;

    /// The catalog of a new store.
    pub fn empty(write_id: WriteId) -> Self {
        Self {
            condemn_generation: 0,
            locators: Vec::new(),
            pending: Vec::new(),
            pins: Vec::new(),
            replaced: Vec::new(),
            write_id,
        }
    }

    /// Adds locators that are not there yet, as the newest.
    pub fn add_locators(&mut self, locators: &[LocatorRef]) {
        for locator in locators {
            if !self.locators.iter().any(|known| known.id == locator.id) {
                self.locators.push(*locator);
            }
        }
    }

    /// Notes objects that newer ones replaced; that of two images that shared a map both replace it changes nothing.
    /// Those that find no room stay behind as files that nothing tells of: a full list must end neither publishing nor
    /// merging.
    pub fn retire(&mut self, replaced: impl IntoIterator<Item = Replaced>) {
        for replaced in replaced {
            let is_new = !self.replaced.iter().any(|known| known.key() == replaced.key());
            if is_new && self.replaced.len() < Self::MAX_LIST {
                self.replaced.push(replaced);
            }
        }
    }

    /// Encodes the catalog. Lists that are sorted in the format need not be sorted here; elements that are
    /// twice there, and lists of more than [`MAX_LIST`](Self::MAX_LIST) elements, are `Invalid`.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut sorted = self.clone();
        sorted.pending.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        sorted.pins.sort_unstable_by_key(|pin| (pin.owner, pin.checkpoint));
        sorted.replaced.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        sorted.check().map_err(|why| Error::invalid(format!("the catalog can't be written: {why}")))?;
        Ok(sorted.encode_sorted())
    }

    fn check(&self) -> Result<(), &'static str> {
        let longest = [self.locators.len(), self.pending.len(), self.pins.len(), self.replaced.len()];
        if longest.into_iter().any(|len| len > Self::MAX_LIST) {
            return Err("a list has more than 65,536 elements");
        }
        let mut ids: Vec<_> = self.locators.iter().map(|locator| locator.id).collect();
        ids.sort_unstable();
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err("a locator is twice there");
        }
        if !self.pending.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err("its pending roots are out of order or twice there");
        }
        if !self.pins.is_sorted_by(|a, b| (a.owner, a.checkpoint) < (b.owner, b.checkpoint)) {
            return Err("its pins are out of order or twice there");
        }
        if !self.replaced.is_sorted_by(|a, b| a.key() < b.key()) {
            return Err("its replaced objects are out of order or twice there");
        }
        Ok(())
    }

    fn encode_sorted(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(CATALOG_VERSION).encode(&mut to);
        to.bytes(self.write_id.as_bytes()).u64(self.condemn_generation).count(self.locators.len());
        for locator in &self.locators {
            to.bytes(locator.id.as_bytes()).u64(locator.entries);
        }
        to.count(self.pending.len());
        for root in &self.pending {
            to.str(root.image.as_str()).bytes(root.checkpoint.as_bytes()).u64(root.since.0);
        }
        to.count(self.pins.len());
        for pin in &self.pins {
            to.bytes(pin.owner.as_bytes()).bytes(pin.checkpoint.as_bytes()).u64(pin.since.0);
        }
        to.count(self.replaced.len());
        for replaced in &self.replaced {
            let (tag, id) = replaced.key();
            let (Replaced::Locator(_, since) | Replaced::Map(_, since)) = replaced;
            to.u8(tag).bytes(id).u64(since.0);
        }
        to.seal()
    }

    /// Reads a catalog.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the catalog", CATALOG_VERSION)?;
        let write_id = WriteId::from_bytes(from.array()?);
        let mut catalog = Self { condemn_generation: from.u64()?, ..Self::empty(write_id) };
        for _ in 0..from.count(24)? {
            let id = LocatorId::from_bytes(from.array()?);
            catalog.locators.push(LocatorRef { id, entries: from.u64()? });
        }
        for _ in 0..from.count(43)? {
            let image = ImageName::new(from.str()?).map_err(|e| from.corrupt(e))?;
            let checkpoint = CheckpointId::from_bytes(from.array()?);
            catalog.pending.push(PendingRoot { checkpoint, image, since: Timestamp(from.u64()?) });
        }
        for _ in 0..from.count(56)? {
            let owner = VolumeId::from_bytes(from.array()?);
            let checkpoint = CheckpointId::from_bytes(from.array()?);
            catalog.pins.push(Pin { owner, checkpoint, since: Timestamp(from.u64()?) });
        }
        for _ in 0..from.count(25)? {
            let (tag, id) = (from.u8()?, from.array()?);
            let since = Timestamp(from.u64()?);
            catalog.replaced.push(match tag {
                0 => Replaced::Locator(LocatorId::from_bytes(id), since),
                1 => Replaced::Map(MapId::from_bytes(id), since),
                _ => return Err(from.corrupt("a replaced object of unknown kind")),
            });
        }
        catalog.check().map_err(|why| from.corrupt(why))?;
        from.finish()?;
        Ok(catalog)
    }

    /// Whether this library may replace the encoded catalog; `Unsupported` if it has features that a
    /// writer must understand.
    pub fn check_write(bytes: &[u8]) -> Result<()> {
        let mut from = Reader::sealed(WHAT, bytes)?;
        from.magic(MAGIC)?;
        Features::decode(&mut from, "the catalog", CATALOG_VERSION)?.check_write("the catalog")
    }
}

#[cfg(test)]
mod tests;
