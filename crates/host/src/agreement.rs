//! Whether the replicas agree: equal hashes of the state at equal slots.
//!
//! Heartbeats carry the hash at the last slot at which all nodes look. Replicas that
//! have parted would give different answers for ever, and nobody would notice.

use std::collections::{BTreeMap, VecDeque};

use synod_paxos::{NodeId, Slot};

/// Hashes kept of each node: a node that is behind is compared when it gets there.
const KEPT: usize = 16;

/// What each node's state was.
#[derive(Debug)]
pub(crate) struct Agreement {
    node: NodeId,
    /// This node's own, oldest first.
    own: VecDeque<(Slot, u64)>,
    /// What others told of slots at which this node has not been yet.
    ahead: BTreeMap<NodeId, VecDeque<(Slot, u64)>>,
}

impl Agreement {
    pub(crate) fn new(node: NodeId) -> Self {
        Agreement { node, own: VecDeque::new(), ahead: BTreeMap::new() }
    }

    /// This node's state machine was at a slot and had this hash there.
    ///
    /// # Panics
    /// When another node had a different one.
    pub(crate) fn applied(&mut self, state: (Slot, u64)) {
        if !is_newer(&self.own, state) {
            return;
        }
        keep(&mut self.own, state);
        for (peer, told) in &mut self.ahead {
            while let Some(theirs) = told.pop_front_if(|theirs| theirs.0 <= state.0) {
                compare(self.node, state, *peer, theirs);
            }
        }
    }

    /// A peer told what its state was.
    ///
    /// # Panics
    /// When this node's was different at the same slot.
    pub(crate) fn receive(&mut self, peer: NodeId, theirs: (Slot, u64)) {
        for mine in &self.own {
            compare(self.node, *mine, peer, theirs);
        }
        let told = self.ahead.entry(peer).or_default();
        if is_newer(&self.own, theirs) && is_newer(told, theirs) {
            keep(told, theirs);
        }
    }
}

fn is_newer(known: &VecDeque<(Slot, u64)>, state: (Slot, u64)) -> bool {
    state.0 > known.back().map_or(Slot::ZERO, |last| last.0)
}

fn keep(known: &mut VecDeque<(Slot, u64)>, state: (Slot, u64)) {
    if known.len() == KEPT {
        known.pop_front();
    }
    known.push_back(state);
}

fn compare(node: NodeId, mine: (Slot, u64), peer: NodeId, theirs: (Slot, u64)) {
    assert!(
        mine.0 != theirs.0 || mine.1 == theirs.1,
        "the states of {node} and {peer} differ after slot {}: {:016x} and {:016x}",
        mine.0,
        mine.1,
        theirs.1
    );
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
        for interleaving in 0..1_u32 << 6 {
            if interleaving.count_ones() != 3 {
                continue;
            }
            for different in 0..=3 {
                let run = move || {
                    let mut agreement = Agreement::new(ME);
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
                };
                let noticed = std::panic::catch_unwind(run).is_err();
                assert_eq!(noticed, different != 0, "{interleaving:06b}, {different}");
            }
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_skipped_is_not_compared() {
        let mut agreement = Agreement::new(ME);
        for slot in 1..=100 {
            agreement.receive(PEER, (Slot(slot), slot));
        }
        assert_eq!(agreement.ahead[&PEER].len(), KEPT);
        agreement.applied((Slot(99), 99));
        assert_eq!(agreement.ahead[&PEER].len(), 1);
        for slot in 101..=200 {
            agreement.applied((Slot(slot), 0));
        }
        assert_eq!((agreement.own.len(), agreement.ahead[&PEER].len()), (KEPT, 0));
    }

    #[test]
    fn no_state_at_all_differs_from_none() {
        let mut agreement = Agreement::new(ME);
        agreement.applied((Slot::ZERO, 0));
        agreement.receive(PEER, (Slot::ZERO, 5));
        assert!(agreement.own.is_empty() && agreement.ahead[&PEER].is_empty());
    }
}
