//! Part of a store's entries, chosen by their ids: the same part for everyone who has the sample.

use crate::{ChunkId, Error, Result};

/// Which entries are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Entries of a lower rank are in it; `None`: all are.
    below: Option<u64>,
    seed: u64,
}

impl Default for Sample {
    /// All entries.
    fn default() -> Self {
        Self { below: None, seed: 0 }
    }
}

impl Sample {
    /// A part of all entries, above 0 and at most 1; which one, `seed` says.
    pub fn part(part: f64, seed: u64) -> Result<Self> {
        if !(part > 0.0 && part <= 1.0) {
            return Err(Error::invalid("a sample is more than nothing and at most everything"));
        }
        Ok(Self { below: (part < 1.0).then_some((part * u64::MAX as f64) as u64), seed })
    }

    /// All entries, in an order that `seed` says.
    pub fn shuffled(seed: u64) -> Self {
        Self { below: None, seed }
    }

    /// Whether an entry is in it.
    pub fn takes(&self, id: &ChunkId) -> bool {
        self.below.is_none_or(|below| self.rank(id) < below)
    }

    /// A number for an entry that looks random, and is another for each seed.
    pub(super) fn rank(&self, id: &ChunkId) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *id.as_bytes();
        // The finaliser of SplitMix64: ids are random already, the seed must turn the order around.
        let mut x = u64::from_le_bytes([a, b, c, d, e, f, g, h]) ^ self.seed;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::chunk_id;

    #[test]
    fn a_sample_has_its_share_and_every_seed_another() {
        let ids: Vec<_> = (0..10_000_u32).map(|n| chunk_id(&n.to_le_bytes())).collect();
        let taken = |sample: Sample| ids.iter().filter(|id| sample.takes(id)).count();
        assert_eq!(taken(Sample::default()), 10_000);
        assert_eq!(taken(Sample::part(1.0, 3).unwrap()), 10_000);
        let (one, two) = (Sample::part(0.05, 1).unwrap(), Sample::part(0.05, 2).unwrap());
        assert!((400..600).contains(&taken(one)), "{}", taken(one));
        let both = ids.iter().filter(|id| one.takes(id) && two.takes(id)).count();
        assert!(both < 60, "{both}");
        for none in [0.0, -1.0, 1.1, f64::NAN] {
            assert!(Sample::part(none, 0).is_err());
        }
    }
}
