//! No lease ends before its time, and each takes its keys along.
//!
//! What is promised is written down when it is promised: a renewal that the log has counts from
//! when it was first applied anywhere, for nobody can have heard of it before; one that the
//! leader alone knows of, from when it was asked for; and whoever begins an epoch promises
//! each lease its full time. An expiry that has effect must come after all of that, by the
//! clocks of this run; and it must name the epoch and the renewal that the log had last. A
//! lease that ends takes as many keys as live under it, all at one revision unless one command
//! may not remove so many. At the end no lease may be left that nobody kept for long.

use std::collections::BTreeMap;

use synod_kv::{LeaseEpoch, LeaseId, LeaseOperation, Operation, Outcome};

use crate::checkers::{Check, Checker, demand};

/// One lease, from its grant to its end.
#[derive(Clone, Debug)]
struct Life {
    ttl_ms: u64,
    granted_us: u64,
    /// The last moment from which it was promised its time.
    kept_us: u64,
    /// The slot of the grant or the last renewal.
    renewals: u64,
    /// It has lost keys and will lose the others.
    ending_us: Option<u64>,
    ended_us: Option<u64>,
    /// It ended, or began to, since its time was over.
    by_time: bool,
}

/// What leases were promised.
#[derive(Debug)]
pub struct Leases {
    lives: BTreeMap<LeaseId, Vec<Life>>,
    epoch: (LeaseEpoch, u64),
    /// Clocks may run faster than this one by that factor, and leap by so much in all.
    rate_max: u64,
    leaps_us: u64,
    /// How many a command removes.
    removes_max: u64,
}

impl Leases {
    /// Nothing is known. A clock may be so many times as fast as the others, and one
    /// command removes so many keys at the most.
    #[must_use]
    pub fn new(rate_max: u64, removes_max: u64) -> Self {
        let (lives, epoch) = (BTreeMap::new(), (LeaseEpoch(0), 0));
        Leases { lives, epoch, rate_max, leaps_us: 0, removes_max }
    }

    /// A clock leapt, and whoever counts with it may take that for so much time.
    pub fn leapt(&mut self, by_us: u64) {
        self.leaps_us += by_us;
    }

    /// A command was applied for the first time anywhere; so many keys lived under the lease
    /// that it ended, if it did.
    ///
    /// # Errors
    /// When a lease ended that should live, or with other keys than its own.
    pub fn taken(
        &mut self,
        (slot, now_us): (u64, u64),
        operation: &Operation,
        outcome: &Outcome,
        keys: u64,
    ) -> Check {
        let Operation::Lease(operation) = operation else { return Ok(()) };
        match (operation, outcome) {
            (_, Outcome::LeaseGranted { id, ttl_ms, .. }) => {
                self.lives.entry(*id).or_default().push(Life {
                    ttl_ms: *ttl_ms,
                    granted_us: now_us,
                    kept_us: now_us,
                    renewals: slot,
                    ending_us: None,
                    ended_us: None,
                    by_time: false,
                });
                Ok(())
            }
            (LeaseOperation::KeepAlive { ids }, Outcome::LeasesKept { ttls_ms, .. }) => {
                let kept = ids.iter().zip(ttls_ms).filter(|(_, ttl_ms)| ttl_ms.is_some());
                for (id, _) in kept {
                    if let Some(life) = self.life(*id) {
                        (life.kept_us, life.renewals) = (now_us, slot);
                    }
                }
                Ok(())
            }
            (LeaseOperation::BeginEpoch, Outcome::LeaseEpochBegun { epoch, .. }) => {
                self.epoch = (*epoch, now_us);
                Ok(())
            }
            (_, Outcome::LeaseEnded { id, count, more, .. }) => {
                let removed = keys.min(self.removes_max.max(1));
                demand(*count == removed && *more == (removed < keys), Checker::Leases, || {
                    format!("lease {id} ended with {count} keys (more: {more}), it had {keys}")
                })?;
                self.end(operation, *id, *more, now_us)
            }
            _ => Ok(()),
        }
    }

