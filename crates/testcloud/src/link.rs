//! A link of limited bandwidth that all connections share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Bytes that pass a limited link at once, so that connections take turns.
pub(crate) const PIECE: usize = 128 << 10;
/// Waits shorter than this are put off: timers tick by the millisecond.
const SLACK: Duration = Duration::from_millis(2);
/// What was not used for longer than this is lost. Makes up for timers that fire late.
const CREDIT: Duration = Duration::from_millis(5);

/// One direction of a link.
#[derive(Debug)]
pub(crate) struct Link {
    /// In bytes per second; 0 is without a limit.
    rate: AtomicU64,
    /// When all that was reserved so far will have passed.
    free_at: Mutex<Option<Instant>>,
}

impl Link {
    pub(crate) const fn new() -> Self {
        Self { rate: AtomicU64::new(0), free_at: Mutex::new(None) }
    }

    pub(crate) fn set_rate(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::Relaxed);
        *self.free_at.lock() = None;
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.rate.load(Ordering::Relaxed) != 0
    }

    /// Sends that many bytes through the link; until when to wait before going on.
    pub(crate) fn take(&self, bytes: u64) -> Option<Instant> {
        self.take_at(bytes, Instant::now())
    }

    fn take_at(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return None;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock();
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let done = free_at.unwrap_or(now).max(earliest) + takes;
        *free_at = Some(done);
        (done > now + SLACK).then_some(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_never_waits() {
        let link = Link::new();
        assert_eq!(link.take(u64::MAX), None);
        link.set_rate(1);
        assert!(link.is_limited() && link.take(1).is_some());
        link.set_rate(0);
        assert_eq!(link.take(u64::MAX), None);
    }

    #[test]
    fn the_rate_holds_over_many_pieces_and_late_timers() {
        let link = Link::new();
        link.set_rate(200_000_000);
        let start = Instant::now();
        let mut now = start;
        for _ in 0..10_000 {
            if let Some(until) = link.take_at(PIECE as u64, now) {
                now = until + Duration::from_millis(1);
            }
        }
        let took = now.duration_since(start).as_secs_f64();
        let ideal = 10_000.0 * PIECE as f64 / 200e6;
        assert!((ideal - 0.01..ideal + 0.01).contains(&took), "{took} s, not {ideal}");
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let link = Link::new();
        link.set_rate(1_000_000);
        let start = Instant::now();
        link.take_at(1, start);
        let later = start + Duration::from_secs(100);
        assert!(link.take_at(1_000_000, later) > Some(later + Duration::from_millis(900)));
    }
}
