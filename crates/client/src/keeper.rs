//! Keeps a lease alive in the background.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use synod_kv::LeaseId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::claim::Held;
use crate::client::Client;
use crate::error::ClientError;
use crate::moment::{Moment, before, sleep_until};
use crate::options::WriteOptions;
use crate::retry::Times;

/// The longest pause between two attempts to renew a lease.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Keeps a lease alive, and says when it is lost.
///
/// It renews the lease when a third of its time is over, or a little earlier, and goes on at
/// other nodes while that fails. A lease lives for its time to live from when its last
/// renewal was *asked for*, whatever becomes of the leader. The keeper counts the same time
/// here, without its last twentieth, and tells that the lease is lost at its end: so it says
/// so before anybody else can have what was held under it, as long as this process gets to run
/// and the clocks of both machines run at about the same rate. The time for which the machine
/// slept counts. But a process that was stopped, or a machine that slept, learns of it only
/// afterwards; that is what fencing tokens are for.
///
/// Dropped it stops, and asks the cluster to end the lease without waiting for that;
/// [`LeaseKeeper::close`] waits. It needs the tokio runtime in which it was made.
#[derive(Debug)]
pub struct LeaseKeeper {
    client: Client,
    id: LeaseId,
    ttl: Duration,
    state: watch::Receiver<State>,
    held: Arc<OnceLock<Held>>,
    task: JoinHandle<()>,
    /// Dropped it ends the lease.
    is_owner: bool,
}

/// Why a lease is not held any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LeaseLost {
    /// The cluster says so: its time was over, or somebody ended it.
    #[error("the cluster says that the lease is over")]
    Over,
    /// The lease lives, but not what was held under it: somebody let that go.
    #[error("somebody else let it go")]
    LetGo,
    /// Nobody confirmed in time that it lives. It may live for some time yet.
    #[error("nobody confirmed in time that the lease lives: {last}")]
    Unconfirmed {
        /// What the last attempt ended with.
        last: String,
    },
}

#[derive(Clone, Debug)]
struct State {
    /// It certainly lives until then.
    until: Moment,
    lost: Option<LeaseLost>,
    /// What the last attempt to renew it ended with, if that failed.
    last: String,
}

impl Client {
    /// Grants a lease and keeps it alive.
    ///
    /// # Errors
    /// As [`Client::grant`].
    pub async fn grant_kept(&self, ttl: Duration) -> Result<LeaseKeeper, ClientError> {
        let asked = Moment::now();
        let granted = self.grant(ttl, None, &WriteOptions::default()).await?;
        Ok(LeaseKeeper::start(self, granted.id, granted.ttl, asked, true))
    }

    /// Keeps a lease alive that is there already, and does not end it when it is dropped; none if
    /// there is no such lease.
    ///
    /// # Errors
    /// As [`Client::keep_alive`].
    pub async fn keep(&self, id: LeaseId) -> Result<Option<LeaseKeeper>, ClientError> {
        let asked = Moment::now();
        let ttl = self.keep_alive(id).await?;
        Ok(ttl.map(|ttl| LeaseKeeper::start(self, id, ttl, asked, false)))
    }
}

impl LeaseKeeper {
    fn start(client: &Client, id: LeaseId, ttl: Duration, asked: Moment, is_owner: bool) -> Self {
        let (until, last) = (asked.plus(certain(ttl)), "no answer".to_owned());
        let (sender, state) = watch::channel(State { until, lost: None, last });
        let held = Arc::<OnceLock<Held>>::default();
        let task = tokio::spawn(keep(client.clone(), (id, ttl, asked), sender, Arc::clone(&held)));
        Self { client: client.clone(), id, ttl, state, held, task, is_owner }
    }

    /// Has it looked at with each renewal whether this is still held under the lease.
    pub(crate) fn hold(&self, held: Held) {
        // It is one thing, for the whole life of a lease that was made for it.
        let _ = self.held.set(held);
    }

    /// The lease.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How long it lives without being renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Whether the lease certainly lives: it was renewed in time, by the clock as it is now. The
    /// time for which the machine slept counts.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.left().is_zero()
    }

    /// For how long the lease certainly lives if it is not renewed any more; zero when it is
    /// lost.
    #[must_use]
    pub fn left(&self) -> Duration {
        let state = self.state.borrow();
        if state.lost.is_some() { Duration::ZERO } else { state.until.left() }
    }

    /// Waits until the lease is lost.
    pub async fn lost(&self) -> LeaseLost {
        self.lost_within(Duration::ZERO).await
    }

    /// Waits until the lease is lost, or would be in `margin` if it was not renewed any more. It
    /// may be renewed once more after that.
    pub async fn lost_within(&self, margin: Duration) -> LeaseLost {
        let mut state = self.state.clone();
        loop {
            let State { until, lost, last } = state.borrow_and_update().clone();
            if let Some(lost) = lost {
                return lost;
            }
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() {
                    let last = "its keeper was stopped".to_owned();
                    return LeaseLost::Unconfirmed { last };
                },
                () = sleep_until(until.minus(margin)) => return LeaseLost::Unconfirmed { last },
            }
        }
    }

    /// Ends the lease, with all its keys, and waits for that.
    ///
    /// # Errors
    /// As [`Client::revoke`]. The lease ends by itself then.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.is_owner = false;
        self.task.abort();
        self.client.revoke(self.id, &WriteOptions::default()).await.map(|_| ())
    }

    /// Stops keeping the lease alive, and leaves it to end by itself or to be kept by another.
    pub fn leave(mut self) {
        self.is_owner = false;
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
        let is_over = self.state.borrow().lost == Some(LeaseLost::Over);
        if self.is_owner && !is_over {
            let (client, id) = (self.client.clone(), self.id);
            // Without a runtime the lease ends by itself.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                drop(
                    runtime.spawn(async move { client.revoke(id, &WriteOptions::default()).await }),
                );
            }
        }
    }
}

