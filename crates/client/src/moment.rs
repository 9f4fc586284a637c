//! Moments on a clock that goes on while the machine sleeps.
//!
//! `Instant` and the timers of the runtime stand still while the machine is suspended. What the
//! cluster counts does not: names of writes are forgotten, and leases end. So what is safe only up
//! to some moment is measured here, and looked at again after each wait.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often it is looked whether the machine has slept, while something is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// What is further away than this never comes.
const FAR: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A moment: the time of the runtime, which tests may hold, and all the time for which the machine
/// has slept by then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Moment(Instant);

impl Moment {
    pub(crate) fn now() -> Self {
        Self(Instant::now() + slept())
    }

    /// So much later, or so late that it never comes.
    pub(crate) fn plus(self, time: Duration) -> Self {
        Self(self.0.checked_add(time.min(FAR)).unwrap_or(self.0))
    }

    /// So much earlier.
    pub(crate) fn minus(self, time: Duration) -> Self {
        // Before the clock began everything is over.
        self.0.checked_sub(time).map_or_else(Self::now, Self)
    }

    /// How long it is until then; nothing when it is over.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Self::now().0)
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// How long ago it was.
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_duration_since(self.0)
    }
}

/// Waits for a moment. After the machine has slept it takes half a second more at the most.
pub(crate) async fn sleep_until(end: Moment) {
    while !end.is_over() {
        sleep(end.left().min(LOOK_EVERY)).await;
    }
}

/// Does `work`, of which nothing is begun any more when the moment is over; none then.
pub(crate) async fn before<T>(end: Moment, work: impl Future<Output = T>) -> Option<T> {
    let (mut over, mut work) = (pin!(sleep_until(end)), pin!(work));
    poll_fn(|task| {
        if end.is_over() || over.as_mut().poll(task).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(task).map(Some)
    })
    .await
}

/// For how long the machine has slept since it was started.
#[cfg(all(target_os = "linux", not(test)))]
fn slept() -> Duration {
    clock::slept()
}

/// Elsewhere it is not known.
#[cfg(all(not(target_os = "linux"), not(test)))]
fn slept() -> Duration {
    Duration::ZERO
}

#[cfg(target_os = "linux")]
#[cfg_attr(test, allow(dead_code, reason = "tests pretend"))]
mod clock {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    /// The clocks are read one after the other, and other processes may run in between.
    const READINGS: usize = 4;
    const CLOSE: Duration = Duration::from_micros(50);

    pub(super) fn slept() -> Duration {
        let mut closest = (Duration::MAX, Duration::ZERO);
        for _ in 0..READINGS {
            let before = read(ClockId::Monotonic);
            let boot = read(ClockId::Boottime);
            let after = read(ClockId::Monotonic);
            closest = closest.min((after.saturating_sub(before), boot.saturating_sub(after)));
            if closest.0 <= CLOSE {
                break;
            }
        }
        closest.1
    }

    fn read(clock: ClockId) -> Duration {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
        Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds)
    }
}

#[cfg(test)]
fn slept() -> Duration {
    tests::SLEPT.get()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        pub(super) static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// The machine sleeps for so long, as far as this thread can tell.
    pub(crate) fn suspend(time: Duration) {
        SLEPT.set(SLEPT.get() + time);
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_while_the_machine_sleeps() {
        let (begun, end) = (Moment::now(), Moment::now().plus(2 * MINUTE));
        tokio::time::advance(MINUTE).await;
        assert_eq!((begun.elapsed(), end.left()), (MINUTE, MINUTE));
        suspend(MINUTE);
        assert_eq!((begun.elapsed(), end.left()), (2 * MINUTE, Duration::ZERO));
        assert!(end.is_over() && !Moment::now().plus(Duration::MAX).is_over());
        assert!(end.minus(Duration::MAX).is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_soon_after_the_machine_has_slept() {
        let end = Moment::now().plus(60 * MINUTE);
        let waiting = tokio::spawn(sleep_until(end));
        let working = tokio::spawn(before(end, std::future::pending::<()>()));
        tokio::time::sleep(MINUTE).await;
        suspend(60 * MINUTE);
        let woken = Instant::now();
        waiting.await.unwrap();
        assert_eq!(working.await.unwrap(), None);
        assert!(woken.elapsed() <= LOOK_EVERY);
        // What was not begun in time is not begun.
        assert_eq!(before(end, async { unreachable!() }).await, None::<()>);
        assert_eq!(before(Moment::now().plus(MINUTE), async { 7 }).await, Some(7));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_clocks_of_the_machine_tell_how_long_it_slept() {
        let (first, second) = (clock::slept(), clock::slept());
        assert!(first.abs_diff(second) < Duration::from_secs(1), "{first:?} {second:?}");
    }
}
