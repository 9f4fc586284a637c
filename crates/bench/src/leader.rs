//! Who says that it leads.

use serde::Serialize;

use crate::NodeId;

/// The number under which a node leads, which grows from leader to leader:
/// Synod's ballot, or etcd's term as the round of no particular node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Ballot {
    /// What grows.
    pub round: u64,
    /// Which node's it is; tells two of the same round apart.
    pub node: u64,
}

/// A node that says it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// Which.
    pub node: NodeId,
    /// Under which number, if it says so.
    pub ballot: Option<Ballot>,
}

impl Ballot {
    /// From the form `ROUND.NODE`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (round, node) = text.split_once('.')?;
        Some(Self { round: round.parse().ok()?, node: node.parse().ok()? })
    }
}

impl Leader {
    /// Whether this one led before another. Where one of them does not tell
    /// its number, whoever speaks later leads later.
    pub(crate) fn precedes(&self, other: &Self) -> bool {
        match (self.ballot, other.ballot) {
            (Some(ours), Some(theirs)) => ours < theirs,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ballots_are_ordered_by_round_and_then_by_node() {
        let ballot = |text| Ballot::parse(text).unwrap();
        assert!(ballot("9.3") < ballot("10.1") && ballot("10.1") < ballot("10.2"));
        assert_eq!(
            (Ballot::parse("7"), Ballot::parse("a.1"), Ballot::parse("")),
            (None, None, None)
        );
    }

    #[test]
    fn a_leader_follows_one_of_a_lower_ballot() {
        let leader = |node, ballot| Leader { node: NodeId(node), ballot: Ballot::parse(ballot) };
        assert!(leader(1, "4.1").precedes(&leader(2, "5.2")));
        assert!(!leader(1, "4.1").precedes(&leader(3, "3.3")));
        assert!(leader(1, "").precedes(&leader(3, "3.3")));
    }
}
