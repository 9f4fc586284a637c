//! How fast files may move.

use std::time::{Duration, Instant};

/// What was saved up while nothing moved may go at once, but not more than this.
const BURST: Duration = Duration::from_millis(50);

/// Spreads bytes over time.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_s: u64,
    /// From here on the next bytes may move.
    free_at: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_s: u64, now: Instant) -> Self {
        Pace { bytes_per_s, free_at: now }
    }

    /// When the next bytes may move.
    pub(crate) fn free_at(&self) -> Instant {
        self.free_at
    }

    pub(crate) fn is_free(&self, now: Instant) -> bool {
        self.free_at <= now
    }

    /// So many bytes move now.
    pub(crate) fn moved(&mut self, bytes: usize, now: Instant) {
        let begin = self.free_at.max(now.checked_sub(BURST).unwrap_or(now));
        let micros = bytes as u64 * 1_000_000 / self.bytes_per_s.max(1);
        self.free_at = begin + Duration::from_micros(micros);
    }
}

/// What a peer must bring on average over each [`WINDOW`], so that one that drips does not
/// hold a transfer for ever: a line of one megabit per second.
const LEAST_BYTES_PER_S: u64 = 128 << 10;
/// A sender that is as slow as it was told to be serves several receivers.
const RECEIVERS: u64 = 16;
/// Long enough for a peer that makes a checkpoint or waits for its disk.
const WINDOW: Duration = Duration::from_secs(60);

/// Whether what comes comes fast enough.
#[derive(Debug)]
pub(crate) struct LeastRate {
    bytes_min: u64,
    since: Instant,
    bytes: u64,
}

impl LeastRate {
    /// For a transfer that begins now and goes at this pace at the most.
    pub(crate) fn new(bytes_per_s: u64, now: Instant) -> Self {
        let least = LEAST_BYTES_PER_S.min(bytes_per_s / RECEIVERS);
        LeastRate { bytes_min: least * WINDOW.as_secs(), since: now, bytes: 0 }
    }

    /// So many bytes came.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Says, at the end of each window, whether too little came in it.
    pub(crate) fn is_too_low(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) < WINDOW {
            return false;
        }
        self.since = now;
        std::mem::take(&mut self.bytes) < self.bytes_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told_at_the_end_of_a_window() {
        let begin = Instant::now();
        let mut least = LeastRate::new(1 << 30, begin);
        let end = |windows| begin + WINDOW * windows;
        least.came(128 << 10);
        assert!(!least.is_too_low(end(1).checked_sub(Duration::from_millis(1)).expect("later")));
        assert!(least.is_too_low(end(1)));
        least.came(60 * (128 << 10));
        assert!(!least.is_too_low(end(2)));
        least.came(60 * (128 << 10) - 1);
        assert!(least.is_too_low(end(3)));
        // Not more than the pace allows.
        let mut slow = LeastRate::new(64 << 10, begin);
        slow.came(60 * (4 << 10));
        assert!(!slow.is_too_low(end(1)));
    }

    #[test]
    fn the_rate_is_kept_and_little_is_saved_up() {
        let begin = Instant::now();
        let mut pace = Pace::new(1_000_000, begin);
        let mut now = begin + Duration::from_secs(10);
        let mut moved = 0;
        let end = now + Duration::from_secs(2);
        while now < end {
            while pace.is_free(now) {
                pace.moved(10_000, now);
                moved += 10_000;
            }
            now += Duration::from_millis(1);
        }
        assert!((2_000_000..=2_070_000).contains(&moved), "{moved}");
    }
}
