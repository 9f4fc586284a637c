//! Time as the core sees it: a number that its host hands in.

/// Microseconds of a monotonic clock since an arbitrary start. The core never
/// reads a clock, and safety never rests on this number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Time(pub u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);

    /// Microseconds since `earlier`; zero when `earlier` lies ahead.
    #[must_use]
    pub const fn since_us(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The time `us` microseconds later.
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Time {
        Time(self.0.saturating_add(us))
    }
}
