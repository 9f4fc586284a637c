//! How often the hub looks what happened.

use std::time::Duration;

/// From one look to the next, so that a commit a moment does not cost a look each.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The same in a rush. Each look wakes those who are told, here and on the way to the clients, and
/// that costs more than what they are told: so more is told at a time the more there is.
const LOOK_IN_RUSH: Duration = Duration::from_millis(10);
/// More revisions in a second are a rush.
const RUSH: u128 = 2_000;

/// How long to wait after a look that passed so many revisions, which came since the one before.
pub(crate) fn pause(revisions: u64, since: Duration) -> Duration {
    let is_rush = u128::from(revisions) * 1_000_000 > RUSH * since.as_micros();
    if is_rush { LOOK_IN_RUSH } else { LOOK_EVERY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_rarer_in_a_rush_and_only_then() {
        for (revisions, ms, wanted) in [
            (0, 0, LOOK_EVERY),
            (4, 2, LOOK_EVERY),
            (5, 2, LOOK_IN_RUSH),
            (21, 10, LOOK_IN_RUSH),
            (20, 10, LOOK_EVERY),
            (9_000, 60_000, LOOK_EVERY),
            (u64::MAX, 1, LOOK_IN_RUSH),
        ] {
            assert_eq!(pause(revisions, Duration::from_millis(ms)), wanted, "{revisions} in {ms}");
        }
    }
}
