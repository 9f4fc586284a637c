//! Cluster time as this node would stamp it.

use synod_paxos::{Bug, Planted, Time};

/// Cluster time is a counter in the state, in milliseconds. A leader advances it
/// by its monotonic clock, from the last stamp that it had applied when it took office;
/// nobody reads a wall clock, and nobody reads any clock while applying.
///
/// It never carries over what a clock has shown before the office: one that ran for a
/// year, or through a night in which nobody wrote, may be far from those of the others,
/// and time would leap. So a change of leader costs cluster time, and gives none.
#[derive(Debug)]
pub(crate) struct ClusterClock {
    /// The last stamp that was applied.
    applied_ms: u64,
    /// A stamp, and when it was the right one here.
    stamp_ms: u64,
    at: Time,
    planted: Planted,
}

impl ClusterClock {
    /// A clock that continues from the last applied stamp.
    pub(crate) fn new(applied_ms: u64, now: Time, planted: Planted) -> Self {
        ClusterClock { applied_ms, stamp_ms: applied_ms, at: now, planted }
    }

    /// This node leads from now on.
    pub(crate) fn take_office(&mut self, now: Time) {
        if !self.planted.is(Bug::ClockOutlivesOffice) {
            *self = ClusterClock::new(self.applied_ms, now, self.planted);
        }
    }

    /// The state machine applied a value with this stamp. A stamp ahead of this
    /// clock pulls it forward; one behind it is merely the past.
    pub(crate) fn observe(&mut self, applied_ms: u64, now: Time) {
        self.applied_ms = self.applied_ms.max(applied_ms);
        if applied_ms > self.now_ms(now) {
            self.stamp_ms = applied_ms;
            self.at = now;
        }
    }

    /// When this clock will show this time, unless a stamp pulls it forward.
    pub(crate) fn when(&self, stamp_ms: u64) -> Time {
        self.at.plus_us(stamp_ms.saturating_sub(self.stamp_ms).saturating_mul(1_000))
    }

    /// The stamp for a value that is cut now. It never decreases while this node leads.
    pub(crate) fn now_ms(&self, now: Time) -> u64 {
        self.stamp_ms.saturating_add(now.since_us(self.at) / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_advances_from_the_last_stamp_and_never_falls_back() {
        let mut clock = ClusterClock::new(5_000, Time(1_000_000), Planted::NONE);
        assert_eq!(clock.now_ms(Time(1_000_000)), 5_000);
        assert_eq!(clock.now_ms(Time(1_007_500)), 5_007);
        clock.observe(5_003, Time(1_010_000));
        assert_eq!(clock.now_ms(Time(1_010_000)), 5_010);
        clock.observe(9_000, Time(1_010_000));
        assert_eq!(clock.now_ms(Time(1_012_000)), 9_002);
        assert_eq!(clock.when(9_004), Time(1_014_000));
        assert_eq!(clock.now_ms(clock.when(9_004)), 9_004);
        assert_eq!(clock.when(3), Time(1_010_000), "it is past");
        // Whatever it showed by itself does not count in another office.
        assert_eq!(clock.now_ms(Time(9_010_000)), 17_000);
        clock.take_office(Time(9_010_000));
        assert_eq!(clock.now_ms(Time(9_011_000)), 9_001);
        clock.take_office(Time(1_010_000));
        // A time before the last one is a caller's slip, not a step back.
        assert_eq!(clock.now_ms(Time(0)), 9_000);
    }
}
