//! Takes claims back that nobody waits for any more.

use std::time::Duration;

use bytes::Bytes;
use synod_kv::{LeaseId, Outcome, Revision, Taken};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};

use crate::call::Deadline;
use crate::claim;
use crate::lease;
use crate::replica::{Refused, Replica};

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Before the second attempt; each further one waits twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Removes the claim of a call that ends without holding what it claimed, also when its client
/// goes away.
pub(crate) struct Withdrawal<R: Replica> {
    /// None when there is nothing to remove.
    what: Option<What<R>>,
}

struct What<R> {
    replica: R,
    key: Bytes,
    /// The claim was made after this revision.
    since: Revision,
    /// Which one it is, once that is known.
    token: Option<Revision>,
    /// Another call made it.
    is_found: bool,
    /// The lease that was made for the claim alone.
    own: Option<LeaseId>,
    /// The place of the call: as long as its claim is not removed nobody else has it, so there
    /// are never more claims to be removed than calls may wait.
    _place: OwnedSemaphorePermit,
}

impl<R: Replica> Withdrawal<R> {
    /// Of a claim with this key that is made from now on.
    pub(crate) fn new(
        replica: &R,
        key: Bytes,
        since: Revision,
        own: Option<LeaseId>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let replica = replica.clone();
        Self {
            what: Some(What {
                replica,
                key,
                since,
                token: None,
                is_found: false,
                own,
                _place: place,
            }),
        }
    }

    /// The claim has this token; none if there may be another one by now.
    pub(crate) fn set_token(&mut self, token: Option<Revision>) {
        if let Some(what) = &mut self.what {
            what.token = token;
            what.is_found = false;
        }
    }

    /// Whether the claim was there already: then it is that of another call under the lease.
    pub(crate) fn set_found(&mut self, is_found: bool) {
        if let Some(what) = &mut self.what {
            what.is_found = is_found;
        }
    }

    /// The claim stays.
    pub(crate) fn cancel(&mut self) {
        self.what = None;
    }

    /// Removes the claim, and waits for that as long as the call may take.
    pub(crate) async fn now(mut self, deadline: Deadline) {
        if let Some(what) = self.what.take().filter(|what| !what.is_found) {
            // It goes on when nobody waits for it any more.
            let _ = timeout_at(deadline.replica, tokio::spawn(what.withdraw())).await;
        }
    }
}

impl<R: Replica> Drop for Withdrawal<R> {
    fn drop(&mut self) {
        if let Some(what) = self.what.take().filter(|what| !what.is_found)
            // Where the server ends there is nobody to do it: the lease ends by itself.
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            drop(runtime.spawn(what.withdraw()));
        }
    }
}

impl<R: Replica> What<R> {
    /// A claim that is left over stands in the way of all behind it for as long as its lease
    /// lives. So it is tried until there is an outcome, which also says that the claim itself
    /// is not on its way any more: what this node sent before was taken before.
    async fn withdraw(self) {
        let mut pause = PAUSE_MIN;
        let outcome = loop {
            let withdrawal = claim::withdrawal(self.key.clone(), self.since, self.token);
            let deadline = Instant::now() + ATTEMPT_MAX;
            match timeout_at(deadline, self.replica.write(withdrawal, deadline)).await {
                Ok(Ok(Taken::Applied { outcome, .. })) => break outcome,
                Ok(Err(Refused::Stopping)) => return,
                Ok(_) | Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        };
        // Another call that holds under the same lease keeps it. If this fails the lease ends by
        // itself, and nobody waits for that.
        if let Some(lease) = self.own
            && matches!(outcome, Outcome::Txn { succeeded: true, .. })
        {
            let deadline = Instant::now() + ATTEMPT_MAX;
            let revocation = self.replica.write(lease::revocation(lease), deadline);
            let _ = timeout_at(deadline, revocation).await;
        }
    }
}
