//! Whether the replicas agree: equal hashes of the state at equal slots.
//!
//! Heartbeats carry the hash at the last slot at which all nodes look. Replicas that
//! have parted would give different answers for ever, and nobody would notice. A
//! node that a majority contradicts stops; one that merely meets a different peer
//! says so and goes on, since it may well be the peer that is wrong.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{NodeId, Slot};

/// Hashes kept of each node: a node that is behind is compared when it gets there.
const KEPT: usize = 16;

/// Two nodes whose states were different after the same slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disagreement {
    /// The slot.
    pub slot: Slot,
    /// The other node.
    pub peer: NodeId,
    /// This node's hash.
    pub mine: u64,
    /// The other's.
    pub theirs: u64,
}

/// What each node's state was, oldest first.
#[derive(Debug)]
pub(crate) struct Agreement {
    node: NodeId,
    /// How many members make a majority.
    majority: usize,
    own: VecDeque<(Slot, u64)>,
    told: BTreeMap<NodeId, VecDeque<(Slot, u64)>>,
    found: Option<Disagreement>,
}

impl Agreement {
    pub(crate) fn new(node: NodeId, members: usize) -> Self {
        Agreement {
            node,
            majority: members / 2 + 1,
            own: VecDeque::new(),
            told: BTreeMap::new(),
            found: None,
        }
    }

    /// So many members vote now.
    pub(crate) fn set_voters(&mut self, voters: usize) {
        self.majority = voters / 2 + 1;
    }

    /// This node's state machine was at a slot and had this hash there.
    ///
    /// # Panics
    /// When a majority of the members had another one.
    pub(crate) fn applied(&mut self, state: (Slot, u64)) {
        if keep(&mut self.own, state) {
            self.judge(state.0);
        }
    }

    /// A peer told what its state was.
    ///
    /// # Panics
    /// When a majority of the members had another state than this one.
    pub(crate) fn receive(&mut self, peer: NodeId, theirs: (Slot, u64)) {
        if keep(self.told.entry(peer).or_default(), theirs) {
            self.judge(theirs.0);
        }
    }

    /// The first difference that was found.
    pub(crate) fn disagreement(&self) -> Option<Disagreement> {
        self.found
    }

    fn judge(&mut self, slot: Slot) {
        let Some(mine) = hash_at(&self.own, slot) else { return };
        let others =
            || self.told.iter().filter_map(|(peer, told)| Some((*peer, hash_at(told, slot)?)));
        for (peer, theirs) in others().filter(|(_, theirs)| *theirs != mine) {
            self.found.get_or_insert(Disagreement { slot, peer, mine, theirs });
            assert!(
                others().filter(|(_, hash)| *hash == theirs).count() < self.majority,
                "the state of {} after slot {slot} is {mine:016x}, and that of a majority \
                 {theirs:016x}: this one is damaged",
                self.node
            );
        }
    }
}

fn hash_at(known: &VecDeque<(Slot, u64)>, slot: Slot) -> Option<u64> {
    known.iter().find(|(at, _)| *at == slot).map(|(_, hash)| *hash)
}

/// Keeps a state that is newer than those that are known. Says whether it was.
fn keep(known: &mut VecDeque<(Slot, u64)>, state: (Slot, u64)) -> bool {
    if state.0 <= known.back().map_or(Slot::ZERO, |last| last.0) {
        return false;
    }
    if known.len() == KEPT {
        known.pop_front();
    }
    known.push_back(state);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    /// Slots 1 to 3 in every order of arrival, one of this node's hashes different or none:
    /// that is noticed whoever is ahead, and nothing else is.
    #[test]
    fn a_difference_at_an_equal_slot_is_noticed_whoever_comes_first() {
        for interleaving in (0..1_u32 << 6).filter(|turns| turns.count_ones() == 3) {
            for different in 0..=3 {
                let mut agreement = Agreement::new(ME, 3);
                let (mut mine, mut theirs) = (1.., 1..);
                for turn in 0..6 {
                    if interleaving & (1 << turn) == 0 {
                        let slot = mine.next().expect("endless");
                        let hash = if slot == different { 0 } else { slot * 7 };
                        agreement.applied((Slot(slot), hash));
                    } else {
                        let slot = theirs.next().expect("endless");
                        agreement.receive(PEER, (Slot(slot), slot * 7));
                        agreement.receive(PEER, (Slot(slot), slot * 7));
                    }
                }
                let found = agreement.disagreement();
                let expected = (different != 0).then_some((Slot(different), PEER));
                assert_eq!(found.map(|f| (f.slot, f.peer)), expected, "{interleaving:06b}");
            }
        }
    }

    /// Whatever two or four others had, in every order: this node stops exactly when so
    /// many of them as make a majority had the same other state.
    #[test]
    fn a_node_stops_when_a_majority_contradicts_it() {
        for (members, peers) in [(1, 0), (2, 1), (3, 2), (5, 4)] {
            for hashes in 0..3_u64.pow(peers) {
                let hash = |peer: u32| hashes / 3_u64.pow(peer) % 3;
                for turn in 0..=peers {
                    let run = move || {
                        let mut agreement = Agreement::new(ME, members);
                        for peer in 0..=peers {
                            if peer == turn {
                                agreement.applied((Slot(8), 0));
                            }
                            if peer < peers {
                                agreement.receive(NodeId(peer + 2), (Slot(8), hash(peer)));
                            }
                        }
                    };
                    let against = |h| (0..peers).filter(|peer| hash(*peer) == h).count();
                    let expected = (1..3).any(|h| against(h) > members / 2);
                    let stopped = std::panic::catch_unwind(run).is_err();
                    assert_eq!(stopped, expected, "{hashes} among {members}, at {turn}");
                }
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_skipped_is_not_compared() {
        let mut agreement = Agreement::new(ME, 3);
        for slot in 1..=100 {
            agreement.receive(PEER, (Slot(slot), slot));
        }
        assert_eq!(agreement.told[&PEER].len(), KEPT);
        agreement.applied((Slot(99), 99));
        for slot in 101..=200 {
            agreement.applied((Slot(slot), 0));
        }
        assert_eq!((agreement.own.len(), agreement.disagreement()), (KEPT, None));
    }

    #[test]
    fn no_state_at_all_differs_from_none() {
        let mut agreement = Agreement::new(ME, 2);
        agreement.applied((Slot::ZERO, 0));
        agreement.receive(PEER, (Slot::ZERO, 5));
        assert_eq!(agreement.disagreement(), None);
    }
}
