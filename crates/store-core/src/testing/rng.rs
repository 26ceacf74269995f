//! [`Rng`]: seeded randomness for tests, the same on every machine and in every version.

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable with any number, good enough for tests. Not for
/// anything that must not be guessed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A sequence of its own for each seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, or 0 if that is 0. The bias is of no matter to tests.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).expect("it is below a usize")
    }

    /// That many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_is_the_published_one() {
        // First outputs of SplitMix64 for seed 1234567, as listed in its reference tests.
        let mut rng = Rng::new(1_234_567);
        assert_eq!((rng.next(), rng.next()), (6_457_827_717_110_365_317, 3_203_168_211_198_807_973));
        assert_eq!(Rng::new(7).bytes(13), Rng::new(7).bytes(13));
    }
}
