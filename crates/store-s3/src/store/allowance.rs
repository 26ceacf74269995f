//! [`Allowance`]: how much may be fetched to find out what need not be uploaded.
//!
//! Fetching a locator saves the upload of what it holds, which may be all or nothing. So a handle may fetch a
//! little at once, and more as it is asked about more: small uploads stay small in requests, and for large
//! ones the fetched bytes stay far below those that are uploaded.

/// Requests, and bytes, that may be made at once.
const REQUESTS: u64 = 4;
const BYTES: u64 = 4 << 20;
/// Entries asked about that allow one request more: some 128 MiB of disk.
const ASKED_PER_REQUEST: u64 = 4096;
/// Bytes that each entry asked about allows: a sixteenth of what it takes to store one.
const BYTES_PER_ASKED: u64 = 1 << 10;
/// Bytes that are ever fetched, so that all of it stays in memory.
const MOST_BYTES: u64 = 20 << 20;

/// What was asked and fetched so far.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    asked: u64,
    requests: u64,
    bytes: u64,
}

impl Allowance {
    /// So many entries were asked about that are not known to be there.
    pub(super) fn asked(&mut self, entries: usize) {
        self.asked += entries as u64;
    }

    /// Whether a request for about `bytes` may be made; it counts as made then.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let most = MOST_BYTES.min(BYTES + self.asked * BYTES_PER_ASKED);
        let allowed = self.requests < REQUESTS + self.asked / ASKED_PER_REQUEST && self.bytes + bytes <= most;
        if allowed {
            self.requests += 1;
            self.bytes += bytes;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_asks_little() {
        let mut allowance = Allowance::default();
        allowance.asked(500);
        let made = (0..100).filter(|_| allowance.take(10_000)).count();
        assert_eq!(made, 4);
        assert!(!Allowance::default().take(5 << 20), "a large locator is not for a small upload");
    }

    #[test]
    fn what_is_large_asks_more_within_memory() {
        let mut allowance = Allowance::default();
        allowance.asked(1_000_000);
        let mut fetched = 0;
        while allowance.take(1 << 20) {
            fetched += 1;
        }
        assert_eq!(fetched, 20);
    }
}
