//! Counts the time of leases while this node leads. It has no clock, no state machine and no
//! network: it is told the time and what happened, and says which leases are over.
//!
//! Its own time passes no faster than the clock's, and no faster than somebody looks: what a
//! process that was stopped could not hear in the meantime must not cost a lease its life.
//! docs/leases.md has the argument why no lease ends before its time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use synod_kv::{Lease, LeaseEpoch, LeaseId, LeaseOperation};

use crate::lease_news::News;

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
    /// Whether it is still there is to be looked up, though it is not over.
    is_doubtful: bool,
    /// It was said that it comes to its end.
    is_ending: bool,
    /// The expiry that may have effect yet.
    expiring: Option<Attempt>,
    /// The commits of the state when it became known. It is in the state after one more.
    commits: u64,
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
        let mut keeping =
            Keeping { epoch, leases: HashMap::with_capacity(leases.len()), queue: BTreeSet::new() };
        for (id, lease) in leases {
            let Lease { ttl_ms, is_ending, .. } = lease;
            keeping.count(id, ttl_ms, self.now, 0);
            if is_ending {
                keeping.end(id, self.now);
            }
        }
        self.keeping = Some(keeping);
    }

    /// Hears what happened in the log. The state had so many commits when it was told.
    pub fn hear(&mut self, news: Vec<News>, commits: u64) {
        let Some(keeping) = &mut self.keeping else { return };
        let now = self.now;
        for news in news {
            match news {
                News::Granted { id, ttl_ms } => keeping.count(id, ttl_ms, now, commits),
                News::Renewed { ids } => ids.iter().for_each(|id| keeping.renewed(*id, now)),
                News::Ended { id, more: true, .. } => keeping.end(id, now),
                News::Ended { id, is_named: false, .. } => keeping.remove(id),
                News::Ended { id, .. } => keeping.doubt(id, now + AGAIN_AFTER),
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

    /// The leases that may be over, at most so many. Each has to be looked up in the state, then
    /// the news have to be heard, and then it is told to [`Timekeeper::judge`].
    pub fn due(&mut self, limit: usize) -> Vec<LeaseId> {
        let Some(keeping) = &mut self.keeping else { return Vec::new() };
        let mut due = Vec::new();
        while due.len() < limit {
            let Some((at, id)) = keeping.queue.first().copied() else { break };
            if at > self.now {
                break;
            }
            keeping.queue.pop_first();
            let Some(counted) = keeping.leases.get_mut(&id) else { continue };
            counted.queued = None;
            let over = counted.over;
            if over > self.now && !counted.is_ending && !counted.is_doubtful {
                keeping.queue_at(id, over);
            } else {
                due.push(id);
            }
        }
        due
    }

    /// What to do about a lease that was due. `found` is how it stands in the state, which had
    /// at least so many commits before somebody looked.
    pub fn judge(&mut self, id: LeaseId, found: Option<Lease>, commits: u64) -> Option<Proposal> {
        let now = self.now;
        let keeping = self.keeping.as_mut()?;
        let epoch = keeping.epoch;
        let counted = keeping.leases.get_mut(&id)?;
        let Some(lease) = found else {
            // What was told is in the state with the next commit.
            if commits > counted.commits {
                keeping.remove(id);
            } else {
                keeping.doubt(id, now + AGAIN_AFTER);
            }
            return None;
        };
        counted.is_doubtful = false;
        counted.is_ending |= lease.is_ending;
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
            Expired::Gone => keeping.remove(id),
            Expired::More => keeping.end(id, now),
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
    /// Counts a lease from now on, for its full time at the least.
    fn count(&mut self, id: LeaseId, ttl_ms: u64, now: Duration, commits: u64) {
        let over = end_of(now, ttl_ms);
        let counted = self.leases.entry(id).or_insert(Counted {
            ttl_ms,
            over,
            queued: None,
            is_doubtful: false,
            is_ending: false,
            expiring: None,
            commits,
        });
        // One with its name may have been here before, and what was said of that one may
        // still be on its way.
        counted.ttl_ms = ttl_ms;
        counted.over = counted.over.max(over);
        counted.commits = commits;
        counted.is_ending = false;
        let over = counted.over;
        self.queue_at(id, over);
    }

    /// A command renewed it: every expiry that was proposed before has no effect any more.
    fn renewed(&mut self, id: LeaseId, now: Duration) {
        let Some(counted) = self.leases.get_mut(&id) else { return };
        counted.over = counted.over.max(end_of(now, counted.ttl_ms));
        if counted.expiring.take().is_some() {
            let over = counted.over;
            self.queue_at(id, over);
        }
    }

    /// It comes to its end and has keys left.
    fn end(&mut self, id: LeaseId, now: Duration) {
        if let Some(counted) = self.leases.get_mut(&id) {
            counted.is_ending = true;
            self.queue_at(id, now);
        }
    }

    /// Whether it is there still is to be looked up.
    fn doubt(&mut self, id: LeaseId, at: Duration) {
        if let Some(counted) = self.leases.get_mut(&id) {
            counted.is_doubtful = true;
            self.queue_at(id, at);
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
