//! Whether the replicas agree: equal hashes of the state at equal slots.
//!
//! Heartbeats carry the hash at the last slot at which all nodes look. Replicas that
//! have parted would give different answers for ever, and nobody would notice. A
//! node that a majority of the voters contradicts stops; one that merely meets a
//! different peer says so and goes on, since it may well be the peer that is wrong, until a
//! majority of the voters says what it says.
//!
//! Whoever took over the state of another node agrees with that one for no merit of its own,
//! and together they are one witness, not two. So nobody is stopped, or believed, for what a
//! copy says until all that it copied has been found right: by a majority that worked it out
//! by itself, or by all voters there are. Then it is as good as its own work, for good. What
//! learner members say is compared and stops
//! nobody, and nobody else is listened to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use synod_paxos::{Bug, Configuration, NodeId, Planted, Slot};

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
    /// The newest one.
    configuration: Arc<Configuration>,
    own: VecDeque<(Slot, u64)>,
    /// Up to here the state is another node's work.
    copied_upto: Slot,
    /// Up to here it was another node's work, and was found right.
    found_right_upto: Slot,
    told: BTreeMap<NodeId, Told>,
    found: Option<Disagreement>,
    /// What a majority of several voters said against this node.
    contradicted: Option<Disagreement>,
    planted: Planted,
    agreed_upto: Slot,
}

/// What one peer's state was, oldest first.
#[derive(Debug, Default)]
struct Told {
    states: VecDeque<(Slot, u64)>,
    copied_upto: Slot,
}

impl Agreement {
    pub(crate) fn new(
        node: NodeId,
        configuration: Arc<Configuration>,
        copied_upto: Slot,
        planted: Planted,
    ) -> Self {
        Agreement {
            node,
            configuration,
            own: VecDeque::new(),
            copied_upto,
            found_right_upto: Slot::ZERO,
            told: BTreeMap::new(),
            found: None,
            contradicted: None,
            planted,
            agreed_upto: Slot::ZERO,
        }
    }

    /// The members are others now. What those told that are none any more is forgotten.
    pub(crate) fn set_configuration(&mut self, configuration: &Arc<Configuration>) {
        if self.configuration.number() != configuration.number() {
            self.configuration = Arc::clone(configuration);
            self.told.retain(|peer, _| configuration.contains(*peer));
        }
    }

    /// This node's state machine was at a slot and had this hash there.
    pub(crate) fn applied(&mut self, state: (Slot, u64)) {
        if keep(&mut self.own, state) {
            self.judge(state.0);
        }
    }

    /// The state is that of another node now, up to `upto`.
    pub(crate) fn installed(&mut self, upto: Slot, state: (Slot, u64)) {
        self.copied_upto = upto;
        self.applied(state);
    }

    /// A peer told what its state was, and up to where that is another node's work.
    pub(crate) fn receive(&mut self, peer: NodeId, theirs: (Slot, u64), copied_upto: Slot) {
        if !self.configuration.contains(peer) {
            return;
        }
        let told = self.told.entry(peer).or_default();
        told.copied_upto = copied_upto;
        if keep(&mut told.states, theirs) {
            self.judge(theirs.0);
        }
    }

    /// Up to here the state is another node's work, and was not found right yet.
    pub(crate) fn copied_upto(&self) -> Slot {
        self.copied_upto
    }

    /// Up to here the state was another node's work and was found right in this life. It only
    /// grows, so whoever looks now and then misses nothing.
    pub(crate) fn found_right_upto(&self) -> Slot {
        self.found_right_upto
    }

    /// The first difference that was found since a majority agreed with this node.
    pub(crate) fn disagreement(&self) -> Option<Disagreement> {
        self.found
    }

    /// The first difference in which a majority of several voters stood against this node.
    pub(crate) fn contradiction(&self) -> Option<Disagreement> {
        self.contradicted
    }

    /// Ends a node whose state is wrong, before anything leaves it that rests on it.
    ///
    /// # Panics
    /// When a majority of several voters had another state than this one.
    pub(crate) fn stop_if_contradicted(&self) {
        if let Some(Disagreement { slot, mine, theirs, .. }) = self.contradicted {
            panic!(
                "the state of {} after slot {slot} is {mine:016x}, and that of most voters \
                 {theirs:016x}: this one is damaged",
                self.node
            );
        }
    }

    /// The last slot after which a majority of several voters had the state that this node
    /// had there. A hash covers the effects of all slots, so they agreed before as well.
    pub(crate) fn agreed_upto(&self) -> Slot {
        self.agreed_upto
    }

