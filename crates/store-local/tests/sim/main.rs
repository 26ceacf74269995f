//! Long random histories: clients, checkpoints, replication, crashes and faults on one volume and one store, against a
//! model. One seed is one history: everything runs one thing at a time, in an order that the seed decides (see
//! `gabion_store_core::testing::Conductor`), on a machine in memory whose power can fail (`CrashFs`) and whose calls do
//! (`FaultFs`), with a home store on the same machine or far away (in memory: `FaultStore`; in a bucket: `FaultBucket`), and a clock that moves when it is told.
//!
//! `GABION_SIM_SECONDS` says for how long histories are lived, 45 by default; `GABION_SEED` repeats one. A history that
//! fails prints its seed and what happened last. `scripts/simulate` does it for hours.

#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

mod actors;
mod facts;
mod far;
mod history;
mod model;
mod stage;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use gabion_store_core::{
    clock::{Clock as _, SystemClock},
    testing::Rng,
};

use facts::Counts;
use history::{Outcome, facts, live};

/// Histories at once.
const THREADS: usize = 2;

/// Lives through the history of a seed.
///
/// # Panics
/// If it fails, with what happened last.
fn history(seed: u64) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        // The history decides after each task what goes on.
        .event_interval(1)
        .build()
        .unwrap();
    let facts = facts(seed);
    let lived = catch_unwind(AssertUnwindSafe(|| runtime.block_on(live(seed, &facts))));
    let why = match lived {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(why)) => why,
        Err(_) => "a panic, see above".to_owned(),
    };
    // Threads of a history that broke off may wait for ever.
    runtime.shutdown_background();
    panic!(
        "{}\nseed {seed}: {why}\nrepeat it with: scripts/simulate --seed {seed}",
        facts.trace.lock().last()
    );
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it with a failure, and scripts/simulate always"
)]
fn show(text: &str) {
    eprintln!("{text}");
}

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Row 1.
#[test]
fn histories_of_clients_checkpoints_crashes_and_faults() {
    if let Some(seed) = given("GABION_SEED") {
        let Outcome { counts, hash } = history(seed);
        show(&format!("seed {seed} survived, its history is {hash:016x}: {counts}"));
        return;
    }
    let time = Duration::from_secs(given("GABION_SIM_SECONDS").unwrap_or(45));
    let (first, begin) = (SystemClock.now().0, Instant::now());
    // Then the other one ends, too.
    let failed = AtomicBool::new(false);
    let lives = |mut seeds: Rng| {
        let mut sum = Counts::default();
        while begin.elapsed() < time && !failed.load(Ordering::SeqCst) {
            let lived = catch_unwind(AssertUnwindSafe(|| history(seeds.next() >> 16)));
            failed.fetch_or(lived.is_err(), Ordering::SeqCst);
            sum.add(&lived.unwrap_or_else(|why| resume_unwind(why)).counts);
        }
        sum
    };
    let mut sum = Counts::default();
    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|n| {
            scope.spawn({
                let lives = &lives;
                move || lives(Rng::new(first + n as u64))
            })
        });
        let threads: Vec<_> = threads.collect();
        for thread in threads {
            sum.add(&thread.join().expect("a history failed, see above"));
        }
    });
    show(&format!("survived in {} s: {sum}", begin.elapsed().as_secs()));
    assert!(sum.seeds > 0 && sum.compared > 0);
}

/// The seed decides everything: every request, every operation of a file, every fault, and their order.
#[test]
fn a_seed_is_one_history() {
    for seed in 0..10 {
        assert_eq!(history(seed).hash, history(seed).hash, "seed {seed}");
    }
}
