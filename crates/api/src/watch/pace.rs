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
/// behind because it is told more at a time: so the pause ends before the fullest queue would be
/// full, and grows from look to look to twice of what it was at the most, since a watch that was
/// not handed anything lately says nothing about how fast its queue fills.
pub(crate) fn pause(found: Found) -> Duration {
    let Found { revisions, since, fill } = found;
    let is_rush = u128::from(revisions) * 1_000_000 > RUSH * since.as_micros();
    if !is_rush {
        return LOOK_EVERY;
    }
    let until_full = since.as_micros() * u128::from(FILL) / u128::from(fill.max(1));
    let until_full = Duration::from_micros(u64::try_from(until_full).unwrap_or(u64::MAX));
    until_full.min(2 * since).clamp(LOOK_EVERY, LOOK_IN_RUSH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(revisions: u64, since_ms: u64, fill: u64) -> Found {
        Found { revisions, since: Duration::from_millis(since_ms), fill }
    }

    #[test]
    fn looks_are_rarer_in_a_rush_and_only_then() {
        for (revisions, ms, wanted_ms) in [
            (0, 0, 2),
            (4, 2, 2),
            (5, 2, 4),
            (9, 4, 8),
            (17, 8, 10),
            (21, 10, 10),
            (20, 10, 2),
            (9_000, 60_000, 2),
            (u64::MAX, 1, 2),
        ] {
            let wanted = Duration::from_millis(wanted_ms);
            assert_eq!(pause(found(revisions, ms, 4)), wanted, "{revisions} in {ms} ms");
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
            (2, 8, 4),
        ] {
            let wanted = Duration::from_millis(wanted_ms);
            assert_eq!(pause(found(1_000_000, ms, fill)), wanted, "{fill} % in {ms} ms");
        }
    }

    /// A watch of everything whose client takes all that comes, also one that comes in the midst
    /// of a rush.
    #[test]
    fn the_queue_of_a_fast_watch_is_never_full() {
        let queue = crate::limits::Limits::default().watch_queue_events_max as u64;
        for rate in (1_000..=60_000).step_by(500) {
            for joins_at in 0..20 {
                let mut since = LOOK_EVERY;
                for look in 0..40 {
                    let revisions = rate * since.as_micros() as u64 / 1_000_000;
                    let in_queue = if look < joins_at { 0 } else { revisions };
                    assert!(in_queue <= queue, "{in_queue} at {rate} a second, look {look}");
                    since = pause(Found { revisions, since, fill: in_queue * 100 / queue });
                }
            }
        }
    }
}