    fn judge(&mut self, slot: Slot) {
        let Some(mine) = hash_at(&self.own, slot) else { return };
        let voters = self.configuration.voters();
        let is_majority = |count: usize| count > voters.len() / 2;
        let agreed_upto = self.agreed_upto;
        let others = || {
            self.told.iter().filter_map(|(peer, told)| {
                let hash = hash_at(&told.states, slot)?;
                Some((*peer, hash, told.copied_upto <= agreed_upto))
            })
        };
        let voting = || others().filter(|(peer, ..)| voters.contains(peer));
        // Those that have this hash by their own work.
        let witnesses =
            |wanted: u64| voting().filter(move |(_, hash, own)| *own && *hash == wanted);
        let is_voter = voters.contains(&self.node);
        let is_witness = is_voter && self.copied_upto <= agreed_upto;
        let with_me = witnesses(mine).count() + usize::from(is_witness);
        let alike = voting().filter(|(_, hash, _)| *hash == mine).count() + usize::from(is_voter);
        // A single voter that agrees with itself says nothing.
        if voters.len() > 1 && (is_majority(with_me) || alike == voters.len()) {
            self.agreed_upto = agreed_upto.max(slot);
            if self.copied_upto <= self.agreed_upto {
                let found_right = std::mem::replace(&mut self.copied_upto, Slot::ZERO);
                self.found_right_upto = self.found_right_upto.max(found_right);
            }
            self.found.take_if(|found| found.slot <= slot);
            return;
        }
        for (peer, theirs, _) in others().filter(|(_, theirs, _)| *theirs != mine) {
            self.found.get_or_insert(Disagreement { slot, peer, mine, theirs });
            // A single voter is no majority to believe: nobody agrees with it.
            let is_most = voters.len() > 1 && is_majority(witnesses(theirs).count());
            if is_most && !self.planted.is(Bug::DriftGoesOn) {
                self.contradicted.get_or_insert(Disagreement { slot, peer, mine, theirs });
            }
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

    /// The first so many nodes vote, and these learn.
    fn of(voters: u32, learners: &[u32]) -> Arc<Configuration> {
        let voters = (1..=voters).map(NodeId).collect();
        let learners = learners.iter().copied().map(NodeId).collect();
        let of = Configuration::majority(voters, 8).and_then(|of| of.with_learners(learners));
        Arc::new(of.expect("valid"))
    }

    /// Of a node whose state is its own work.
    fn new(node: NodeId, configuration: Arc<Configuration>) -> Agreement {
        Agreement::new(node, configuration, Slot::ZERO, Planted::NONE)
    }

    /// Slots 1 to 3 in every order of arrival, one of this node's hashes different or none:
    /// that is noticed whoever is ahead, and nothing else is.
    #[test]
    fn a_difference_at_an_equal_slot_is_noticed_whoever_comes_first() {
        for interleaving in (0..1_u32 << 6).filter(|turns| turns.count_ones() == 3) {
            for different in 0..=3 {
                let mut agreement = new(ME, of(3, &[]));
                let (mut mine, mut theirs) = (1.., 1..);
                for turn in 0..6 {
                    if interleaving & (1 << turn) == 0 {
                        let slot = mine.next().expect("endless");
                        let parted = different != 0 && slot >= different;
                        let hash = if parted { 0 } else { slot * 7 };
                        agreement.applied((Slot(slot), hash));
                    } else {
                        let slot = theirs.next().expect("endless");
                        agreement.receive(PEER, (Slot(slot), slot * 7), Slot::ZERO);
                        agreement.receive(PEER, (Slot(slot), slot * 7), Slot::ZERO);
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
                        let mut agreement = new(ME, of(members, &[]));
                        for peer in 0..=peers {
                            if peer == turn {
                                agreement.applied((Slot(8), 0));
                            }
                            if peer < peers {
                                agreement.receive(
                                    NodeId(peer + 2),
                                    (Slot(8), hash(peer)),
                                    Slot::ZERO,
                                );
                            }
                        }
                        agreement.stop_if_contradicted();
                    };
                    let against = |h| (0..peers).filter(|peer| hash(*peer) == h).count();
                    let expected = (1..3).any(|h| against(h) > members as usize / 2);
                    let stopped = std::panic::catch_unwind(run).is_err();
                    assert_eq!(stopped, expected, "{hashes} among {members}, at {turn}");
                }
            }
        }
    }

    /// Whoever tells first, one of three that is alone stops and the others go on as if
    /// nothing had happened: they can give it their state.
    #[test]
    fn a_majority_does_not_doubt_itself() {
        for peers in [[2, 3], [3, 2]] {
            let mut agreement = new(ME, of(3, &[]));
            agreement.applied((Slot(8), 1));
            for peer in peers {
                let hash = if peer == 2 { 1 } else { 9 };
                agreement.receive(NodeId(peer), (Slot(8), hash), Slot::ZERO);
                let is_alone = peers == [3, 2] && peer == 3;
                assert_eq!(agreement.disagreement().is_some(), is_alone);
            }
            assert_eq!(agreement.agreed_upto(), Slot(8));
            agreement.applied((Slot(16), 2));
            agreement.receive(NodeId(2), (Slot(16), 3), Slot::ZERO);
            assert!(agreement.disagreement().is_some());
            assert_eq!(agreement.agreed_upto(), Slot(8));
        }
        let mut alone = new(ME, of(1, &[2]));
        alone.applied((Slot(8), 1));
        alone.receive(NodeId(2), (Slot(8), 1), Slot::ZERO);
        assert_eq!(alone.agreed_upto(), Slot::ZERO);
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_skipped_is_not_compared() {
        let mut agreement = new(ME, of(3, &[]));
        for slot in 1..=100 {
            agreement.receive(PEER, (Slot(slot), slot), Slot::ZERO);
        }
        assert_eq!(agreement.told[&PEER].states.len(), KEPT);
        agreement.applied((Slot(99), 99));
        for slot in 101..=200 {
            agreement.applied((Slot(slot), 0));
        }
        assert_eq!((agreement.own.len(), agreement.disagreement()), (KEPT, None));
    }

    /// A learner member, a node that was removed and one that nobody knows have another state
    /// than the voters: none of them stops a voter, and the voters stop each of them.
    #[test]
    fn who_does_not_vote_stops_no_voter() {
        for voters in 1..=3 {
            let mut agreement = new(ME, of(voters, &[7, 8, 9]));
            agreement.applied((Slot(8), 1));
            for learner in [7, 8, 9] {
                agreement.receive(NodeId(learner), (Slot(8), 2), Slot::ZERO);
            }
            assert_eq!(agreement.disagreement().map(|found| found.peer), Some(NodeId(7)));
        }
        let mut agreement = new(ME, of(3, &[]));
        agreement.receive(PEER, (Slot(8), 2), Slot::ZERO);
        let next = of(1, &[3]).as_ref().clone().numbered(1);
        agreement.set_configuration(&Arc::new(next));
        agreement.receive(PEER, (Slot(9), 2), Slot::ZERO);
        agreement.receive(NodeId(4), (Slot(9), 2), Slot::ZERO);
        agreement.applied((Slot(8), 1));
        agreement.applied((Slot(9), 1));
        assert_eq!((agreement.disagreement(), agreement.told.len()), (None, 0));

        let learner = || {
            let mut agreement = new(NodeId(9), of(3, &[9]));
            agreement.applied((Slot(8), 2));
            agreement.receive(NodeId(1), (Slot(8), 1), Slot::ZERO);
            agreement.receive(NodeId(2), (Slot(8), 1), Slot::ZERO);
            agreement.stop_if_contradicted();
        };
        assert!(std::panic::catch_unwind(learner).is_err());
    }

    /// A single voter and its learner member differ: one of them is damaged, and nobody can
    /// say which.
    #[test]
    fn one_against_one_goes_on() {
        for me in [ME, NodeId(9)] {
            let peer = if me == ME { NodeId(9) } else { ME };
            let mut agreement = new(me, of(1, &[9]));
            agreement.applied((Slot(8), 1));
            agreement.receive(peer, (Slot(8), 2), Slot::ZERO);
            assert!(agreement.disagreement().is_some());
        }
    }

    #[test]
    fn no_state_at_all_differs_from_none() {
        let mut agreement = new(ME, of(2, &[]));
        agreement.applied((Slot::ZERO, 0));
        agreement.receive(PEER, (Slot::ZERO, 5), Slot::ZERO);
        assert_eq!(agreement.disagreement(), None);
    }

    /// Node 2's state went wrong before node 1 took it over, and node 3 has the right one:
    /// nobody knows, and nobody stops, whoever tells first.
    #[test]
    fn a_copy_and_its_origin_are_one_witness() {
        let taken_at = Slot(6);
        let told = |node| (Slot(8), if node == 3 { 1 } else { 9 });
        let copied = |node| if node == 1 { taken_at } else { Slot::ZERO };
        for me in 1..=3 {
            for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [1, 3, 2], [2, 1, 3], [3, 1, 2]] {
                let mut agreement =
                    Agreement::new(NodeId(me), of(3, &[]), copied(me), Planted::NONE);
                agreement.applied((Slot(4), 4));
                for node in order {
                    match node == me {
                        true => agreement.applied(told(node)),
                        false => agreement.receive(NodeId(node), told(node), copied(node)),
                    }
                }
                agreement.stop_if_contradicted();
                let agreed = agreement.agreed_upto();
                assert!(agreement.disagreement().is_some() && agreed == Slot::ZERO, "{me}");
            }
        }
    }

    /// Once two that did not copy agree with it, a copy is a witness for what comes then.
    #[test]
    fn a_copy_that_was_found_right_is_a_witness_again() {
        let run = |is_found_right: bool| {
            let mut agreement = new(NodeId(3), of(3, &[]));
            if is_found_right {
                agreement.applied((Slot(8), 1));
                agreement.receive(NodeId(1), (Slot(8), 1), Slot(6));
                assert_eq!(agreement.agreed_upto(), Slot::ZERO);
                agreement.receive(NodeId(2), (Slot(8), 1), Slot::ZERO);
                assert_eq!(agreement.agreed_upto(), Slot(8));
            }
            agreement.receive(NodeId(1), (Slot(16), 1), Slot(6));
            agreement.receive(NodeId(2), (Slot(16), 1), Slot::ZERO);
            agreement.applied((Slot(16), 2));
            agreement.stop_if_contradicted();
        };
        run(false);
        assert!(std::panic::catch_unwind(|| run(true)).is_err());
    }

    #[test]
    fn what_was_found_right_is_as_good_as_own_work() {
        let mut agreement = Agreement::new(ME, of(3, &[]), Slot(5), Planted::NONE);
        agreement.applied((Slot(8), 1));
        agreement.receive(PEER, (Slot(8), 1), Slot::ZERO);
        assert_eq!(agreement.copied_upto(), Slot(5), "its origin alone may be wrong");
        agreement.receive(NodeId(3), (Slot(8), 1), Slot::ZERO);
        assert_eq!(agreement.copied_upto(), Slot::ZERO);
        // And of a peer that says so the next word counts.
        let mut other = new(NodeId(3), of(3, &[]));
        other.receive(ME, (Slot(8), 1), Slot(5));
        other.receive(ME, (Slot(16), 2), Slot::ZERO);
        other.applied((Slot(16), 2));
        assert_eq!(other.agreed_upto(), Slot(16));
    }

    /// A restored cluster, or one whose members were all replaced: there is nobody else.
    #[test]
    fn copies_that_all_agree_become_witnesses() {
        let mut agreement = Agreement::new(ME, of(3, &[]), Slot(5), Planted::NONE);
        agreement.applied((Slot(8), 1));
        agreement.receive(PEER, (Slot(8), 1), Slot(5));
        assert_eq!(agreement.agreed_upto(), Slot::ZERO);
        agreement.receive(NodeId(3), (Slot(8), 1), Slot(5));
        assert_eq!(agreement.agreed_upto(), Slot(8));
        agreement.installed(Slot(12), (Slot(12), 7));
        agreement.receive(PEER, (Slot(12), 7), Slot(5));
        assert_eq!(agreement.agreed_upto(), Slot(8), "one of the two is a copy again");
    }

    /// A state comes and is found right at once, by what the peers told before: who looks only later
    /// sees that it was.
    #[test]
    fn that_a_copy_was_found_right_is_seen_by_whoever_looks_late() {
        let mut agreement = new(ME, of(3, &[]));
        for peer in [2, 3] {
            agreement.receive(NodeId(peer), (Slot(8), 1), Slot::ZERO);
        }
        assert_eq!(agreement.found_right_upto(), Slot::ZERO);
        agreement.installed(Slot(5), (Slot(4), 9));
        agreement.applied((Slot(8), 1));
        assert_eq!((agreement.copied_upto(), agreement.found_right_upto()), (Slot::ZERO, Slot(5)));
        agreement.installed(Slot(12), (Slot(8), 1));
        assert_eq!((agreement.copied_upto(), agreement.found_right_upto()), (Slot(12), Slot(5)));
    }
}
