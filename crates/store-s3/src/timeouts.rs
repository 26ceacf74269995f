//! One setting for all waiting: how long a guest waits for its disk.

use std::time::Duration;

/// How long a store may take before the answer is an error.
///
/// ```text
/// guest's longest wait  >  deadline of a request and all its retries  >  last new attempt
/// 30 s                     25 s                                          15 s
/// ```
///
/// A guest kernel that waits longer than its own limit resets the disk or panics, so the error must be there
/// before. All other times follow from that one; see `docs/object-stores.md` for the limits of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    guest_wait: Duration,
}

/// Shortest wait that leaves time for a second attempt over a slow network.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// Longest wait that is still a wait.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// The wait if nothing else is said: the kernel's own for `nbd`, and for SCSI and NVMe disks in a guest.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// Slowest link on which downloads are given time, in bytes a second.
const SLOWEST_DOWN: u64 = 1 << 20;
/// Slowest link on which uploads are given time, in bytes a second: no guest waits for them.
const SLOWEST_UP: u64 = 64 << 10;

impl Default for Timeouts {
    fn default() -> Self {
        Self { guest_wait: DEFAULT_WAIT }
    }
}

impl Timeouts {
    /// Times for a guest that waits `guest_wait` at most; taken as at least 1 s and at most an hour.
    pub fn for_guest_wait(guest_wait: Duration) -> Self {
        Self { guest_wait: guest_wait.clamp(MIN_WAIT, MAX_WAIT) }
    }

    /// The longest wait that this was made from.
    pub fn guest_wait(&self) -> Duration {
        self.guest_wait
    }

    /// After which a small request is answered, by an error if need be, whatever was tried.
    pub fn deadline(&self) -> Duration {
        self.retry_budget() + self.attempt()
    }

    /// After which no new attempt begins.
    pub fn retry_budget(&self) -> Duration {
        self.guest_wait / 2
    }

    /// The longest that one attempt at a small request may take.
    pub fn attempt(&self) -> Duration {
        self.guest_wait / 3
    }

    /// The longest that connecting may take.
    pub fn connect(&self) -> Duration {
        self.attempt() / 2
    }

    /// The longest attempt to read `bytes`.
    pub(crate) fn download(&self, bytes: u64) -> Duration {
        self.attempt() + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST_DOWN)
    }

    /// The longest attempt to write `bytes`.
    pub(crate) fn upload(&self, bytes: u64) -> Duration {
        self.attempt() + Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST_UP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_within_the_one_above() {
        for wait in [0, 1, 2, 30, 1_000, 1_000_000] {
            let times = Timeouts::for_guest_wait(Duration::from_secs(wait));
            assert!(times.guest_wait() > times.deadline(), "{times:?}");
            assert!(times.deadline() > times.retry_budget() && times.retry_budget() > times.attempt());
            assert!(times.attempt() > times.connect() && times.connect() > Duration::from_millis(100));
        }
        assert_eq!(Timeouts::default().deadline(), Duration::from_secs(25));
    }

    #[test]
    fn large_bodies_get_time() {
        let times = Timeouts::default();
        assert_eq!(times.download(0), times.attempt());
        assert_eq!(times.upload(16 << 20), times.attempt() + Duration::from_secs(256));
        assert!(times.download(u64::MAX) > times.attempt());
    }
}
