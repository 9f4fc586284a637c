//! How often the hub looks what happened.

use std::time::Duration;

use tokio::time::Instant;

/// From one look to the next, so that a commit a moment does not cost a look each.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// The most that it is in a rush. More was measured and gained nothing: what is told at once then
/// keeps the others waiting.
const LOOK_IN_RUSH: Duration = Duration::from_millis(10);
/// More revisions in a second are a rush.
const RUSH: u128 = 2_000;
/// In a rush so much time passes for each watch that a look wakes: to wake it, here and on the way
/// to its client, costs more than what it is told. So few watches are told as soon as ever, and
/// many are told more at a time.
const PER_WAKE: Duration = Duration::from_millis(1);
/// How full the fullest queue may be after the next look, in percent, if things go on as they were.
const FILL: u64 = 40;
/// By this part of itself the longest pause grows from look to look.
const GROWTH: u32 = 64;

/// When to look. Who takes what comes as fast as it comes is not to fall behind because it is told
/// more at a time: so a pause ends before the fullest queue would be full. The longest pause
/// grows slowly again, since a watch that fell behind, and is not handed anything for a while, says
/// nothing about how fast its queue fills.
#[derive(Debug)]
pub(crate) struct Pace {
    /// When the last look began.
    last: Instant,
    pause_max: Duration,
}

/// What a look found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Revisions that came since the look before.
    pub(crate) revisions: u64,
    /// How full the fullest queue was after it, in percent.
    pub(crate) fill: u64,
    /// Watches that were woken by it.
    pub(crate) woken: u64,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { last: now, pause_max: LOOK_EVERY }
    }

    /// When to look again, after a look that began then and found that.
    pub(crate) fn next_look(&mut self, begun: Instant, found: Found) -> Instant {
        let Found { revisions, fill, woken } = found;
        let since = begun - std::mem::replace(&mut self.last, begun);
        let until_full = since.as_micros() * u128::from(FILL) / u128::from(fill.max(1));
        let until_full = Duration::from_micros(u64::try_from(until_full).unwrap_or(u64::MAX));
        let grown = self.pause_max + self.pause_max / GROWTH;
        self.pause_max = grown.min(until_full).clamp(LOOK_EVERY, LOOK_IN_RUSH);
        let is_rush = u128::from(revisions) * 1_000_000 > RUSH * since.as_micros();
        if !is_rush {
            return begun + LOOK_EVERY;
        }
        let wakes = PER_WAKE.saturating_mul(u32::try_from(woken).unwrap_or(u32::MAX));
        begun + wakes.clamp(LOOK_EVERY, self.pause_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(time: Duration) -> u64 {
        u64::try_from(time.as_micros()).expect("a short time")
    }

    /// Looks again and again that find the same in each millisecond, until the pace is steady.
    fn steady(per_s: u64, fill_per_ms: u64, woken: u64) -> Duration {
        let (mut pace, mut begun) = (Pace::new(Instant::now()), Instant::now());
        let mut pause = LOOK_EVERY;
        for _ in 0..1_000 {
            begun += pause;
            let us = us(pause);
            let (revisions, fill) = (per_s * us / 1_000_000, fill_per_ms * us / 1_000);
            let found = Found { revisions, fill: fill.min(100), woken };
            pause = pace.next_look(begun, found) - begun;
        }
        pause
    }

    #[test]
    fn many_watches_are_told_rarely_in_a_rush_and_only_then() {
        assert_eq!(steady(1_000, 0, 10_000), LOOK_EVERY);
        assert_eq!(steady(10_000, 0, 10_000), LOOK_IN_RUSH);
    }

    #[test]
    fn few_watches_are_told_at_once_also_in_a_rush() {
        for (woken, wanted_ms) in [(0, 2), (1, 2), (7, 7), (9, 9), (u64::MAX, 10)] {
            assert_eq!(steady(10_000, 0, woken), Duration::from_millis(wanted_ms), "{woken}");
        }
    }

    #[test]
    fn looks_come_before_a_queue_is_full() {
        for (fill_per_ms, wanted_ms) in [(1, 10), (4, 10), (6, 7), (10, 4), (20, 2), (100, 2)] {
            let pause = us(steady(10_000, fill_per_ms, 10_000));
            let is_near = pause.abs_diff(wanted_ms * 1_000) <= wanted_ms * 1_000 / 5;
            assert!(is_near, "{pause} us when {fill_per_ms} % come in a millisecond");
        }
    }

    #[test]
    fn after_an_idle_hour_a_burst_is_no_rush() {
        let now = Instant::now();
        let begun = now + Duration::from_secs(3_600);
        let found = Found { revisions: 500, fill: 3, woken: 100 };
        assert_eq!(Pace::new(now).next_look(begun, found), begun + LOOK_EVERY);
        assert_eq!(Pace::new(now).next_look(now, found), now + LOOK_EVERY);
    }

    /// A watch of everything whose client takes all that comes, among many others. When its queue
    /// overflows it is away for a while, and says nothing then.
    #[test]
    fn a_fast_watch_falls_behind_now_and_then_at_the_most() {
        for per_s in [4_000, 24_000, 60_000] {
            // Events that fit: of small ones, and of larger ones and larger.
            for room in [1_024, 255, 81, 40].into_iter().filter(|room| room * 1_000 > per_s * 5) {
                for away_ms in [3, 15, 100] {
                    let start = Instant::now();
                    let (mut pace, mut begun, mut away_until) = (Pace::new(start), start, start);
                    let (mut pause, mut lags) = (LOOK_EVERY, 0);
                    while begun < start + Duration::from_secs(60) {
                        // A timer is late by up to a millisecond.
                        begun += pause + Duration::from_millis(1);
                        let since_ms = us(pause) / 1_000 + 1;
                        let revisions = per_s * since_ms / 1_000;
                        let is_away = begun < away_until;
                        let fill = if is_away { 0 } else { (revisions * 100 / room).min(101) };
                        if fill > 100 {
                            lags += 1;
                            away_until = begun + Duration::from_millis(away_ms);
                        }
                        let found = Found { revisions, fill: fill.min(100), woken: 1_000 };
                        pause = pace.next_look(begun, found) - begun;
                    }
                    assert!(lags <= 3, "{lags} of {per_s} a second, room for {room}, {away_ms} ms");
                }
            }
        }
    }
}
