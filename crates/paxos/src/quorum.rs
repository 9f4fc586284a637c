//! Quorums: counting distinct members, and nothing else.

/// A set of members, by their place in the configuration. Inserting the same
/// member twice counts once (pitfall 7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Voters(u32);

impl Voters {
    /// Adds the member at `index`; says whether it is new.
    pub(crate) fn insert(&mut self, index: usize) -> bool {
        debug_assert!(index < crate::Configuration::MEMBERS_MAX);
        let bit = 1_u32 << index;
        let new = self.0 & bit == 0;
        self.0 |= bit;
        new
    }

    /// Whether the member at `index` is in the set.
    pub(crate) fn contains(self, index: usize) -> bool {
        self.0 & (1_u32 << index) != 0
    }

    /// How many members are in the set.
    pub(crate) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_counts_distinct_acceptors() {
        let mut voters = Voters::default();
        assert!(voters.insert(0));
        assert!(!voters.insert(0));
        assert_eq!(voters.count(), 1);
        assert!(voters.insert(30));
        assert!(voters.contains(30) && !voters.contains(1));
        assert_eq!(voters.count(), 2);
    }

    #[test]
    fn any_two_quorums_of_the_two_phases_share_a_member() {
        use crate::{Configuration, NodeId};
        for members in 1..=7_u32 {
            let ids = || (1..=members).map(NodeId).collect();
            for q1 in 0..=members as usize + 1 {
                for q2 in 0..=members as usize + 1 {
                    let valid = Configuration::new(ids(), q1, q2, 1).is_ok();
                    let n = members as usize;
                    let safe = q1 + q2 > n && q1 >= 1 && q2 >= 1 && q1 <= n && q2 <= n;
                    assert_eq!(valid, safe, "n={n} q1={q1} q2={q2}");
                }
            }
        }
    }
}
