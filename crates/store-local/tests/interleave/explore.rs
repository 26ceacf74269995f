//! Schedules: how many, and which.

use std::{pin::Pin, sync::Arc};

use gabion_store_core::{
    clock::{Clock as _, SystemClock},
    sync::shuttle::{
        Config, MaxSteps, Runner,
        future::block_on,
        scheduler::{PctScheduler, RandomScheduler},
    },
    testing::Rng,
};

/// Schedules of one workload, which come from one seed.
const OF_A_SEED: usize = 40;
/// A task's own. Tasks hash and encode.
const STACK: usize = 512 << 10;
/// A schedule of more steps than this goes round in circles.
const MOST_STEPS: usize = 200_000;

type Scenario = Pin<Box<dyn Future<Output = ()>>>;

/// Runs a scenario in many schedules: `GABION_SCHEDULES` of them, or 400, and at least those of one seed. The scenario
/// draws its workload from the generator, so that it does the same each time it gets the same one.
///
/// `GABION_SEED` repeats the schedules of that seed, and none else.
pub(crate) fn explore(test: &'static str, scenario: impl Fn(Rng) -> Scenario + Send + Sync + 'static) {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let scenario = Arc::new(scenario);
    if let Some(seed) = given("GABION_SEED") {
        return run(test, seed, &scenario);
    }
    let mut rng = Rng::new(SystemClock.now().0);
    let seeds = given("GABION_SCHEDULES").map_or(400, |count| count as usize).div_ceil(OF_A_SEED);
    for _ in 0..seeds {
        run(test, rng.next(), &scenario);
    }
    show(&format!("{test}: {} schedules", seeds * OF_A_SEED));
}

fn run<S: Fn(Rng) -> Scenario + Send + Sync + 'static>(test: &'static str, seed: u64, scenario: &Arc<S>) {
    let _told = Failing { test, seed };
    let mut rng = Rng::new(seed);
    let (schedules, workload) = (rng.next(), rng.next());
    let scenario = Arc::clone(scenario);
    let once = move || block_on(scenario(Rng::new(workload)));
    let mut config = Config::new();
    config.stack_size = STACK;
    config.max_steps = MaxSteps::FailAfter(MOST_STEPS);
    let _run = match rng.below(4) {
        0 => Runner::new(RandomScheduler::new_from_seed(schedules, OF_A_SEED), config).run(once),
        // So many times somebody else is let go ahead.
        depth => Runner::new(PctScheduler::new_from_seed(schedules, depth + 1, OF_A_SEED), config).run(once),
    };
}

/// Tells how a schedule that fails is repeated.
struct Failing {
    test: &'static str,
    seed: u64,
}

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(&format!(
                "\n{} failed: GABION_SEED={} scripts/interleave {0} repeats it",
                self.test, self.seed
            ));
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with a failure, and scripts/interleave always"
)]
fn show(text: &str) {
    eprintln!("{text}");
}
