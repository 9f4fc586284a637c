//! The invariants that tie the roles together, checked after every batch of steps,
//! in production too. A violation is a bug: the process stops before it can answer
//! anything more.

use crate::{Replica, Standing, proposer::Proposer};

/// Panics when the replica is in a state that Paxos does not allow.
pub(crate) fn check(replica: &Replica) {
    let Replica { log, acceptor, proposer, .. } = replica;
    assert!(log.truncated_upto() <= replica.durable, "truncated what is not durably applied");
    assert!(replica.applied <= log.chosen_upto(), "applied is no prefix of chosen");
    assert!(replica.durable <= replica.applied, "durable beyond applied");
    assert!(log.last_accepted().0 <= acceptor.promised(), "accepted above the promise");
    match proposer {
        Proposer::Idle => {}
        Proposer::Preparing(preparing) => {
            assert!(preparing.ballot == acceptor.promised(), "stands below its own promise");
        }
        Proposer::Leading(leading) => {
            assert!(leading.ballot.node == replica.node, "leads in another's ballot");
            assert!(leading.ballot == acceptor.promised(), "leads below its own promise");
            // Beyond what it proposed, a leader knows as chosen only what Phase 1
            // brought back; else it has lost its office.
            let known = leading.proposed_upto().max(leading.adopted_upto);
            assert!(log.chosen_upto() <= known, "learnt a slot that it did not get chosen");
            let decided = replica.configurations.known_upto(log.chosen_upto());
            let proposed = leading.in_flight() > 0;
            assert!(!proposed || leading.proposed_upto() <= decided, "nobody knows who votes");
        }
    }
    if cfg!(debug_assertions) {
        check_log(replica);
    }
}

/// The parts whose cost grows with the window.
fn check_log(replica: &Replica) {
    let Replica { log, acceptor, .. } = replica;
    let mut slot = log.first();
    while slot <= log.last() {
        match log.get(slot).map(|entry| entry.standing) {
            Some(Standing::Accepted(ballot)) => {
                assert!(ballot <= acceptor.promised(), "slot {slot} accepted above the promise");
                assert!(slot > log.chosen_upto(), "slot {slot} is in the prefix and not chosen");
            }
            Some(Standing::Chosen) => {}
            None => assert!(slot > log.chosen_upto(), "slot {slot}: a gap in the prefix"),
        }
        slot = slot.next();
    }
}
