//! Keeps the time of leases while this node leads, and renews them: the thin shell around
//! [`Timekeeper`](crate::timekeeper::Timekeeper), on the thread of the clients.
//!
//! The argument why nothing of it ends a lease before its time is in docs/leases.md.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use synod_api::{Refused, Replica};
use synod_kv::read::ReadError;
use synod_kv::{
    Command, KEEP_ALIVES_MAX, LeaseEpoch, LeaseId, LeaseOperation, MapError, Operation, Outcome,
    Taken, lease,
};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::replica::Handle;
use crate::shared::count;
use crate::timekeeper::{Expired, Proposal, Timekeeper};

/// How often it is looked who leads and what is over. Well below the timekeeper's pace.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a command may take. One that failed is tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much longer its answer is waited for.
const MARGIN: Duration = Duration::from_millis(50);
/// Expiries on their way at a time.
const EXPIRIES_MAX: usize = 256;
/// Leases that one look at the state passes by.
const PAGE: usize = 1_000;
/// Leases that are looked up in one go; then others have their turn.
const FINDS: usize = 64;
/// Commands that renew leases on their way at a time. What comes meanwhile shares the next.
const RENEWALS_MAX: usize = 2;
/// Leases that wait to be renewed by a command.
const WAITING_MAX: usize = 1 << 18;

/// What became of a proposal.
type Answered = (Proposal, Expired);

/// The leases as this node counts them, and who waits for their renewal.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    keeper: Mutex<Timekeeper>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
}

/// Renewals for the log.
#[derive(Debug, Default)]
struct Waiting {
    renewals: VecDeque<Renewal>,
    leases: usize,
}

type Ttls = Result<Vec<Option<u64>>, Refused>;

#[derive(Debug)]
struct Renewal {
    ids: Vec<LeaseId>,
    deadline: Instant,
    reply: oneshot::Sender<Ttls>,
}

impl Leases {
    fn keeper(&self) -> MutexGuard<'_, Timekeeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a lease lives at the least, in milliseconds, if this node counts it.
    pub(crate) fn left_ms(&self, id: LeaseId) -> Option<u64> {
        let mut keeper = self.keeper();
        keeper.look(Instant::now().into_std());
        keeper.left_ms(id)
    }

    /// Notes renewals, as far as that does what a command would. None if this node does not
    /// keep the time.
    fn note(&self, ids: &[LeaseId]) -> Option<(LeaseEpoch, Vec<bool>)> {
        let mut keeper = self.keeper();
        keeper.look(Instant::now().into_std());
        let epoch = keeper.epoch()?;
        Some((epoch, ids.iter().map(|id| keeper.renew(*id)).collect()))
    }

    /// The renewals for the next command.
    fn take_waiting(&self) -> Vec<Renewal> {
        let mut waiting = self.waiting();
        let (mut batch, mut leases) = (Vec::new(), 0);
        while let Some(next) = waiting.renewals.front() {
            if !batch.is_empty() && leases + next.ids.len() > KEEP_ALIVES_MAX {
                break;
            }
            leases += next.ids.len();
            batch.extend(waiting.renewals.pop_front());
        }
        waiting.leases -= leases;
        batch
    }
}

/// Keeps the time for as long as it is let.
pub(crate) async fn keep_time(handle: Handle) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expiries: JoinSet<Answered> = JoinSet::new();
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            Some(answered) = expiries.join_next() => {
                let mut answered = Some(answered);
                while let Some(Ok((proposal, expired))) = answered {
                    handle.leases().keeper().learn(proposal.id, proposal.attempt, expired);
                    answered = expiries.try_join_next();
                }
            }
        }
        // A state that can't be read has stopped the node.
        if let Ok(true) = handle.keeps_time().await {
            let room = EXPIRIES_MAX - expiries.len();
            for proposal in handle.expiries(room).unwrap_or_default() {
                expiries.spawn(expire(handle.clone(), proposal));
            }
        }
    }
}

