//! Checkpoints: the immutable record of a complete disk, named by the hash of its bytes.
//!
//! ```text
//! checkpoint := "gabionCP" │ features 26 │ hash u8 │ key id u64 │ size u64 │ optional root 32 │
//!               optional parent 32 │ created u64 │ count u32 │ count × { key string │ value string }
//! optional   := 0 u8 │ or 1 u8 and the bytes
//! ```

use std::collections::BTreeMap;

use super::{
    features::Features,
    wire::{Reader, Writer},
};
use crate::{
    CheckpointId, Error, ErrorKind, NodeId, Result,
    clock::Timestamp,
    types::{IdDomain, MAX_DISK_SIZE, checkpoint_id},
};

const MAGIC: &[u8; 8] = b"gabionCP";
const VERSION: u16 = 1;
/// Most labels of a checkpoint.
pub const MAX_LABELS: usize = 256;
/// Longest key or value of a label, in bytes.
pub const MAX_LABEL_LEN: usize = 1024;

/// A complete disk at one point in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// How the ids below it are made.
    pub domain: IdDomain,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Root of the index; `None` for a disk that is all zero.
    pub root: Option<NodeId>,
    /// What it was made from: history, never needed to read.
    pub parent: Option<CheckpointId>,
    /// When it was made.
    pub created: Timestamp,
    /// Whatever its maker wants to say of it.
    pub labels: BTreeMap<String, String>,
}

impl Checkpoint {
    /// A checkpoint without parent and labels; a size beyond [`MAX_DISK_SIZE`] is `Invalid`.
    pub fn new(size: u64, root: Option<NodeId>, created: Timestamp) -> Result<Self> {
        if size > MAX_DISK_SIZE {
            return Err(Error::invalid(format!("a disk of {size} bytes is larger than {MAX_DISK_SIZE}")));
        }
        Ok(Self { domain: IdDomain::BLAKE3, size, root, parent: None, created, labels: BTreeMap::new() })
    }

    /// The bytes and their id. Labels beyond their bounds are `Invalid`.
    pub fn encode(&self) -> Result<(CheckpointId, Vec<u8>)> {
        let fits = |(key, value): (&String, &String)| {
            !key.is_empty() && key.len() <= MAX_LABEL_LEN && value.len() <= MAX_LABEL_LEN
        };
        if self.labels.len() > MAX_LABELS || !self.labels.iter().all(fits) {
            return Err(Error::invalid(format!(
                "a checkpoint takes {MAX_LABELS} labels of {MAX_LABEL_LEN} bytes, none with an empty key"
            )));
        }
        let mut to = Writer::new();
        to.bytes(MAGIC);
        Features::version(VERSION).encode(&mut to);
        to.u8(self.domain.hash).u64(self.domain.key_id).u64(self.size);
        for id in [self.root.map(|id| *id.as_bytes()), self.parent.map(|id| *id.as_bytes())] {
            match id {
                None => to.u8(0),
                Some(id) => to.u8(1).bytes(&id),
            };
        }
        to.u64(self.created.0).count(self.labels.len());
        for (key, value) in &self.labels {
            to.str(key).str(value);
        }
        let bytes = to.into_vec();
        Ok((checkpoint_id(&bytes), bytes))
    }

    /// Reads a checkpoint; anything but what [`encode`](Self::encode) writes is `Corrupt`, what is newer
    /// `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut from = Reader::new("checkpoint", bytes);
        from.magic(MAGIC)?;
        Features::decode(&mut from, "checkpoint", VERSION)?;
        let domain = IdDomain { hash: from.u8()?, key_id: from.u64()? };
        if domain != IdDomain::BLAKE3 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("checkpoint is of id domain {}/{}: use a newer gabion", domain.hash, domain.key_id),
            ));
        }
        let size = from.u64()?;
        if size > MAX_DISK_SIZE {
            return Err(from.corrupt(format_args!("a disk of {size} bytes")));
        }
        let root = optional(&mut from)?.map(NodeId::from_bytes);
        let parent = optional(&mut from)?.map(CheckpointId::from_bytes);
        let created = Timestamp(from.u64()?);
        let count = from.count(4)?;
        let mut labels = BTreeMap::new();
        for _ in 0..count.min(MAX_LABELS + 1) {
            let (key, value) = (from.str()?.to_owned(), from.str()?.to_owned());
            let in_order = labels.last_key_value().is_none_or(|(last, _)| *last < key);
            if !in_order || key.is_empty() || key.len() > MAX_LABEL_LEN || value.len() > MAX_LABEL_LEN {
                return Err(from.corrupt("bad labels"));
            }
            labels.insert(key, value);
        }
        if count > MAX_LABELS {
            return Err(from.corrupt("too many labels"));
        }
        from.finish()?;
        Ok(Self { domain, size, root, parent, created, labels })
    }
}

fn optional(from: &mut Reader<'_>) -> Result<Option<[u8; 32]>> {
    match from.u8()? {
        0 => Ok(None),
        1 => Ok(Some(from.array()?)),
        other => Err(from.corrupt(format_args!("an optional field begins with {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let mut checkpoint =
            Checkpoint::new(1 << 30, Some(NodeId::from_bytes([3; 32])), Timestamp(1_700_000_000_000))
                .unwrap();
        checkpoint.parent = Some(CheckpointId::from_bytes([4; 32]));
        checkpoint.labels.insert("host".into(), "a".into());
        let (id, bytes) = checkpoint.encode().unwrap();
        assert_eq!(id.to_string(), "338652938eb3ba16b629136e8ba7ee01d909ebde7d659eac06a0d70f9406c2ec");
        assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
    }

    proptest! {
        #[test]
        fn round_trips(size in 0..=MAX_DISK_SIZE, root in any::<Option<[u8; 32]>>(), parent in any::<Option<[u8; 32]>>(),
                       created in any::<u64>(), labels in prop::collection::btree_map("[a-z]{1,9}", ".{0,9}", 0..5)) {
            let mut checkpoint = Checkpoint::new(size, root.map(NodeId::from_bytes), Timestamp(created)).unwrap();
            checkpoint.parent = parent.map(CheckpointId::from_bytes);
            checkpoint.labels = labels;
            let (_, bytes) = checkpoint.encode().unwrap();
            prop_assert_eq!(Checkpoint::decode(&bytes).unwrap(), checkpoint);
            for len in 0..bytes.len() {
                prop_assert!(Checkpoint::decode(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn flips_change_the_checkpoint_or_are_refused(at in 0_usize..120, bit in 0_u8..8) {
            let checkpoint = Checkpoint::new(1 << 30, Some(NodeId::from_bytes([3; 32])), Timestamp(5)).unwrap();
            let (_, mut bytes) = checkpoint.encode().unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(other) = Checkpoint::decode(&bytes) {
                // The fields of the features that may be ignored are dropped, so they need not come back.
                prop_assert!(other != checkpoint || (18..34).contains(&at));
            }
        }
    }
}
