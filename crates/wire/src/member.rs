//! What a node has heard of a peer, and whether a handshake fits it.

use synod_paxos::{Ballot, Bug, NodeId, Planted, Position};

use crate::{Facts, Refusal, RefusalReason};

/// What a peer said of itself up to now.
#[derive(Clone, Debug)]
pub struct Member {
    node: NodeId,
    /// From the configuration, or else trusted at first contact; kept from then on.
    store: Option<u128>,
    incarnation: u64,
    /// The process that lives this incarnation; none before the first contact.
    process: Option<u64>,
    /// The process whose place that one took.
    former: Option<u64>,
    promised: Ballot,
    position: Position,
    planted: Planted,
}

/// What a handshake changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Admitted {
    /// It was the first contact: the store id is to be remembered.
    pub pinned: bool,
    /// The peer began a new life: connections of an earlier one are void.
    pub newer_life: bool,
}

impl Member {
    /// Nothing was heard of it yet, but perhaps which store it has.
    #[must_use]
    pub fn new(node: NodeId, store: Option<u128>) -> Self {
        Member {
            node,
            store,
            incarnation: 0,
            process: None,
            former: None,
            promised: Ballot::ZERO,
            position: Position::ZERO,
            planted: Planted::NONE,
        }
    }

    /// The same by somebody who makes this mistake.
    #[must_use]
    pub fn planting(self, planted: Planted) -> Self {
        Member { planted, ..self }
    }

    /// Takes what a handshake says, if it fits what was heard before.
    ///
    /// # Errors
    /// When it does not: whoever that is must not be listened to.
    pub fn receive_facts(&mut self, facts: &Facts) -> Result<Admitted, Refusal> {
        let node = self.node;
        let is_other =
            |store: &u128| *store != facts.store && !self.planted.is(Bug::StoreNotCompared);
        if let Some(store) = self.store.filter(is_other) {
            return Err(refusal(
                RefusalReason::Store,
                format!(
                    "{node} came with store {:032x}, but it had store {store:032x} before. A node \
                     that lost its data folder must not come back under its old id: give it back \
                     the folder, or put a node with a new id in its place with `synod member \
                     replace`",
                    facts.store
                ),
            ));
        }
        let same_life = facts.incarnation == self.incarnation;
        let same_process = same_life && self.process == Some(facts.process);
        // Within one process promise and position only rise, but the handshakes of
        // its lanes may overtake each other and its messages.
        if !same_process {
            self.check_new_process(facts, same_life && self.process.is_some())?;
        }
        let admitted = Admitted { pinned: self.store.is_none(), newer_life: !same_process };
        self.store = Some(facts.store);
        self.incarnation = facts.incarnation;
        if !same_process {
            self.former = self.process;
        }
        self.process = Some(facts.process);
        self.promised = self.promised.max(facts.promised);
        self.position = self.position.max(facts.position);
        Ok(admitted)
    }

    fn check_new_process(&self, facts: &Facts, same_life: bool) -> Result<(), Refusal> {
        let node = self.node;
        // One that was here before states what its life began with, and what it was heard to
        // hold since is its own: it did not go back, but the folder is in use twice.
        let is_former = self.former == Some(facts.process);
        let is_second = same_life || is_former || facts.incarnation < self.incarnation;
        let is_behind = facts.promised < self.promised || facts.position < self.position;
        if is_behind && !is_former && !self.planted.is(Bug::OldCopyLetIn) {
            return Err(refusal(
                RefusalReason::WentBack,
                format!(
                    "the data folder of {node} went back in time: it states promise {} and \
                     position {}, but had stated promise {} and position {}. It is an old copy or \
                     is in use twice, and may have forgotten votes, so it must not take part: put a \
                     node with a new id in its place with `synod member replace`",
                    facts.promised, facts.position.0, self.promised, self.position.0
                ),
            ));
        }
        if is_second && !self.planted.is(Bug::SecondProcessLetIn) {
            return Err(refusal(
                RefusalReason::Incarnation,
                format!(
                    "{node} speaks from its life {}, but another process was heard in life {} of \
                     the same data folder: two run with copies of it, stop one of them",
                    facts.incarnation, self.incarnation
                ),
            ));
        }
        Ok(())
    }

    /// The configuration says which store is the peer's. Says whether another one had been taken for it.
    pub fn set_store(&mut self, store: u128) -> bool {
        let before = self.store.replace(store);
        let is_other = before.is_some_and(|before| before != store);
        if is_other {
            *self = Member::new(self.node, Some(store)).planting(self.planted);
        }
        is_other
    }

    /// Whether what a connection of this store and process brings is still the peer's.
    #[must_use]
    pub fn is(&self, facts: &Facts) -> bool {
        self.store == Some(facts.store) && self.process == Some(facts.process)
    }

