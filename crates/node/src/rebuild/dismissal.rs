//! Peers that say to a node that waits for a state that it is a member no more.

use std::collections::BTreeSet;

use synod_paxos::{Configuration, NodeId};

/// Who said so, counted as the core of a running node does: one peer may err, and the others may
/// need this node still.
#[derive(Debug)]
pub(super) struct Dismissals {
    /// The newest configuration that the own state knows.
    own: u64,
    is_member: bool,
    /// The one that is said to have removed this node.
    number: u64,
    witnesses: BTreeSet<NodeId>,
    needed: usize,
}

impl Dismissals {
    pub(super) fn new(me: NodeId, newest: &Configuration) -> Dismissals {
        Dismissals {
            own: newest.number(),
            is_member: newest.contains(me),
            number: 0,
            witnesses: BTreeSet::new(),
            needed: 1,
        }
    }

    /// A peer says that configuration `number` removed this node, and that so many have to say
    /// so. Whether enough did.
    pub(super) fn receive(&mut self, by: NodeId, number: u64, witnesses: u32) -> bool {
        let agrees = number == self.own && !self.is_member;
        if number < self.number || !(number > self.own || agrees) {
            return false;
        }
        if number > self.number || self.witnesses.is_empty() {
            self.number = number;
            self.witnesses.clear();
            self.needed = (witnesses as usize).max(1);
        }
        self.witnesses.insert(by);
        self.witnesses.len() >= self.needed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dismissals(own: u64, members: &[u32]) -> Dismissals {
        let members = members.iter().copied().map(NodeId).collect();
        let newest = Configuration::majority(members, 8).expect("possible").numbered(own);
        Dismissals::new(NodeId(1), &newest)
    }

    #[test]
    fn as_many_as_are_needed_have_to_say_so() {
        let mut told = dismissals(3, &[1, 2, 3, 4]);
        let two = NodeId(2);
        // What this node knows better, or as well.
        assert!(!told.receive(two, 2, 1) && !told.receive(two, 3, 1));
        assert!(!told.receive(two, 4, 2) && !told.receive(two, 4, 2), "the same one");
        // What is said of another configuration counts for that one.
        assert!(!told.receive(NodeId(3), 5, 2));
        assert!(!told.receive(NodeId(4), 4, 2), "an older one");
        assert!(told.receive(NodeId(4), 5, 2));
        // That nobody is needed is nobody's to say.
        assert!(dismissals(3, &[1, 2]).receive(two, 4, 0));
        // The own state says the same.
        assert!(dismissals(3, &[2, 3]).receive(two, 3, 1));
    }
}