/// Ends a lease through the log.
async fn expire(handle: Handle, proposal: Proposal) -> Answered {
    let expired = match handle.say(proposal.operation.clone()).await {
        Ok(Outcome::LeaseEnded { more: true, .. }) => Expired::More,
        Ok(Outcome::LeaseEnded { id, count, .. }) => {
            tracing::debug!(%id, count, "a lease is over");
            Expired::Gone
        }
        Ok(Outcome::LeaseNotFound { .. }) => Expired::Gone,
        Ok(Outcome::LeaseExpiryOld { .. }) => Expired::Old,
        Ok(_) | Err(_) => Expired::Unknown,
    };
    (proposal, expired)
}

/// Sends renewals through the log for as long as it is let. Those that wait at the same
/// moment share a command.
pub(crate) async fn renew_waiting(handle: Handle) {
    let mut commands = JoinSet::new();
    loop {
        handle.leases().arrived.notified().await;
        loop {
            while commands.len() >= RENEWALS_MAX {
                commands.join_next().await;
            }
            while commands.try_join_next().is_some() {}
            let batch = handle.leases().take_waiting();
            if batch.is_empty() {
                break;
            }
            commands.spawn(renew(handle.clone(), batch));
        }
    }
}

async fn renew(handle: Handle, batch: Vec<Renewal>) {
    let ids: Vec<LeaseId> = batch.iter().flat_map(|renewal| &renewal.ids).copied().collect();
    let deadline = batch.iter().map(|renewal| renewal.deadline).max();
    let command = Command {
        idempotency: None,
        operation: Operation::Lease(LeaseOperation::KeepAlive { ids }),
    };
    let taken = handle.write(command, deadline.unwrap_or_else(Instant::now)).await;
    let mut kept = match taken {
        Ok(Taken::Applied { outcome: Outcome::LeasesKept { ttls_ms, .. }, .. }) => Ok(ttls_ms),
        Ok(_) => Err(Refused::Lost),
        Err(refused) => Err(refused),
    };
    for renewal in batch {
        let part = match &mut kept {
            Ok(ttls_ms) => Ok(ttls_ms.drain(..renewal.ids.len().min(ttls_ms.len())).collect()),
            Err(refused) => Err(*refused),
        };
        // Whoever asked may be gone.
        let _ = renewal.reply.send(part);
    }
}

impl Handle {
    /// Whether this node keeps the time. It begins when it leads and there are leases.
    async fn keeps_time(&self) -> Result<bool, MapError> {
        let (leases, news) = (self.leases(), &self.shared().lease_news);
        leases.keeper().look(Instant::now().into_std());
        if !self.leads() {
            leases.keeper().resign();
            // Also when the office was lost while an epoch was begun.
            news.close();
            return Ok(false);
        }
        let kept = leases.keeper().epoch();
        if kept.is_some() && kept == Some(self.state(lease::epoch)?) {
            return Ok(true);
        }
        leases.keeper().resign();
        // An idle cluster need not write.
        if self.state(lease::count)? == 0 {
            return Ok(false);
        }
        // From before the epoch on, so that none is missing when the state is read.
        news.open();
        match self.say(LeaseOperation::BeginEpoch).await {
            Ok(Outcome::LeaseEpochBegun { epoch, .. }) => self.begin(epoch).await?,
            other => tracing::debug!(?other, "no epoch of leases was begun"),
        }
        Ok(false)
    }

    /// Counts every lease from now on.
    async fn begin(&self, epoch: LeaseEpoch) -> Result<(), MapError> {
        {
            let mut keeper = self.leases().keeper();
            keeper.look(Instant::now().into_std());
            keeper.begin(epoch, Vec::new());
        }
        let (mut from, mut count) = (LeaseId(0), 0);
        loop {
            let page = self.state(|map| lease::list(map, from, PAGE));
            // Who has not counted all of them must not keep the time.
            let page = page.inspect_err(|_| self.leases().keeper().resign())?;
            let last = page.last().map(|(id, _)| *id).filter(|_| page.len() == PAGE);
            count += page.len();
            {
                let mut keeper = self.leases().keeper();
                keeper.look(Instant::now().into_std());
                keeper.count(page);
            }
            let Some(next) = last.and_then(|last| last.0.checked_add(1)) else { break };
            from = LeaseId(next);
            tokio::task::yield_now().await;
        }
        tracing::debug!(epoch = epoch.0, leases = count, "this node keeps the time of leases");
        Ok(())
    }

