//! What the apply thread leaves for the one who keeps the time of the leases, while this
//! node does: which leases came, were renewed, and went.
//!
//! An outcome alone does not tell that: under a name of its client a command gets its first
//! outcome again, long after it was so, and its id may be that of another lease by then. So
//! what is told of a lease that came or went is how it stands in the state.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use synod_kv::{Command, Lease, LeaseId, LeaseOperation, MapError, Operation, Outcome, Taken};

/// News beyond so many leases are not kept: who reads them too late begins anew.
const LEASES_MAX: usize = 1 << 20;

/// What is so after a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    /// The slot.
    pub slot: u64,
    /// What is so.
    pub told: Told,
}

/// What is told of leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// How a lease stands; none if it is no more.
    Stands {
        /// The lease.
        id: LeaseId,
        /// How it stands.
        lease: Option<Lease>,
    },
    /// Leases were renewed by a command of the slot.
    Renewed {
        /// The leases.
        ids: Vec<LeaseId>,
    },
}

/// Where news are left.
#[derive(Debug, Default)]
pub struct LeaseNews {
    /// Somebody reads them. Else they cost no more than this look.
    is_read: AtomicBool,
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    news: Vec<News>,
    leases: usize,
    is_cut: bool,
}

impl LeaseNews {
    /// From now on news are left.
    pub fn open(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Left::default();
        self.is_read.store(true, Relaxed);
    }

    /// Nobody reads news any more.
    pub fn close(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Left::default();
        self.is_read.store(false, Relaxed);
    }

    /// The news since the last call; none if some are missing.
    pub fn take(&self) -> Option<Vec<News>> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let Left { news, is_cut, .. } = std::mem::take(&mut *left);
        (!is_cut).then_some(news)
    }

    /// A state took the place of another, and nobody knows what happened between the two.
    pub fn cut(&self) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Left { is_cut: true, ..Left::default() };
    }

    /// Leaves what became of a command of a slot. Called when the whole slot is applied and
    /// before the commit, so that whoever sees an effect in the state finds its news here.
    /// `find` tells how a lease stands by then.
    ///
    /// # Errors
    /// When `find` fails.
    pub fn tell(
        &self,
        slot: u64,
        command: &Command,
        taken: &Taken,
        find: impl FnOnce(LeaseId) -> Result<Option<Lease>, MapError>,
    ) -> Result<(), MapError> {
        let (Operation::Lease(operation), Taken::Applied { outcome, .. }) =
            (&command.operation, taken)
        else {
            return Ok(());
        };
        if !self.is_read.load(Relaxed) {
            return Ok(());
        }
        let (told, leases) = match (operation, outcome) {
            (_, Outcome::LeaseGranted { id, .. } | Outcome::LeaseEnded { id, .. }) => {
                (Told::Stands { id: *id, lease: find(*id)? }, 1)
            }
            (LeaseOperation::KeepAlive { ids }, Outcome::LeasesKept { ttls_ms, .. }) => {
                let kept = ids.iter().zip(ttls_ms).filter(|(_, ttl_ms)| ttl_ms.is_some());
                let ids: Vec<LeaseId> = kept.map(|(id, _)| *id).collect();
                let leases = ids.len();
                (Told::Renewed { ids }, leases)
            }
            _ => return Ok(()),
        };
        if leases > 0 {
            self.leave(News { slot, told }, leases);
        }
        Ok(())
    }

    fn leave(&self, news: News, leases: usize) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.is_cut || !self.is_read.load(Relaxed) {
            return;
        }
        if left.leases + leases > LEASES_MAX {
            *left = Left { is_cut: true, ..Left::default() };
            return;
        }
        left.leases += leases;
        left.news.push(news);
    }
}

#[cfg(test)]
mod tests {
    use synod_kv::Revision;

    use super::*;

    fn command(operation: LeaseOperation) -> Command {
        Command { idempotency: None, operation: Operation::Lease(operation) }
    }

    fn applied(outcome: Outcome) -> Taken {
        Taken::Applied { outcome, expiry: None }
    }

    const ID: LeaseId = LeaseId(7);
    const LEASE: Lease = Lease { ttl_ms: 9, granted_ms: 0, renewals: 3, is_ending: false };

    fn tell_renewals(news: &LeaseNews, count: usize) {
        let ids = vec![ID; count];
        let ttls_ms = (0..count).map(|at| (at > 0).then_some(9)).collect();
        let outcome = Outcome::LeasesKept { revision: Revision(0), ttls_ms };
        let command = command(LeaseOperation::KeepAlive { ids });
        news.tell(4, &command, &applied(outcome), |_| unreachable!("it is known")).expect("told");
    }

    #[test]
    fn news_are_left_for_whoever_reads_them() {
        let news = LeaseNews::default();
        tell_renewals(&news, 2);
        assert_eq!(news.take(), Some(vec![]), "nobody read them");
        news.open();
        tell_renewals(&news, 3);
        let renewed = News { slot: 4, told: Told::Renewed { ids: vec![ID, ID] } };
        assert_eq!(news.take(), Some(vec![renewed]));
        news.close();
        tell_renewals(&news, 2);
        assert_eq!(news.take(), Some(vec![]));
    }

    /// A named command that comes again gets its first outcome, whatever became of the lease.
    #[test]
    fn what_is_told_is_how_the_lease_stands_and_not_what_the_outcome_says() {
        let news = LeaseNews::default();
        news.open();
        let revision = Revision(0);
        let granted = applied(Outcome::LeaseGranted { revision, id: ID, ttl_ms: 1 });
        let ended = applied(Outcome::LeaseEnded { revision, id: ID, count: 3, more: true });
        let grant = command(LeaseOperation::Grant { id: None, ttl_ms: 1 });
        let revoke = command(LeaseOperation::Revoke { id: ID });
        for lease in [None, Some(LEASE)] {
            for (command, taken) in [(&grant, &granted), (&revoke, &ended)] {
                news.tell(5, command, taken, |_| Ok(lease)).expect("told");
                let told = Told::Stands { id: ID, lease };
                assert_eq!(news.take(), Some(vec![News { slot: 5, told }]));
            }
        }
    }

    #[test]
    fn renewals_of_nothing_are_no_news() {
        let news = LeaseNews::default();
        news.open();
        tell_renewals(&news, 1);
        tell_renewals(&news, 0);
        assert_eq!(news.take(), Some(vec![]));
    }

    #[test]
    fn what_is_too_much_or_unknown_is_told_as_missing_until_it_was_taken() {
        let news = LeaseNews::default();
        news.open();
        (0..LEASES_MAX / 1_000 + 2).for_each(|_| tell_renewals(&news, 1_001));
        tell_renewals(&news, 2);
        assert_eq!(news.take(), None);
        assert_eq!(news.take(), Some(vec![]));
        tell_renewals(&news, 2);
        news.cut();
        assert_eq!(news.take(), None);
    }
}
