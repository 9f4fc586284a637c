//! Counts the time of leases while this node leads. It has no clock, no state machine and no
//! network: it is told the time and what happened, and says which leases are over.
//!
//! Its own time passes no faster than the clock's, and no faster than somebody looks: what a
//! process that was stopped could not hear in the meantime must not cost a lease its life.
//! docs/leases.md has the argument why no lease ends before its time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use synod_kv::{Lease, LeaseEpoch, LeaseId, LeaseOperation, MapError};

use crate::lease_news::{News, Told};

/// More time than this does not pass between two looks.
pub const PACE_MAX: Duration = Duration::from_millis(200);
/// When something is tried, or looked at, again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Who counts.
#[derive(Debug, Default)]
pub struct Timekeeper {
    looked_at: Option<Instant>,
    /// The time that has passed.
    now: Duration,
    /// Attempts to end a lease so far.
    attempts: u64,
    /// None while this node does not keep the time.
    keeping: Option<Keeping>,
}

/// What is known in an epoch.
#[derive(Debug)]
struct Keeping {
    epoch: LeaseEpoch,
    leases: HashMap<LeaseId, Counted>,
    /// When which lease is to be looked at: never later than when it is over. A renewal
    /// leaves it where it stands, so it costs no more than finding the lease.
    queue: BTreeSet<(Duration, LeaseId)>,
}

/// A lease that is counted.
#[derive(Debug)]
struct Counted {
    ttl_ms: u64,
    /// Not to be ended before.
    over: Duration,
    /// Where it stands in the queue.
    queued: Option<Duration>,
    /// It comes to its end, says the state.
    is_ending: bool,
    /// The expiry that may have effect yet.
    expiring: Option<Attempt>,
    /// The slot of its grant or last renewal, as far as that time is counted.
    renewals: u64,
    /// The last slot of which something was heard about it. An older state says nothing.
    heard: u64,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    number: u64,
    /// Of one of them nobody knows whether it will have effect.
    is_unknown: bool,
}

/// What is to be said through the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// The lease.
    pub id: LeaseId,
    /// Names the attempt, for its answer.
    pub attempt: u64,
    /// What it is.
    pub operation: LeaseOperation,
}

/// What came of a proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expired {
    /// The lease is no more.
    Gone,
    /// It has further keys.
    More,
    /// It had no effect.
    Old,
    /// Nobody knows.
    Unknown,
}

/// A look moves so many leases at most that were renewed meanwhile.
const MOVES_MAX: usize = 10_000;

impl Timekeeper {
    /// Lets the time pass up to this moment.
    pub fn look(&mut self, now: Instant) {
        let passed = self.looked_at.map(|at| now.saturating_duration_since(at));
        self.now += passed.unwrap_or_default().min(PACE_MAX);
        self.looked_at = Some(now);
    }

    /// The epoch in which this node keeps the time, if it does.
    pub fn epoch(&self) -> Option<LeaseEpoch> {
        self.keeping.as_ref().map(|keeping| keeping.epoch)
    }

    /// This node does not keep the time any more.
    pub fn resign(&mut self) {
        self.keeping = None;
    }

    /// This node keeps the time from now on. All these leases live for their full time.
    pub fn begin(&mut self, epoch: LeaseEpoch, leases: Vec<(LeaseId, Lease)>) {
        self.keeping = Some(Keeping { epoch, leases: HashMap::new(), queue: BTreeSet::new() });
        self.count(leases);
    }

    /// Counts further leases that are in the state since before the epoch began, if this node still
    /// keeps the time: they live for their full time from now on. Many are handed over in parts,
    /// for others wait meanwhile.
    pub fn count(&mut self, leases: Vec<(LeaseId, Lease)>) {
        let Some(keeping) = &mut self.keeping else { return };
        for (id, lease) in leases {
            keeping.see(id, lease, lease.renewals, self.now);
            keeping.wait_for_end(id, self.now);
        }
    }