    /// Whoever asked to keep a lease at a moment was told that it is kept.
    ///
    /// # Errors
    /// When that was not true then, or did not become true.
    pub fn kept(&mut self, id: LeaseId, asked_us: u64, now_us: u64) -> Check {
        let lives = self.lives.entry(id).or_default();
        let mut lived: Vec<&mut Life> = lives
            .iter_mut()
            .filter(|life| life.granted_us <= now_us)
            .filter(|life| life.ending_us.is_none_or(|at_us| at_us >= asked_us))
            .collect();
        demand(!lived.is_empty(), Checker::Leases, || {
            format!("lease {id} was kept when there was none, asked at {asked_us} us")
        })?;
        // Of two that had this name one was kept, and nobody knows which.
        let [life] = &mut lived[..] else { return Ok(()) };
        life.kept_us = life.kept_us.max(asked_us);
        let life = life.clone();
        match life.ending_us.filter(|_| life.by_time) {
            Some(at_us) => self.demand_over(id, &life, asked_us, at_us, "it was kept"),
            None => Ok(()),
        }
    }

    /// Whoever asked for a lease at a moment was told that there is none.
    ///
    /// # Errors
    /// When it was there all the time.
    pub fn gone(&self, id: LeaseId, asked_us: u64) -> Check {
        let lives = self.lives.get(&id).and_then(|lives| lives.last());
        let is_there = lives.is_some_and(|l| l.granted_us < asked_us && l.ending_us.is_none());
        demand(!is_there, Checker::Leases, || {
            format!("lease {id} was said to be gone, and is there")
        })
    }

    /// Leases that have not ended.
    #[must_use]
    pub fn left(&self) -> usize {
        let lives = self.lives.values().flatten();
        lives.filter(|life| life.ended_us.is_none()).count()
    }

    /// A lease that nobody kept for so long is no more.
    ///
    /// # Errors
    /// When one is there still.
    pub fn ended(&self, now_us: u64, bound_us: u64) -> Check {
        let lives = self.lives.iter().flat_map(|(id, lives)| lives.iter().map(move |l| (id, l)));
        let mut left = lives.filter(|(_, life)| life.ended_us.is_none());
        let forgotten = left.find(|(_, life)| life.kept_us + bound_us < now_us);
        demand(forgotten.is_none(), Checker::Leases, || {
            format!("at {now_us} us a lease is there that nobody kept for long: {forgotten:?}")
        })
    }

    fn life(&mut self, id: LeaseId) -> Option<&mut Life> {
        let last = self.lives.get_mut(&id).and_then(|lives| lives.last_mut());
        last.filter(|life| life.ended_us.is_none())
    }

    fn end(&mut self, by: &LeaseOperation, id: LeaseId, more: bool, now_us: u64) -> Check {
        let (epoch, begun_us) = self.epoch;
        let Some(life) = self.life(id).cloned() else {
            return demand(false, Checker::Leases, || format!("lease {id} ended, and was not"));
        };
        let is_first = life.ending_us.is_none();
        if let (LeaseOperation::Expire { epoch: said, renewals, .. }, true) = (by, is_first) {
            demand(*said == epoch && *renewals == life.renewals, Checker::Leases, || {
                format!(
                    "lease {id} ended by {by:?}; the log had epoch {epoch:?}, renewed in slot {}",
                    life.renewals
                )
            })?;
            self.demand_over(id, &life, life.kept_us, now_us, "it was kept")?;
            self.demand_over(id, &life, begun_us, now_us, "its epoch began")?;
        }
        let by_time = matches!(by, LeaseOperation::Expire { .. });
        let life = self.life(id).expect("just seen");
        if is_first {
            (life.by_time, life.ending_us) = (by_time, Some(now_us));
        }
        if !more {
            life.ended_us = Some(now_us);
        }
        Ok(())
    }

    fn demand_over(&self, id: LeaseId, life: &Life, from_us: u64, at_us: u64, what: &str) -> Check {
        // Milliseconds and rates are rounded.
        let full_us = (life.ttl_ms * 1_000 / self.rate_max).saturating_sub(1_000);
        demand(at_us + self.leaps_us >= from_us + full_us, Checker::Leases, || {
            let (ttl_ms, lived_us) = (life.ttl_ms, at_us.saturating_sub(from_us));
            format!("lease {id} of {ttl_ms} ms ended {lived_us} us after {what} at {from_us} us")
        })
    }
}

#[cfg(test)]
mod tests {
    use synod_kv::Revision;

    use super::*;

    const ID: LeaseId = LeaseId(7);

    struct Log {
        leases: Leases,
        slot: u64,
    }

    impl Log {
        fn new(rate_max: u64) -> Self {
            let mut log = Log { leases: Leases::new(rate_max, 2), slot: 0 };
            let epoch = Outcome::LeaseEpochBegun { revision: Revision(0), epoch: LeaseEpoch(1) };
            log.take(0, LeaseOperation::BeginEpoch, &epoch, 0).expect("nothing is there");
            let granted = Outcome::LeaseGranted { revision: Revision(0), id: ID, ttl_ms: 1_000 };
            let grant = LeaseOperation::Grant { id: Some(ID), ttl_ms: 1_000 };
            log.take(0, grant, &granted, 0).expect("nothing was promised");
            log
        }

