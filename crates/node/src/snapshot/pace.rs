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

#[cfg(test)]
mod tests {
    use super::*;

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
