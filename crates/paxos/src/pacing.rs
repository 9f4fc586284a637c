//! When a leader cuts a value from the commands that wait.
//!
//! One client never waits: with nothing in flight its command leaves at once.
//! Under load the commands of a round trip, or of one pace, share a value.

use crate::{Options, Time};

/// The leader's memory of its cuts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pacing {
    last_cut: Option<Time>,
}

impl Pacing {
    /// A value was cut.
    pub(crate) fn cut(&mut self, now: Time) {
        self.last_cut = Some(now);
    }

    /// Whether to cut now, with `in_flight` values of ours open.
    pub(crate) fn is_due(
        self,
        now: Time,
        in_flight: usize,
        queued_bytes: usize,
        options: &Options,
    ) -> bool {
        in_flight == 0
            || queued_bytes >= options.value_bytes_max
            || self.due_at(options).is_none_or(|due| now >= due)
    }

    /// When the pace alone makes a cut due; none when nothing was cut yet.
    pub(crate) fn due_at(self, options: &Options) -> Option<Time> {
        self.last_cut.map(|cut| cut.plus_us(options.value_pace_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_when_none_is_in_flight_or_paced_or_full() {
        let options = Options::default();
        let mut pacing = Pacing::default();
        pacing.cut(Time(5_000));
        assert!(pacing.is_due(Time(5_001), 0, 1, &options));
        assert!(!pacing.is_due(Time(5_999), 1, 1, &options));
        assert!(pacing.is_due(Time(6_000), 1, 1, &options));
        assert!(pacing.is_due(Time(5_001), 1, options.value_bytes_max, &options));
    }
}
