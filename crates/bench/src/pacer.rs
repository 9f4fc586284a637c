//! A schedule of arrivals at a fixed rate, for load that does not wait for
//! answers. Each request has the time at which it was due, and its latency
//! counts from there: were it counted from when a busy client got round to
//! sending, a stall would hide the requests that should have been sent in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Arrivals are due at multiples of this.
const TICK: Duration = Duration::from_micros(500);

/// Hands out tickets at a fixed rate.
#[derive(Debug, Clone)]
pub(crate) struct Pacer {
    start: Instant,
    per_tick: f64,
    tickets: Arc<Semaphore>,
    taken: Arc<AtomicU64>,
}

impl Pacer {
    /// The schedule starts now.
    pub(crate) fn new(rate_per_s: f64) -> Self {
        Self {
            start: Instant::now(),
            per_tick: rate_per_s * TICK.as_secs_f64(),
            tickets: Arc::new(Semaphore::new(0)),
            taken: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Waits for the next request's turn and gives the time it was due; none
    /// once the schedule has been ended.
    pub(crate) async fn ticket(&self) -> Option<Instant> {
        self.tickets.acquire().await.ok()?.forget();
        let ticket = self.taken.fetch_add(1, Ordering::Relaxed);
        Some(self.start + TICK * tick_of(ticket, self.per_tick))
    }

    pub(crate) fn end(&self) {
        self.tickets.close();
    }

    /// Releases tickets as they become due, until the schedule is ended. Runs
    /// on a thread of its own: the runtime's timers are only good to a
    /// millisecond, the system's sleep to some tens of microseconds.
    pub(crate) fn run(&self) {
        let mut released = 0;
        while !self.tickets.is_closed() {
            let ticks = self.start.elapsed().as_nanos() / TICK.as_nanos();
            let tick = u32::try_from(ticks).unwrap_or(u32::MAX - 1);
            let due = due_by(tick, self.per_tick);
            let release = usize::try_from(due - released).unwrap_or(usize::MAX);
            self.tickets.add_permits(release.min(Semaphore::MAX_PERMITS / 2));
            released = due;
            let next = self.start + TICK * (tick + 1);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
}

/// How many requests are due at a tick.
fn due_by(tick: u32, per_tick: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let due = (f64::from(tick) * per_tick) as u64;
    due
}

/// The tick at which a request, counted from 0, is due.
fn tick_of(ticket: u64, per_tick: f64) -> u32 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let tick = ((ticket + 1) as f64 / per_tick).ceil() as u32;
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_is_the_rate() {
        for rate in [1.0, 333.0, 5000.0, 123_456.0] {
            let per_tick = rate * TICK.as_secs_f64();
            let ticks_per_s = 2000;
            assert!((due_by(ticks_per_s, per_tick) as f64 - rate).abs() <= 1.0, "{rate}");
            for ticket in [0, 1, 17, 999] {
                let tick = tick_of(ticket, per_tick);
                // Due by its tick (rounding aside) and not two ticks earlier.
                assert!(due_by(tick + 1, per_tick) > ticket, "{rate} {ticket}");
                assert!(due_by(tick.saturating_sub(2), per_tick) <= ticket, "{rate} {ticket}");
            }
        }
    }

    #[tokio::test]
    async fn tickets_are_due_in_order_and_end_with_the_schedule() {
        let pacer = Pacer::new(20_000.0);
        let running = pacer.clone();
        let running = thread::spawn(move || running.run());
        let mut last = pacer.start;
        for _ in 0..200 {
            let due = pacer.ticket().await.unwrap();
            assert!(due >= last && due <= Instant::now() + TICK);
            last = due;
        }
        pacer.end();
        running.join().unwrap();
        assert_eq!(pacer.ticket().await, None);
    }
}
