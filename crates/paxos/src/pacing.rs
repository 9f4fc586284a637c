//! When a leader cuts a value from the commands that wait.
//!
//! One client never waits: with nothing in flight its command leaves at once.
//! Under load the commands of a round trip, or of one pace, share a value. With
//! many clients the answers of one value bring the next commands in quick
//! succession, and the first of them would leave alone; so after a value of many
//! commands the next one waits, at most one pace, until most of them are back.

use crate::{Options, Time};

/// The leader's memory of its cuts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Pacing {
    last_cut: Option<Time>,
    /// How many commands it took.
    last_commands: usize,
}

impl Pacing {
    /// From how many commands on a value counts as one of many clients.
    const MANY_COMMANDS: usize = 8;

    /// A value of `commands` was cut.
    pub(crate) fn cut(&mut self, now: Time, commands: usize) {
        self.last_cut = Some(now);
        self.last_commands = commands;
    }

    /// Whether to cut now, with `in_flight` values of ours open and this much
    /// waiting.
    pub(crate) fn is_due(
        self,
        now: Time,
        in_flight: usize,
        commands: usize,
        bytes: usize,
        options: &Options,
    ) -> bool {
        let few = self.last_commands < Self::MANY_COMMANDS;
        let most_are_back = commands >= self.last_commands * 3 / 4;
        (in_flight == 0 && (few || most_are_back))
            || bytes >= options.value_bytes_max
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
        assert!(pacing.is_due(Time(4_000), 0, 1, 1, &options), "the first never waits");
        pacing.cut(Time(5_000), 1);
        assert!(pacing.is_due(Time(5_001), 0, 1, 1, &options));
        assert!(!pacing.is_due(Time(5_999), 1, 1, 1, &options));
        assert!(pacing.is_due(Time(6_000), 1, 1, 1, &options));
        assert!(pacing.is_due(Time(5_001), 1, 1, options.value_bytes_max, &options));
    }

    #[test]
    fn after_a_value_of_many_the_next_waits_for_most_of_them_and_no_longer_than_a_pace() {
        let options = Options::default();
        let mut pacing = Pacing::default();
        pacing.cut(Time(5_000), 40);
        assert!(!pacing.is_due(Time(5_500), 0, 29, 1, &options));
        assert!(pacing.is_due(Time(5_500), 0, 30, 1, &options));
        assert!(pacing.is_due(Time(6_000), 0, 1, 1, &options));
    }
}
