//! How often the hub looks what happened.

use std::time::Duration;

/// From one look to the next, so that a commit a moment does not cost a look each.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The same in a rush. Each look wakes those who are told, here and on the way to the clients, and
/// that costs more than what they are told: so more is told at a time the more there is.
const LOOK_IN_RUSH: Duration = Duration::from_millis(10);
/// More revisions in a second are a rush.
const RUSH: u128 = 2_000;

/// How full the fullest queue may be after the next look, in percent, if things go on as they were.
const FILL: u64 = 40;

/// What the last look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Revisions that came since the look before.
    pub(crate) revisions: u64,
    /// How long ago that one was.
    pub(crate) since: Duration,
    /// How full the fullest queue was after it, in percent.
    pub(crate) fill: u64,
}

/// How long to wait for the next look. Who takes what comes as fast as it comes is not to fall
/// behind because it is told more at a time.
pub(crate) fn pause(found: Found) -> Duration {
    let Found { revisions, since, fill } = found;
    let is_rush = u128::from(revisions) * 1_000_000 > RUSH * since.as_micros();
    if !is_rush {
        return LOOK_EVERY;
    }
    let until_full = since.as_micros() * u128::from(FILL) / u128::from(fill.max(1));
    let until_full = Duration::from_micros(u64::try_from(until_full).unwrap_or(u64::MAX));
    until_full.clamp(LOOK_EVERY, LOOK_IN_RUSH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_rarer_in_a_rush_and_only_then() {
        for (revisions, ms, wanted) in [
            (0, 0, LOOK_EVERY),
            (4, 2, LOOK_EVERY),
            (9, 4, LOOK_IN_RUSH),
            (21, 10, LOOK_IN_RUSH),
            (20, 10, LOOK_EVERY),
            (9_000, 60_000, LOOK_EVERY),
            (u64::MAX, 1, LOOK_IN_RUSH),
        ] {
            let found = Found { revisions, since: Duration::from_millis(ms), fill: 4 };
            assert_eq!(pause(found), wanted, "{revisions} in {ms}");
        }
    }

    #[test]
    fn looks_come_before_a_queue_is_full() {
        for (ms, fill, wanted_ms) in [
            (10, 0, 10),
            (10, 40, 10),
            (10, 50, 8),
            (10, 100, 4),
            (4, 40, 4),
            (2, 90, 2),
            (2, 8, 10),
        ] {
            let since = Duration::from_millis(ms);
            let found = Found { revisions: 1_000_000, since, fill };
            assert_eq!(pause(found), Duration::from_millis(wanted_ms), "{fill} % in {ms} ms");
        }
    }
}
