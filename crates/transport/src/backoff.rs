//! How long to wait before the next dial.

use std::time::Duration;

/// Dials that follow a closed connection so fast that they tell a dead process from
/// a slow network: at once, then after 1, 2, 4 and 8 ms.
pub(crate) const BURST_DIALS: u32 = 5;

/// A connection that was shorter than this proves nothing about the next one.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// So many short connections in a row may each be followed by a burst. Beyond it
/// something tears them down as fast as they come up, and a burst would only help
/// it to eat this node's time.
const SHORT_LIVES_MAX: u32 = 8;

/// The pauses between the dials of one lane.
#[derive(Debug)]
pub(crate) struct Backoff {
    dials: u32,
    short_lives: u32,
    pause_ms_max: u64,
}

impl Backoff {
    pub(crate) fn new(pause_ms_max: u64) -> Self {
        Backoff { dials: 0, short_lives: 0, pause_ms_max }
    }

    /// The pause before the next dial. `jitter` is in 0..1.
    pub(crate) fn next_pause(&mut self, jitter: f64) -> Duration {
        let dial = self.dials;
        self.dials = self.dials.saturating_add(1);
        if dial == 0 {
            return Duration::ZERO;
        }
        let pause_ms = 1_u64 << (dial - 1).min(20);
        if dial < BURST_DIALS {
            return Duration::from_millis(pause_ms);
        }
        // From here on two nodes that lost each other must not dial in step.
        Duration::from_millis(pause_ms.min(self.pause_ms_max)).mul_f64(0.5 + jitter / 2.0)
    }

    /// A connection that had finished its handshake was closed after `life`.
    pub(crate) fn connection_closed(&mut self, life: Duration) {
        self.short_lives = if life < SHORT_LIFE { self.short_lives + 1 } else { 0 };
        self.dials = if self.short_lives > SHORT_LIVES_MAX { BURST_DIALS + 5 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses_ms(backoff: &mut Backoff, count: usize, jitter: f64) -> Vec<u128> {
        (0..count).map(|_| backoff.next_pause(jitter).as_millis()).collect()
    }

    #[test]
    fn pauses_grow_to_the_limit() {
        let mut backoff = Backoff::new(500);
        let expected = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500];
        assert_eq!(pauses_ms(&mut backoff, 12, 1.0), expected);
        assert_eq!(pauses_ms(&mut backoff, 100, 0.0), [250; 100]);
    }

    #[test]
    fn the_burst_has_no_jitter_and_ends_within_20_ms() {
        let mut backoff = Backoff::new(500);
        let burst = pauses_ms(&mut backoff, BURST_DIALS as usize, 0.0);
        assert_eq!(burst, [0, 1, 2, 4, 8]);
        assert!(burst.iter().sum::<u128>() < 20);
    }

    #[test]
    fn a_closed_connection_is_dialled_again_at_once() {
        let mut backoff = Backoff::new(500);
        pauses_ms(&mut backoff, 20, 1.0);
        backoff.connection_closed(Duration::from_secs(5));
        assert_eq!(backoff.next_pause(1.0), Duration::ZERO);
    }

    #[test]
    fn connections_that_never_last_are_dialled_slowly() {
        let mut backoff = Backoff::new(500);
        for _ in 0..SHORT_LIVES_MAX {
            backoff.connection_closed(Duration::from_millis(1));
            assert_eq!(backoff.next_pause(1.0), Duration::ZERO);
        }
        backoff.connection_closed(Duration::from_millis(1));
        assert!(backoff.next_pause(0.0) >= Duration::from_millis(250));
        backoff.connection_closed(SHORT_LIFE);
        assert_eq!(backoff.next_pause(1.0), Duration::ZERO);
    }
}
