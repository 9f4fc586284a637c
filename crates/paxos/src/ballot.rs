//! Node ids and ballots.

use core::fmt;

/// The name of one replica. It is used once: a machine that lost its disk comes
/// back under a new id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u32);

/// A ballot (the proposal number of "Paxos Made Simple"): ordered by round, then
/// by node, so that no two nodes ever own the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ballot {
    /// Rises with each attempt to lead. Zero only in [`Ballot::ZERO`].
    pub round: u64,
    /// The only node that may lead in this ballot.
    pub node: NodeId,
}

impl Ballot {
    /// Lower than every ballot that a node can lead in: nothing promised yet.
    pub const ZERO: Ballot = Ballot { round: 0, node: NodeId(0) };

    /// The largest round that a message from a peer may jump ahead of what this
    /// node knows. A correct cluster advances by a few rounds an election, so a
    /// larger jump is a damaged message (pitfall 15).
    pub const ROUND_JUMP_MAX: u64 = 1 << 32;

    /// The lowest ballot of `node` above `self`.
    ///
    /// # Panics
    /// When the rounds are used up, which [`Ballot::ROUND_JUMP_MAX`] keeps out of
    /// reach.
    #[must_use]
    pub fn next(self, node: NodeId) -> Ballot {
        let round = self.round.checked_add(1).expect("rounds are used up");
        Ballot { round, node }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_proposers_choose_their_numbers_from_disjoint_sets() {
        let (a, b) = (Ballot::ZERO.next(NodeId(1)), Ballot::ZERO.next(NodeId(2)));
        assert!(a < b && b < a.next(NodeId(1)));
        assert!(Ballot::ZERO < a);
    }
}
