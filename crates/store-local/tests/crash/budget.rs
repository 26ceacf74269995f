//! How many images a test looks at, and with which seeds.

use gabion_store_core::{
    clock::{Clock as _, SystemClock},
    testing::Rng,
};

/// The part of all images that one test looks at.
pub(crate) struct Budget {
    test: &'static str,
    seed: u64,
    rng: Rng,
    images: usize,
    points: usize,
    rounds: usize,
    least: usize,
}

impl Budget {
    /// A budget of `percent` of all images.
    pub(crate) fn new(test: &'static str, percent: usize) -> Self {
        let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = given("GABION_SEED").unwrap_or_else(|| SystemClock.now().0);
        let total = given("GABION_CRASH_IMAGES").unwrap_or(10_000) as usize;
        show(&format!("{test}: GABION_SEED={seed}"));
        let least = (total * percent).div_ceil(100);
        Self { test, seed, rng: Rng::new(seed), images: 0, points: 0, rounds: 0, least }
    }

    /// The seed of another round, as long as more images are wanted.
    pub(crate) fn round(&mut self) -> Option<u64> {
        self.round_until(true)
    }

    /// As [`round`](Self::round), and as long as something was not `met`.
    pub(crate) fn round_until(&mut self, met: bool) -> Option<u64> {
        (self.images < self.least || !met).then(|| {
            self.rounds += 1;
            self.rng.next()
        })
    }

    /// A point was dealt with.
    pub(crate) fn point(&mut self, images: usize) {
        self.points += 1;
        self.images += images;
    }

    /// More images were, at points of images.
    pub(crate) fn nested(&mut self, images: usize) {
        self.images += images;
    }

    /// Says how many there were.
    pub(crate) fn end(self) {
        let Self { test, images, points, rounds, .. } = self;
        assert!(images >= self.least);
        show(&format!(
            "{test}: survived {images} crash images at {points} points in {rounds} rounds (seed {})",
            self.seed
        ));
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it with a failure, and scripts/crash always")]
fn show(text: &str) {
    eprintln!("{text}");
}