    /// What is over by now, at most so much. The state is looked at first, by `find` and up to
    /// which slot it is by `applied`, and the news are heard only then: so no renewal that
    /// the state shows is unheard when it is decided. What is heard counts from what `clock` shows
    /// then: it may have happened long after the last look at the time. Without news nobody knows
    /// what happened, so another epoch is to be begun.
    ///
    /// # Errors
    /// When the state can't be read. Leases that could not be looked up have their turn again.
    pub fn over(
        &mut self,
        limit: usize,
        applied: impl FnOnce() -> Result<u64, MapError>,
        mut find: impl FnMut(LeaseId) -> Result<Option<Lease>, MapError>,
        news: impl FnOnce() -> Option<Vec<News>>,
        clock: impl FnOnce() -> Instant,
    ) -> Result<Vec<Proposal>, MapError> {
        let applied = applied()?;
        let due = self.due(limit);
        let found: Vec<_> = due.into_iter().map(|id| (id, find(id))).collect();
        let Some(news) = news() else {
            self.resign();
            return Ok(Vec::new());
        };
        self.look(clock());
        self.hear(news);
        let mut proposals = Vec::new();
        let mut failed = None;
        for (id, lease) in found {
            match lease {
                Ok(lease) => proposals.extend(self.judge(id, lease, applied)),
                Err(error) => {
                    self.again(id);
                    failed = Some(error);
                }
            }
        }
        // What is over is said also if something else can't be read.
        failed.filter(|_| proposals.is_empty()).map_or(Ok(proposals), Err)
    }

    /// Hears what happened in the log.
    fn hear(&mut self, news: Vec<News>) {
        let Some(keeping) = &mut self.keeping else { return };
        let now = self.now;
        for News { slot, told } in news {
            match told {
                Told::Stands { id, lease: Some(lease) } => {
                    keeping.see(id, lease, slot, now);
                    keeping.wait_for_end(id, now);
                }
                Told::Stands { id, lease: None } => keeping.end(id, slot),
                Told::Renewed { ids } => ids.iter().for_each(|id| keeping.renewed(*id, slot, now)),
            }
        }
    }

    /// Notes that somebody renews a lease now. Only if that does what a command would: not if
    /// this node does not count it, or an expiry may be ahead of it in the log.
    pub fn renew(&mut self, id: LeaseId) -> bool {
        let now = self.now;
        let Some(counted) = self.keeping.as_mut().and_then(|k| k.leases.get_mut(&id)) else {
            return false;
        };
        if counted.is_ending || counted.expiring.is_some() {
            return false;
        }
        counted.over = counted.over.max(end_of(now, counted.ttl_ms));
        true
    }

