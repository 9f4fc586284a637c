//! What the apply thread leaves for the one who keeps the time of the leases, while this
//! node does: which leases came, were renewed, and went.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use synod_kv::{Command, LeaseId, LeaseOperation, Operation, Outcome, Taken};

/// News beyond so many leases are not kept: who reads them too late begins anew.
const LEASES_MAX: usize = 1 << 20;

/// What happened to leases.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// A lease was granted.
    Granted {
        /// The lease.
        id: LeaseId,
        /// Its time to live, in milliseconds.
        ttl_ms: u64,
    },
    /// Leases were renewed by a command.
    Renewed {
        /// The leases.
        ids: Vec<LeaseId>,
    },
    /// A lease ended, or is coming to its end when there is more. If the command had a name
    /// of its client this may be the first outcome told again, long after it was so.
    Ended {
        /// The lease.
        id: LeaseId,
        /// It has keys left.
        more: bool,
        /// The command had a name of its client.
        is_named: bool,
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

    /// Leaves what became of a command. Called before the commit, so that whoever sees an
    /// effect in the state finds its news here.
    pub fn tell(&self, command: &Command, taken: &Taken) {
        let (Operation::Lease(operation), Taken::Applied { outcome, .. }) =
            (&command.operation, taken)
        else {
            return;
        };
        if !self.is_read.load(Relaxed) {
            return;
        }
        let (news, leases) = match (operation, outcome) {
            (_, Outcome::LeaseGranted { id, ttl_ms, .. }) => {
                (News::Granted { id: *id, ttl_ms: *ttl_ms }, 1)
            }
            (LeaseOperation::KeepAlive { ids }, Outcome::LeasesKept { ttls_ms, .. }) => {
                let kept = ids.iter().zip(ttls_ms).filter(|(_, ttl_ms)| ttl_ms.is_some());
                let ids: Vec<LeaseId> = kept.map(|(id, _)| *id).collect();
                let leases = ids.len();
                (News::Renewed { ids }, leases)
            }
            (_, Outcome::LeaseEnded { id, more, .. }) => {
                let is_named = command.idempotency.is_some();
                (News::Ended { id: *id, more: *more, is_named }, 1)
            }
            _ => return,
        };
        self.leave(news, leases);
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

    fn tell_renewals(news: &LeaseNews, count: usize) {
        let ids = vec![ID; count];
        let ttls_ms = (0..count).map(|at| (at > 0).then_some(9)).collect();
        let outcome = Outcome::LeasesKept { revision: Revision(0), ttls_ms };
        news.tell(&command(LeaseOperation::KeepAlive { ids }), &applied(outcome));
    }

    #[test]
    fn news_are_left_for_whoever_reads_them() {
        let news = LeaseNews::default();
        tell_renewals(&news, 2);
        assert_eq!(news.take(), Some(vec![]), "nobody read them");
        news.open();
        tell_renewals(&news, 3);
        let revision = Revision(0);
        let outcome = Outcome::LeaseGranted { revision, id: ID, ttl_ms: 9 };
        news.tell(
            &command(LeaseOperation::Grant { id: None, ttl_ms: 9 }),
            &applied(outcome.clone()),
        );
        let ended = Outcome::LeaseEnded { revision, id: ID, count: 3, more: true };
        news.tell(&command(LeaseOperation::Revoke { id: ID }), &applied(ended));
        let renewed = News::Renewed { ids: vec![ID, ID] };
        let granted = News::Granted { id: ID, ttl_ms: 9 };
        let ended = News::Ended { id: ID, more: true, is_named: false };
        assert_eq!(news.take(), Some(vec![renewed, granted, ended]));
        news.close();
        tell_renewals(&news, 2);
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
