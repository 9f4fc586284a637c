//! Takes claims back that nobody waits for any more.

use std::time::Duration;

use bytes::Bytes;
use synod_kv::{
    Command, LeaseId, LeaseOperation, Operation, Outcome, Revision, Taken, lease as leases,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::call::Deadline;
use crate::claim;
use crate::context::Context;
use crate::lease;
use crate::problem::Problem;
use crate::replica::{Refused, Replica};

/// How long one attempt may take.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// Before the second attempt; each further one waits twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Removes the claim of a call that ends without holding what it claimed, also when its client
/// goes away, and also when it only found the claim of another call under its lease: that one's node
/// may be gone, and nobody else would ever take it back. Who still waits for it claims anew.
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
    /// The lease, if it was made for the claim.
    own: Option<Own>,
    /// The place of the call: as long as its claim is not removed nobody else has it, so there
    /// are never more claims to be removed than calls may wait.
    _place: OwnedSemaphorePermit,
}

/// A lease that was made for a claim.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Own {
    /// Nobody else has it.
    Alone(LeaseId),
    /// Other attempts of the same request, under its name, have it as well.
    Shared(LeaseId),
}

impl<R: Replica> Withdrawal<R> {
    /// Of a claim with this key that is made from now on.
    pub(crate) fn new(
        replica: &R,
        key: Bytes,
        since: Revision,
        own: Option<Own>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let replica = replica.clone();
        Self { what: Some(What { replica, key, since, token: None, own, _place: place }) }
    }

    /// The claim has this token; none if there may be another one by now.
    pub(crate) fn set_token(&mut self, token: Option<Revision>) {
        if let Some(what) = &mut self.what {
            what.token = token;
        }
    }

    /// The claim stays.
    pub(crate) fn cancel(&mut self) {
        self.what = None;
    }

    /// Removes the claim, and waits for that as long as the call may take.
    pub(crate) async fn now(mut self, deadline: Deadline) {
        if let Some(what) = self.what.take() {
            // It goes on when nobody waits for it any more.
            let _ = timeout_at(deadline.replica, tokio::spawn(what.withdraw())).await;
        }
    }
}

impl<R: Replica> Drop for Withdrawal<R> {
    fn drop(&mut self) {
        if let Some(what) = self.what.take()
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
        if !claim::is_withdrawn(&outcome) {
            return;
        }
        let deadline = Instant::now() + ATTEMPT_MAX;
        match self.own {
            Some(Own::Alone(lease)) => end_own(&self.replica, &self.key, lease, deadline).await,
            Some(Own::Shared(lease)) => end_shared(&self.replica, &self.key, lease, deadline).await,
            None => {}
        }
    }
}

/// Ends a lease that was made for a claim, when that is gone, unless it is claimed under it again. If
/// this fails the lease ends by itself.
pub(crate) async fn end_own<R: Replica>(
    replica: &R,
    key: &Bytes,
    lease: LeaseId,
    deadline: Instant,
) {
    let end = async {
        let is_claimed = replica.read_barrier(deadline).await.is_err()
            || replica.get(key).map_or(true, |look| look.record.is_some());
        if !is_claimed {
            let _ = replica.write(lease::revocation(lease), deadline).await;
        }
    };
    let _ = timeout_at(deadline, end).await;
}

/// Ends a lease that other attempts may have, if none of them claims under it. One that claims
/// from now on renews it through the log before its client is told, and what ends it here is of no
/// effect behind that; before that, the attempt learns that the lease is over, and makes it anew.
async fn end_shared<R: Replica>(replica: &R, key: &Bytes, lease: LeaseId, deadline: Instant) {
    let end = async {
        replica.read_barrier(deadline).await.ok()?;
        // Before the look for a claim: of a later one there is a later renewal.
        let find = |map: &R::Map| {
            Ok((leases::epoch(map)?, leases::find(map, lease)?.map(|lease| lease.renewals)))
        };
        let (epoch, renewals) = replica.read(find).ok()?;
        let operation = LeaseOperation::Expire { id: lease, epoch, renewals: renewals? };
        if replica.get(key).ok()?.record.is_none() {
            let command = Command { idempotency: None, operation: Operation::Lease(operation) };
            let _ = replica.write(command, deadline).await;
        }
        Some(())
    };
    let _ = timeout_at(deadline, end).await;
}

/// A lease that is granted for one call alone. It is ended if that call goes away before it has taken
/// it over, also while the grant is on its way.
pub(crate) struct Granted<R: Replica> {
    replica: R,
    id: Option<LeaseId>,
}

impl<R: Replica> Granted<R> {
    /// Asks for one. The inner refusal is of the state machine.
    ///
    /// # Errors
    /// When there is no outcome.
    pub(crate) async fn ask(
        context: &Context<R>,
        ttl_ms: u64,
        deadline: Deadline,
    ) -> Result<Result<Self, Outcome>, Problem> {
        let (give, take) = oneshot::channel();
        let _place = context.admission.write()?;
        let replica = context.replica.clone();
        tokio::spawn(async move {
            let taken = replica.write(lease::granting(None, ttl_ms), deadline.replica).await;
            let answer = taken.map(|taken| match taken {
                Taken::Applied { outcome: Outcome::LeaseGranted { id, .. }, .. } => {
                    Ok(Granted { replica, id: Some(id) })
                }
                other => Err(other),
            });
            // What nobody takes any more is dropped, and so ended.
            let _ = give.send(answer);
        });
        let taken = timeout_at(deadline.answer, take).await;
        let taken = taken.map_or(Err(Refused::Deadline), |sent| sent.unwrap_or(Err(Refused::Lost)));
        match taken.map_err(Problem::of_write)? {
            Ok(granted) => Ok(Ok(granted)),
            Err(Taken::Applied { outcome, .. }) => Ok(Err(outcome)),
            // Not the taking of this write, so not its outcome either.
            Err(Taken::Duplicate | Taken::Gap) => Err(Problem::of_write(Refused::Lost)),
        }
    }

    /// From now on the caller sees to its end.
    pub(crate) fn take(mut self) -> LeaseId {
        self.id.take().expect("it is taken once")
    }
}

impl<R: Replica> Drop for Granted<R> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let replica = self.replica.clone();
            drop(runtime.spawn(async move {
                let deadline = Instant::now() + ATTEMPT_MAX;
                let _ = timeout_at(deadline, replica.write(lease::revocation(id), deadline)).await;
            }));
        }
    }
}