    /// The peer told how much of its journal is durable.
    pub fn receive_position(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    /// The peer gave a promise, which it only does when it is durable there.
    pub fn receive_promise(&mut self, ballot: Ballot) {
        self.promised = self.promised.max(ballot);
    }
}

fn refusal(reason: RefusalReason, text: String) -> Refusal {
    Refusal { reason, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(store: u128, incarnation: u64, round: u64, position: u64) -> Facts {
        let promised = ballot(round);
        Facts {
            cluster: 1,
            node: NodeId(2),
            store,
            incarnation,
            process: incarnation,
            promised,
            position: Position(position),
            founded: None,
        }
    }

    fn ballot(round: u64) -> Ballot {
        let node = NodeId(1);
        Ballot { round, node }
    }

    fn reason(result: Result<Admitted, Refusal>) -> RefusalReason {
        result.expect_err("a refusal").reason
    }

    #[test]
    fn the_store_is_trusted_once() {
        let mut member = Member::new(NodeId(2), None);
        let first = member.receive_facts(&facts(7, 1, 0, 0)).unwrap();
        assert!(first.pinned && first.newer_life);
        let again = member.receive_facts(&facts(7, 1, 0, 0)).unwrap();
        assert!(!again.pinned && !again.newer_life);
        let other = member.receive_facts(&facts(8, 9, 9, 9));
        assert_eq!(reason(other), RefusalReason::Store);

        let mut pinned = Member::new(NodeId(2), Some(7));
        let other = pinned.receive_facts(&facts(8, 1, 0, 0));
        assert_eq!(reason(other), RefusalReason::Store);
        assert!(!pinned.receive_facts(&facts(7, 1, 0, 0)).unwrap().pinned);
    }

    #[test]
    fn a_folder_that_went_back_is_refused() {
        let mut member = Member::new(NodeId(2), None);
        member.receive_facts(&facts(7, 5, 4, 100)).unwrap();
        for back in [facts(7, 6, 3, 100), facts(7, 6, 4, 99), facts(7, 6, 9, 99)] {
            assert_eq!(reason(member.receive_facts(&back)), RefusalReason::WentBack);
        }
        let earlier_life = member.receive_facts(&facts(7, 4, 4, 100));
        assert_eq!(reason(earlier_life), RefusalReason::Incarnation);
        // A refused handshake changes nothing.
        let next_life = member.receive_facts(&facts(7, 6, 4, 100)).unwrap();
        assert!(next_life.newer_life);
    }

    #[test]
    fn a_second_process_in_the_same_life_is_refused() {
        let mut member = Member::new(NodeId(2), None);
        member.receive_facts(&facts(7, 5, 4, 100)).unwrap();
        let clone = Facts { process: 99, ..facts(7, 5, 4, 100) };
        assert_eq!(reason(member.receive_facts(&clone)), RefusalReason::Incarnation);
    }

    /// A copy of the folder was started beside it and goes on where it is. What the first
    /// process says its life began with is less by now, but it did not go back.
    #[test]
    fn who_is_there_twice_did_not_go_back() {
        let mut member = Member::new(NodeId(2), None);
        member.receive_facts(&facts(7, 1, 0, 0)).unwrap();
        member.receive_position(Position(21));
        member.receive_facts(&facts(7, 2, 0, 21)).unwrap();
        assert!(!member.is(&facts(7, 1, 0, 0)) && member.is(&facts(7, 2, 0, 21)));
        let first = member.receive_facts(&facts(7, 1, 0, 0));
        assert_eq!(reason(first), RefusalReason::Incarnation);
        // Its next life states what its folder holds.
        member.receive_position(Position(30));
        let next = member.receive_facts(&facts(7, 3, 0, 21));
        assert_eq!(reason(next), RefusalReason::WentBack);
        // The life after the copy's does not make the first one's word count.
        member.receive_facts(&facts(7, 3, 0, 30)).unwrap();
        let first = member.receive_facts(&facts(7, 2, 0, 21));
        assert_eq!(reason(first), RefusalReason::Incarnation);
    }

    #[test]
    fn a_promise_counts_as_heard_from_the_next_process_on() {
        let mut member = Member::new(NodeId(2), None);
        member.receive_facts(&facts(7, 1, 1, 1)).unwrap();
        member.receive_promise(ballot(5));
        // The hello of the second lane was written before the promise.
        member.receive_facts(&facts(7, 1, 1, 1)).unwrap();
        let back = member.receive_facts(&facts(7, 2, 4, 1));
        assert_eq!(reason(back), RefusalReason::WentBack);
    }

    #[test]
    fn so_does_what_it_said_of_its_journal() {
        let mut member = Member::new(NodeId(2), None);
        member.receive_facts(&facts(7, 1, 1, 1)).unwrap();
        member.receive_position(Position(9));
        member.receive_facts(&facts(7, 1, 1, 1)).unwrap();
        let back = member.receive_facts(&facts(7, 2, 1, 8));
        assert_eq!(reason(back), RefusalReason::WentBack);
        member.receive_facts(&facts(7, 2, 1, 9)).unwrap();
    }
}
