//! The only retry policy: which failures are tried again, how often, and how long after.
//!
//! Exponential backoff with full jitter: each pause is random between nothing and a limit that doubles, so that
//! clients that failed together do not come back together. No attempt begins after the budget is used up.
//! Cancelling is dropping the future.

use std::time::Duration;

use gabion_store_core::{
    random::fill,
    sync::{sleep, timeout},
};
use tokio::time::Instant;

use crate::{
    requests::{Again, Failure},
    timeouts::Timeouts,
};

/// Limit of the first pause.
const FIRST: Duration = Duration::from_millis(50);
/// Limit of the first pause when the server asked for less.
const FIRST_SLOW: Duration = Duration::from_millis(500);
/// Limit of every pause.
const LONGEST: Duration = Duration::from_secs(5);
/// How often a body that was wrong is fetched again.
const WRONG_BODIES: u32 = 2;

/// The attempts at one request.
#[derive(Debug)]
pub(crate) struct Tries {
    end: Instant,
    /// Attempts that there are, even after that.
    least: u32,
    failures: u32,
    wrong_bodies: u32,
}

impl Tries {
    /// Those of a small request, or one that a guest may wait for.
    pub(crate) fn begin(timeouts: &Timeouts) -> Self {
        Self::within(timeouts.retry_budget())
    }

    /// Those that begin within `budget` from now.
    pub(crate) fn within(budget: Duration) -> Self {
        Self { end: Instant::now() + budget, least: 1, failures: 0, wrong_bodies: 0 }
    }

    /// The same, but so many attempts in any case.
    pub(crate) fn at_least(self, least: u32) -> Self {
        Self { least, ..self }
    }

    /// Waits until the next attempt may begin, or gives the failure back if there shall be none.
    pub(crate) async fn again(&mut self, failure: Failure) -> Result<(), Failure> {
        let (first, after) = match failure.again() {
            Again::No => return Err(failure),
            Again::AFewTimes if self.wrong_bodies == WRONG_BODIES => return Err(failure),
            Again::AFewTimes => {
                self.wrong_bodies += 1;
                (FIRST, None)
            }
            Again::Yes => (FIRST, None),
            Again::Slowly(after) => (FIRST_SLOW, after),
        };
        let limit = first.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        let pause = after.unwrap_or_default() + limit.mul_f64(random_part());
        if Instant::now() + pause >= self.end && self.failures + 1 >= self.least {
            return Err(failure);
        }
        self.failures += 1;
        tracing::debug!(cause = ?failure.cause, detail = %failure.detail, ?pause, "trying again");
        sleep(pause).await;
        Ok(())
    }
}

/// One attempt, or part of one, that may take so long.
pub(crate) async fn in_time<T>(
    limit: Duration,
    attempt: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failure> {
    match timeout(limit, attempt).await {
        Ok(result) => result.map_err(|e| Failure::from(&e)),
        Err(_) => Err(Failure::timed_out(limit)),
    }
}

/// Between 0 and 1. Without randomness the pauses are longest.
fn random_part() -> f64 {
    let mut random = [0; 4];
    fill(&mut random).map_or(1.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