    /// How long a lease lives at the least, in milliseconds; none if this node does not
    /// count it.
    pub fn left_ms(&self, id: LeaseId) -> Option<u64> {
        let counted = self.keeping.as_ref()?.leases.get(&id)?;
        let left = counted.over.saturating_sub(self.now);
        let left = if counted.is_ending { Duration::ZERO } else { left };
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// The leases that may be over, at most so many.
    fn due(&mut self, limit: usize) -> Vec<LeaseId> {
        let Some(keeping) = &mut self.keeping else { return Vec::new() };
        let mut due = Vec::new();
        // All leases of one time to live stand at one moment after a change of the leader. Who was
        // renewed moves on, and the rest has its turn at the next look, a little late.
        for _ in 0..MOVES_MAX {
            if due.len() >= limit {
                break;
            }
            let Some((at, id)) = keeping.queue.first().copied() else { break };
            if at > self.now {
                break;
            }
            keeping.queue.pop_first();
            let Some(counted) = keeping.leases.get_mut(&id) else { continue };
            counted.queued = None;
            let over = counted.over;
            if over > self.now && !counted.is_ending {
                keeping.queue_at(id, over);
            } else {
                due.push(id);
            }
        }
        due
    }

    /// Has a lease looked up again.
    fn again(&mut self, id: LeaseId) {
        let at = self.now + AGAIN_AFTER;
        if let Some(keeping) = &mut self.keeping {
            keeping.queue_at(id, at);
        }
    }

    /// What to do about a lease that was due. `found` is how it stands in the state, which has
    /// everything up to the slot `applied` at the least. What the state says counts, whatever
    /// was heard.
    fn judge(&mut self, id: LeaseId, found: Option<Lease>, applied: u64) -> Option<Proposal> {
        let now = self.now;
        let keeping = self.keeping.as_mut()?;
        let epoch = keeping.epoch;
        if applied < keeping.leases.get(&id)?.heard {
            // What was heard is not in the state yet. It soon is.
            keeping.queue_at(id, now);
            return None;
        }
        let Some(lease) = found else {
            keeping.remove(id);
            return None;
        };
        keeping.see(id, lease, applied, now);
        let counted = keeping.leases.get_mut(&id)?;
        if counted.over > now && !counted.is_ending {
            let over = counted.over;
            keeping.queue_at(id, over);
            return None;
        }
        self.attempts += 1;
        let is_unknown = counted.expiring.is_some();
        counted.expiring = Some(Attempt { number: self.attempts, is_unknown });
        let operation = LeaseOperation::Expire { id, epoch, renewals: lease.renewals };
        Some(Proposal { id, attempt: self.attempts, operation })
    }

    /// Learns what came of a proposal. What is not the last one of its lease says nothing.
    pub fn learn(&mut self, id: LeaseId, attempt: u64, expired: Expired) {
        let now = self.now;
        let Some(keeping) = &mut self.keeping else { return };
        let Some(counted) = keeping.leases.get_mut(&id) else { return };
        let Some(expiring) = counted.expiring.as_mut().filter(|own| own.number == attempt) else {
            return;
        };
        match expired {
            // The news say so, too, and whether there is another one of this name.
            Expired::Gone => self.again(id),
            Expired::More => keeping.go_on(id, now),
            Expired::Old => {
                // Somebody renewed it, and that may not have been heard here.
                if !expiring.is_unknown {
                    counted.expiring = None;
                }
                counted.over = counted.over.max(end_of(now, counted.ttl_ms));
                let over = counted.over;
                keeping.queue_at(id, over);
            }
            Expired::Unknown => {
                expiring.is_unknown = true;
                keeping.queue_at(id, now + AGAIN_AFTER);
            }
        }
    }

    /// How many leases are counted.
    #[cfg(test)]
    fn counted(&self) -> usize {
        self.keeping.as_ref().map_or(0, |keeping| keeping.leases.len())
    }
}

impl Keeping {
    /// Takes note of how a lease stands after a slot. If it was granted or renewed behind what
    /// is counted it lives for its full time from now on, and every expiry that was proposed
    /// before has no effect any more: it names another slot.
    fn see(&mut self, id: LeaseId, lease: Lease, slot: u64, now: Duration) {
        let Lease { ttl_ms, renewals, is_ending, .. } = lease;
        let full = end_of(now, ttl_ms);
        let counted = self.leases.entry(id).or_insert(Counted {
            ttl_ms,
            over: full,
            queued: None,
            is_ending,
            expiring: None,
            renewals,
            heard: slot,
        });
        if slot < counted.heard {
            return;
        }
        if renewals > counted.renewals || counted.ttl_ms != ttl_ms {
            counted.over = counted.over.max(full);
            counted.expiring = None;
        }
        *counted = Counted { ttl_ms, is_ending, renewals, heard: slot, ..*counted };
    }

    /// Has it looked at when it is over, unless somebody waits for its expiry already.
    fn wait_for_end(&mut self, id: LeaseId, now: Duration) {
        if let Some(counted) = self.leases.get(&id)
            && counted.expiring.is_none()
        {
            let at = if counted.is_ending { now } else { counted.over };
            self.queue_at(id, at);
        }
    }

    /// A command of a slot renewed it.
    fn renewed(&mut self, id: LeaseId, slot: u64, now: Duration) {
        let Some(counted) = self.leases.get_mut(&id) else { return };
        counted.over = counted.over.max(end_of(now, counted.ttl_ms));
        counted.renewals = counted.renewals.max(slot);
        counted.heard = counted.heard.max(slot);
        if counted.expiring.take().is_some() {
            self.wait_for_end(id, now);
        }
    }

    /// It comes to its end and has keys left.
    fn go_on(&mut self, id: LeaseId, now: Duration) {
        if let Some(counted) = self.leases.get_mut(&id) {
            counted.is_ending = true;
            self.queue_at(id, now);
        }
    }

    /// After this slot it was no more.
    fn end(&mut self, id: LeaseId, slot: u64) {
        if self.leases.get(&id).is_some_and(|counted| counted.heard <= slot) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(counted) = self.leases.remove(&id)
            && let Some(at) = counted.queued
        {
            self.queue.remove(&(at, id));
        }
    }

    /// Has it looked at then, or before if it is queued before.
    fn queue_at(&mut self, id: LeaseId, at: Duration) {
        let Some(counted) = self.leases.get_mut(&id) else { return };
        match counted.queued {
            Some(before) if before <= at => {}
            before => {
                if let Some(before) = before {
                    self.queue.remove(&(before, id));
                }
                counted.queued = Some(at);
                self.queue.insert((at, id));
            }
        }
    }
}

fn end_of(now: Duration, ttl_ms: u64) -> Duration {
    now.saturating_add(Duration::from_millis(ttl_ms))
}

#[cfg(test)]
mod tests;