    /// What is over by now.
    fn expiries(&self, room: usize) -> Result<Vec<Proposal>, MapError> {
        let applied = || self.state(lease::applied_slot);
        let find = |id| self.state(|map| lease::find(map, id));
        let news = || self.shared().lease_news.take();
        self.leases().keeper().over(room, applied, find, news, || Instant::now().into_std())
    }

    /// Renews leases: their times to live, none for those that are no more.
    pub(crate) async fn renew(&self, ids: Vec<LeaseId>, deadline: Instant) -> Ttls {
        let Some((epoch, noted)) = self.leases().note(&ids) else {
            return self.renew_by_command(ids, deadline).await;
        };
        // They are noted, and may be renewed by that, whatever is not known of it here.
        self.read_barrier(deadline).await.map_err(|_| Refused::Lost)?;
        let failed = |_: MapError| Refused::Lost;
        if self.state(lease::epoch).map_err(failed)? != epoch {
            return self.renew_by_command(ids, deadline).await;
        }
        let mut ttls_ms = Vec::with_capacity(ids.len());
        let (mut rest, mut kept) = (Vec::new(), 0);
        for (at, (id, is_noted)) in ids.iter().zip(noted).enumerate() {
            if at % FINDS == FINDS - 1 {
                tokio::task::yield_now().await;
            }
            let lease = self.state(|map| lease::find(map, *id)).map_err(failed)?;
            let lease = lease.filter(|lease| !lease.is_ending);
            if lease.is_some() && !is_noted {
                rest.push(at);
            }
            kept += usize::from(lease.is_some() && is_noted);
            ttls_ms.push(lease.map(|lease| lease.ttl_ms));
        }
        count(&self.shared().state.lease_renewals_unlogged, kept);
        if !rest.is_empty() {
            let by_command = rest.iter().map(|at| ids[*at]).collect();
            let kept = self.renew_by_command(by_command, deadline).await?;
            rest.into_iter().zip(kept).for_each(|(at, ttl_ms)| ttls_ms[at] = ttl_ms);
        }
        Ok(ttls_ms)
    }

    async fn renew_by_command(&self, ids: Vec<LeaseId>, deadline: Instant) -> Ttls {
        let (reply, answer) = oneshot::channel();
        {
            let mut waiting = self.leases().waiting();
            if waiting.leases + ids.len() > WAITING_MAX {
                return Err(Refused::Overloaded);
            }
            waiting.leases += ids.len();
            waiting.renewals.push_back(Renewal { ids, deadline, reply });
        }
        self.leases().arrived.notify_one();
        // The handler has a timer of its own. Without an answer it may be on its way.
        answer.await.unwrap_or(Err(Refused::Lost))
    }

    async fn say(&self, operation: LeaseOperation) -> Result<Outcome, Refused> {
        let command = Command { idempotency: None, operation: Operation::Lease(operation) };
        let deadline = Instant::now() + PATIENCE;
        // What was sent has no deadline of its own, and nobody else waits with a timer here.
        let taken = timeout_at(deadline + MARGIN, self.write(command, deadline)).await;
        match taken.unwrap_or(Err(Refused::Deadline))? {
            Taken::Applied { outcome, .. } => Ok(outcome),
            Taken::Duplicate | Taken::Gap => Err(Refused::Lost),
        }
    }

    /// Reads the state, which can't be compacted away from under this.
    fn state<T>(
        &self,
        read: impl FnOnce(&<Handle as Replica>::Map) -> Result<T, MapError>,
    ) -> Result<T, MapError> {
        self.read(|map| read(map).map_err(ReadError::Map)).map_err(|error| match error {
            ReadError::Map(error) => error,
            other => MapError(other.to_string()),
        })
    }
}