        fn take(&mut self, at_ms: u64, by: LeaseOperation, outcome: &Outcome, keys: u64) -> Check {
            self.slot += 1;
            let at = (self.slot, at_ms * 1_000);
            self.leases.taken(at, &Operation::Lease(by), outcome, keys)
        }

        fn keep(&mut self, at_ms: u64) {
            let outcome = Outcome::LeasesKept { revision: Revision(0), ttls_ms: vec![Some(1_000)] };
            let keep = LeaseOperation::KeepAlive { ids: vec![ID] };
            self.take(at_ms, keep, &outcome, 0).expect("it lives");
        }

        fn expire(&mut self, at_ms: u64, epoch: u64, renewals: u64) -> Check {
            let by = LeaseOperation::Expire { id: ID, epoch: LeaseEpoch(epoch), renewals };
            self.take(at_ms, by, &ended(0, false), 0)
        }
    }

    fn ended(count: u64, more: bool) -> Outcome {
        Outcome::LeaseEnded { revision: Revision(0), id: ID, count, more }
    }

    #[test]
    fn a_lease_ends_after_its_time_and_not_before() {
        Log::new(1).expire(1_000, 1, 2).expect("it is over");
        assert!(Log::new(1).expire(900, 1, 2).is_err());
        Log::new(2).expire(600, 1, 2).expect("by a clock that runs fast it is over");
        let mut log = Log::new(1);
        log.leases.leapt(200_000);
        log.expire(900, 1, 2).expect("by a clock that leapt it is over");
    }

    #[test]
    fn renewals_of_the_log_and_of_the_leader_count() {
        let mut log = Log::new(1);
        log.keep(800);
        assert!(log.expire(1_100, 1, 3).is_err());
        let mut log = Log::new(1);
        log.leases.kept(ID, 500_000, 510_000).expect("it lives");
        assert!(log.expire(1_100, 1, 2).is_err());
        let mut log = Log::new(1);
        log.expire(1_100, 1, 2).expect("it is over");
        assert!(log.leases.kept(ID, 500_000, 1_200_000).is_err(), "told too late to be true");
        assert!(log.leases.kept(ID, 1_150_000, 1_200_000).is_err(), "it was no more");
        log.leases.gone(ID, 1_150_000).expect("it is");
        assert!(Log::new(1).leases.gone(ID, 10).is_err());
    }

    #[test]
    fn an_old_expiry_has_no_effect() {
        let mut log = Log::new(1);
        log.keep(10);
        assert!(log.expire(5_000, 1, 2).is_err(), "renewed since");
        let mut log = Log::new(1);
        let epoch = Outcome::LeaseEpochBegun { revision: Revision(0), epoch: LeaseEpoch(2) };
        log.take(100, LeaseOperation::BeginEpoch, &epoch, 0).expect("anybody may");
        let mut other =
            Log { leases: Leases { lives: log.leases.lives.clone(), ..log.leases }, slot: 3 };
        assert!(other.expire(5_000, 1, 2).is_err(), "another keeps the time");
        let epoch = (LeaseEpoch(2), 4_500_000);
        other.leases.epoch = epoch;
        assert!(other.expire(5_000, 2, 2).is_err(), "the full time again");
        other.expire(5_500, 2, 2).expect("it is over");
    }

    #[test]
    fn a_lease_takes_its_keys_and_does_not_stay() {
        let revoke = || LeaseOperation::Revoke { id: ID };
        Log::new(1).take(10, revoke(), &ended(2, false), 2).expect("both");
        assert!(Log::new(1).take(10, revoke(), &ended(2, false), 1).is_err());
        assert!(Log::new(1).take(10, revoke(), &ended(1, false), 2).is_err());
        assert!(Log::new(1).take(10, revoke(), &ended(2, false), 3).is_err());
        let mut log = Log::new(1);
        log.take(10, revoke(), &ended(2, true), 3).expect("two at a time");
        assert_eq!(log.leases.left(), 1);
        assert!(log.leases.ended(5_000_000, 1_000_000).is_err());
        log.leases.ended(900_000, 1_000_000).expect("there is time left");
        log.expire(20, 9, 9).expect("nothing saves one that is ending");
        assert_eq!(log.leases.left(), 0);
    }
}
