//! How long a node says nothing to somebody who waits for it.

use std::future::Future;
use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

/// What comes is noticed only while somebody waits. Who comes back after a long while waits at
/// least for so long, in all.
const LISTEN_MIN: Duration = Duration::from_secs(1);
/// Nobody waits for longer.
const LISTEN_MAX: Duration = Duration::from_secs(366 * 86_400);

/// A silence, from when something was waited for first until something comes. It outlives the
/// futures that wait: who drops one and makes another, as `select!` in a loop does, goes on
/// with the same silence.
#[derive(Default, Debug)]
pub(crate) struct Silence {
    since: Option<Instant>,
    /// Until when somebody listens who came back when it had lasted too long.
    last_chance: Option<Instant>,
}

impl Silence {
    /// Waits for what comes next.
    ///
    /// # Errors
    /// When nothing came for `max`.
    pub(crate) async fn wait<T>(
        &mut self,
        max: Duration,
        next: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let now = Instant::now();
        let end = *self.since.get_or_insert(now) + max.min(LISTEN_MAX);
        let end = if end > now {
            end
        } else {
            *self.last_chance.get_or_insert(now + max.min(LISTEN_MIN))
        };
        let next = timeout_at(end, next).await?;
        *self = Self::default();
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, timeout};

    use super::*;

    const MAX: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(100);

    /// Waits again and again for a short time; how long that was when the silence was too long.
    async fn listen(silence: &mut Silence) -> Duration {
        let begun = Instant::now();
        loop {
            match timeout(SHORT, silence.wait(MAX, pending::<()>())).await {
                Err(_dropped) => assert!(begun.elapsed() < MAX * 2, "it is not noticed"),
                Ok(heard) => {
                    heard.unwrap_err();
                    return begun.elapsed();
                }
            }
        }
    }

    /// Timers are a millisecond late, each of them.
    fn assert_lasts(time: Duration, expected: Duration) {
        assert!(time >= expected && time < expected + 5 * SHORT, "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silence_goes_on_while_futures_are_dropped_and_made_again() {
        let mut silence = Silence::default();
        assert_lasts(listen(&mut silence).await, MAX);
        let mut silence = Silence::default();
        let _ = timeout(SHORT, silence.wait(MAX, pending::<()>())).await;
        assert_eq!(silence.wait(Duration::MAX, ready(7)).await, Ok(7));
        // It begins anew when something came.
        assert_lasts(listen(&mut silence).await, MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_away_listens_before_it_calls_the_other_dead() {
        let mut silence = Silence::default();
        let _ = timeout(SHORT, silence.wait(MAX, pending::<()>())).await;
        advance(MAX * 2).await;
        let late = async {
            tokio::time::sleep(LISTEN_MIN / 2).await;
            7
        };
        assert_eq!(silence.wait(MAX, late).await, Ok(7));
        let _ = timeout(SHORT, silence.wait(MAX, pending::<()>())).await;
        advance(MAX * 2).await;
        assert_lasts(listen(&mut silence).await, LISTEN_MIN);
    }
}
