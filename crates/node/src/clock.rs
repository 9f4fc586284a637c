//! The node's monotonic clock, in the core's unit.

use std::time::{Duration, Instant};

use synod_paxos::Time;

/// Counts microseconds from the start of the node. All its threads share one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Clock { start: Instant::now() }
    }

    pub(crate) fn now(self) -> Time {
        self.at(Instant::now())
    }

    /// The core's name for an instant.
    pub(crate) fn at(self, instant: Instant) -> Time {
        let since = instant.saturating_duration_since(self.start).as_micros();
        Time(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// The instant that the core calls `time`; a day from now for one further off.
    pub(crate) fn instant(self, time: Time) -> Instant {
        const DAY: Duration = Duration::from_secs(86_400);
        let ahead = Duration::from_micros(time.since_us(self.now()));
        if ahead > DAY {
            return Instant::now() + DAY;
        }
        self.start + Duration::from_micros(time.0)
    }

    /// How long the node has been running.
    pub(crate) fn uptime(self) -> Duration {
        self.start.elapsed()
    }
}