/// The part of its time in which a lease is called held.
fn certain(ttl: Duration) -> Duration {
    ttl - ttl / 20
}

/// Renews a lease until it is lost.
async fn keep(
    client: Client,
    (id, mut ttl, mut asked): (LeaseId, Duration, Moment),
    state: watch::Sender<State>,
    held: Arc<OnceLock<Held>>,
) {
    loop {
        // The leases of many clients that began at one moment are not renewed at one moment.
        let pause = ttl.mul_f64(0.25 + fastrand::f64() / 12.0);
        // Counted as its time is: an answer that came late has used up some of that.
        let next = asked.plus(pause);
        if let Some(held) = held.get() {
            // However long that takes, the lease is renewed when it is time.
            let is_lost = before(next, held.is_lost(&client)).await;
            if is_lost.unwrap_or(false) {
                return state.send_modify(|state| state.lost = Some(LeaseLost::LetGo));
            }
        }
        sleep_until(next).await;
        let until = state.borrow().until;
        let renewed = before(until, renew(&client, id, ttl, &state)).await;
        let lost = match renewed {
            Some(Some(renewed)) => {
                (asked, ttl) = renewed;
                let (until, last) = (asked.plus(certain(ttl)), "no answer".to_owned());
                state.send_replace(State { until, lost: None, last });
                continue;
            }
            Some(None) => LeaseLost::Over,
            None => LeaseLost::Unconfirmed { last: state.borrow().last.clone() },
        };
        return state.send_modify(|state| state.lost = Some(lost));
    }
}

/// Renews a lease, however often it must be tried. Answers when that was asked for, and its time;
/// none if it is over.
async fn renew(
    client: &Client,
    id: LeaseId,
    ttl: Duration,
    state: &watch::Sender<State>,
) -> Option<(Moment, Duration)> {
    let options = &client.retrier().options;
    // A node that hangs must leave time to ask the others.
    let attempt = options.attempt_timeout.min(ttl / 8).max(Duration::from_millis(1));
    let times = Times { call: options.call_timeout.min(ttl), attempt };
    loop {
        let asked = Moment::now();
        match client.keep_alive_within(id, times).await {
            Ok(kept) => return kept.map(|ttl| (asked, ttl)),
            Err(error) => state.send_modify(|state| state.last = error.to_string()),
        }
        // Whatever it is may pass. These attempts are beside the budget for retries, and few.
        sleep((ttl / 20).min(PAUSE_MAX).mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::tests::suspend;
    use crate::options::ClientOptions;

    const TTL: Duration = Duration::from_secs(20);

    /// The keeper of a lease that nobody confirms.
    fn keeper() -> LeaseKeeper {
        let client = Client::new(["http://127.0.0.1:1"], ClientOptions::default()).unwrap();
        LeaseKeeper::start(&client, LeaseId(7), TTL, Moment::now(), false)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_while_the_machine_sleeps() {
        let keeper = keeper();
        assert_eq!(keeper.left(), TTL - TTL / 20);
        suspend(TTL / 2);
        assert!(keeper.is_held());
        suspend(TTL / 2);
        assert!(!keeper.is_held());
        let woken = tokio::time::Instant::now();
        assert!(matches!(keeper.lost().await, LeaseLost::Unconfirmed { .. }));
        // The keeper hears of that, too, and not at the end of its time without the sleep.
        while keeper.state.borrow().lost.is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(woken.elapsed() <= TTL / 20);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_told_as_early_as_is_asked_for() {
        let (keeper, begun) = (keeper(), tokio::time::Instant::now());
        let margin = TTL / 5;
        assert!(matches!(keeper.lost_within(margin).await, LeaseLost::Unconfirmed { .. }));
        let left = keeper.left();
        assert!(keeper.is_held() && left <= margin && left > margin - TTL / 20, "{left:?}");
        keeper.lost().await;
        assert!(!keeper.is_held() && begun.elapsed() <= TTL);
    }
}
