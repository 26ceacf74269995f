//! What the tests stand on: a home of their own, a served disk, tools that fail with their whole output.

pub(crate) mod bucket;
pub(crate) mod cloud;
pub(crate) mod guest;
pub(crate) mod lines;
pub(crate) mod nbd;
pub(crate) mod oracle;
mod server;
pub(crate) mod tools;

pub(crate) use server::{Home, Server, binary, files, without_checksum};

/// A small seeded generator (SplitMix64): the same seed gives the same test.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// A disk image as guests make them: runs of data, some of it repeated, with holes between.
pub(crate) fn sample_disk(seed: u64, size: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut disk = vec![0; size];
    let mut at = 0;
    while at < size {
        let run = (4096 * (1 + rng.below(64)) as usize).min(size - at);
        match rng.below(3) {
            0 => {}
            1 => rng.fill(&mut disk[at..at + run]),
            _ => disk[at..at + run].fill(rng.below(255) as u8 + 1),
        }
        at += run;
    }
    disk
}
