//! What a node takes for the time.

use synod_paxos::Time;

/// A monotonic clock with a rate of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Clock {
    /// A moment of the simulation, and what this clock said then.
    at_us: u64,
    said_us: u64,
    /// Microseconds of this clock in a thousand of the simulation.
    rate_permille: u64,
}

impl Clock {
    pub(crate) fn new(now_us: u64, says_us: u64) -> Self {
        Clock { at_us: now_us, said_us: says_us, rate_permille: 1_000 }
    }

    /// What it says.
    pub(crate) fn read(&self, now_us: u64) -> Time {
        Time(self.said_us + (now_us - self.at_us) * self.rate_permille / 1_000)
    }

    /// The moment of the simulation when it will say `time`, not before `now_us`.
    pub(crate) fn moment(&self, time: Time, now_us: u64) -> u64 {
        let ahead = time.0.saturating_sub(self.said_us);
        let moment =
            self.at_us.saturating_add((ahead.saturating_mul(1_000)).div_ceil(self.rate_permille));
        moment.max(now_us)
    }

    /// Runs at another rate from now on.
    pub(crate) fn set_rate(&mut self, now_us: u64, rate_permille: u64) {
        *self = Clock { at_us: now_us, said_us: self.read(now_us).0, rate_permille };
    }

    /// Says from now on that it is so much later.
    pub(crate) fn jump(&mut self, forward_us: u64) {
        self.said_us += forward_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_keeps_its_rate_and_never_falls_back() {
        let mut clock = Clock::new(1_000, 50_000);
        clock.set_rate(1_000, 500);
        assert_eq!(clock.read(3_000), Time(51_000));
        assert_eq!(clock.moment(Time(51_000), 0), 3_000);
        clock.set_rate(3_000, 2_000);
        clock.jump(10);
        assert_eq!(clock.read(4_000), Time(53_010));
        assert_eq!(clock.moment(Time(0), 4_000), 4_000, "the past is now");
        for time in 53_010..53_050 {
            let moment = clock.moment(Time(time), 4_000);
            assert!(clock.read(moment) >= Time(time));
        }
    }
}
