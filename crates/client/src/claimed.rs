//! What is held under a lease of its own: a lock, or an office.

use std::time::Duration;

use synod_kv::{LeaseId, Revision};

use crate::error::ClientError;
use crate::keeper::{LeaseKeeper, LeaseLost};

/// A claim that was won, and is kept. [`LockGuard`](crate::LockGuard) and
/// [`Leadership`](crate::Leadership) are this and more.
#[derive(Debug)]
pub struct Claimed {
    keeper: LeaseKeeper,
    token: Revision,
}

impl Claimed {
    pub(crate) fn new(keeper: LeaseKeeper, token: Revision) -> Self {
        Self { keeper, token }
    }

    /// The fencing token: higher than that of every holder before.
    #[must_use]
    pub fn token(&self) -> Revision {
        self.token
    }

    /// The lease under which it is held. Keys that are put under it go with it.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.keeper.id()
    }

    /// How long it is held without being confirmed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.keeper.ttl()
    }

    /// Whether it is certainly held, by the clock as it is now: the time for which the machine
    /// has slept counts.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.keeper.is_held()
    }

    /// For how long it is certainly held if nobody confirms it any more; zero when it is not.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.keeper.left()
    }

    /// Waits until it is lost.
    pub async fn lost(&self) -> LeaseLost {
        self.keeper.lost().await
    }

    /// Waits until it is lost, or would be in `margin` if nobody confirmed it any more: for who
    /// needs so much time to stop what is guarded. It may be confirmed once more after that.
    pub async fn lost_within(&self, margin: Duration) -> LeaseLost {
        self.keeper.lost_within(margin).await
    }

    /// Lets it go, and waits for that.
    pub(crate) async fn close(self) -> Result<(), ClientError> {
        self.keeper.close().await
    }
}
