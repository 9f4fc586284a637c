//! One value per slot.
//!
//! A global oracle over all acceptances that are durable anywhere, not over what a
//! replica believes. A value is chosen when a quorum of those who vote in its slot has
//! accepted it in one ballot; who they are follows from what was chosen before, and
//! nobody may accept in a slot of which that is not settled;
//! the oracle sees each acceptance at the moment when it becomes durable, which is
//! before anybody can count it. Three things must hold:
//!
//! 1. In one ballot nobody accepts two values for a slot.
//! 2. What was accepted in a ballot above one that chose is the chosen value. This
//!    is P2b of "Paxos Made Simple"; from it follows that no two values are chosen.
//! 3. What a replica learns or applies was chosen before, as the oracle counts it.
//!
//! Acceptances are never taken back here, whatever disks fail later, so nothing
//! that was chosen is forgotten.

use std::sync::Arc;

use synod_paxos::{Ballot, Configuration, Configurations, NodeId, Slot, Value};

use crate::checkers::{Check, Checker, demand};

/// All acceptances of a slot.
#[derive(Debug, Default)]
struct Votes {
    ballots: Vec<Vote>,
    chosen: Option<(Ballot, Value)>,
}

#[derive(Debug)]
struct Vote {
    ballot: Ballot,
    value: Value,
    voters: u32,
}

/// The oracle.
#[derive(Debug)]
pub struct Agreement {
    /// Who votes in which slot, as far as every slot is chosen.
    configurations: Configurations,
    first: Arc<Configuration>,
    /// Every slot up to here is chosen.
    chosen_upto: Slot,
    /// Of the slots from 1 on.
    slots: Vec<Votes>,
}

impl Agreement {
    /// Nothing is accepted yet.
    #[must_use]
    pub fn new(first: Configuration) -> Self {
        Agreement {
            first: Arc::new(first.clone()),
            configurations: Configurations::new(first),
            chosen_upto: Slot::ZERO,
            slots: Vec::new(),
        }
    }

    /// Every slot up to this one was chosen in another cluster, of which this one was made.
    pub(crate) fn begin_after(&mut self, slot: Slot) {
        self.chosen_upto = slot;
    }

    /// Who votes in which slot.
    #[must_use]
    pub fn configurations(&self) -> &Configurations {
        &self.configurations
    }

    /// Changes of the members that were chosen and had an effect.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.configurations.newest().configuration.number()
    }

    /// Follows the chosen prefix, and what it says about the members.
    fn advance(&mut self) {
        while let Some(value) = self.chosen(self.chosen_upto.next()).cloned() {
            self.chosen_upto = self.chosen_upto.next();
            if let Value::Configuration(new) = value {
                self.configurations.receive_chosen(self.chosen_upto, &new);
            }
        }
    }

    fn votes(&mut self, slot: Slot) -> &mut Votes {
        let at = usize::try_from(slot.0).expect("few slots") - 1;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, Votes::default);
        }
        &mut self.slots[at]
    }

    /// The highest slot in which anything is accepted.
    #[must_use]
    pub fn last(&self) -> Slot {
        Slot(self.slots.len() as u64)
    }

    /// A node's acceptance became durable.
    ///
    /// # Errors
    /// When it breaks agreement.
    pub fn accepted(&mut self, node: NodeId, slot: Slot, ballot: Ballot, value: &Value) -> Check {
        let decided = self.configurations.known_upto(self.chosen_upto);
        demand(slot <= decided, Checker::Agreement, || {
            format!("{node} accepted slot {slot}, and who votes there is open beyond {decided}")
        })?;
        let governing = self.configurations.governing(slot);
        let quorum = governing.accept_quorum();
        let voters = governing.voters().iter().fold(0_u32, |voters, node| voters | 1 << node.0);
        let votes = self.votes(slot);
        if let Some((chosen_in, chosen)) = &votes.chosen {
            demand(ballot <= *chosen_in || value == chosen, Checker::Agreement, || {
                format!(
                    "{node} accepted another value for slot {slot} in {ballot} than was chosen \
                     in {chosen_in}"
                )
            })?;
        }
        let at = votes.ballots.iter().position(|vote| vote.ballot == ballot);
        let at = at.unwrap_or_else(|| {
            votes.ballots.push(Vote { ballot, value: value.clone(), voters: 0 });
            votes.ballots.len() - 1
        });
        let vote = &mut votes.ballots[at];
        demand(vote.value == *value, Checker::Agreement, || {
            format!("{node} accepted a second value for slot {slot} in {ballot}")
        })?;
        vote.voters |= 1 << node.0;
        let is_chosen = (vote.voters & voters).count_ones() as usize >= quorum;
        // The lowest ballot that chose binds all above it.
        if is_chosen && votes.chosen.as_ref().is_none_or(|(known, _)| ballot < *known) {
            let known = votes.chosen.replace((ballot, value.clone()));
            demand(known.is_none_or(|(_, known)| known == *value), Checker::Agreement, || {
                format!("a second value was chosen for slot {slot}, in {ballot}")
            })?;
            let later = votes.ballots.iter().find(|v| v.ballot > ballot && v.value != *value);
            demand(later.is_none(), Checker::Agreement, || {
                format!(
                    "slot {slot} was chosen in {ballot} after others accepted otherwise above it"
                )
            })?;
        }
        if is_chosen {
            self.advance();
        }
        Ok(())
    }

    /// A node takes a value for the chosen one.
    ///
    /// # Errors
    /// When it is not.
    pub fn learnt(&mut self, node: NodeId, slot: Slot, value: &Value) -> Check {
        let chosen = self.chosen(slot);
        demand(chosen == Some(value), Checker::Agreement, || {
            let what = if chosen.is_some() { "another value was" } else { "none was" };
            format!("{node} takes a value for chosen in slot {slot}, but {what} chosen there")
        })
    }

    /// A state that holds every slot up to `upto`, a snapshot's or one that survived a
    /// crash, says who votes above it.
    ///
    /// # Errors
    /// When that is not what the chosen slots up to there say.
    pub fn knows(&self, node: NodeId, upto: Slot, known: &Configurations) -> Check {
        let mut expected = Configurations::new((*self.first).clone());
        for slot in (1..=upto.0).map(Slot) {
            if let Some(Value::Configuration(new)) = self.chosen(slot) {
                expected.receive_chosen(slot, new);
            }
        }
        let (known, expected) = (known.in_force(upto), expected.in_force(upto));
        demand(known == expected, Checker::Agreement, || {
            format!("{node} holds {known:?} for in force after slot {upto}, not {expected:?}")
        })
    }

    /// What this node durably accepted in a slot, in its highest ballot.
    #[must_use]
    pub fn accepted_by(&self, node: NodeId, slot: Slot) -> Option<(Ballot, &Value)> {
        let at = usize::try_from(slot.0).ok()?.checked_sub(1)?;
        let own = self.slots.get(at)?.ballots.iter().filter(|vote| vote.voters >> node.0 & 1 == 1);
        own.max_by_key(|vote| vote.ballot).map(|vote| (vote.ballot, &vote.value))
    }

    /// The lowest ballot that chose in a slot.
    #[must_use]
    pub fn chosen_in(&self, slot: Slot) -> Option<Ballot> {
        let at = usize::try_from(slot.0).ok()?.checked_sub(1)?;
        self.slots.get(at)?.chosen.as_ref().map(|(ballot, _)| *ballot)
    }

    /// The chosen value of a slot.
    #[must_use]
    pub fn chosen(&self, slot: Slot) -> Option<&Value> {
        let at = usize::try_from(slot.0).ok()?.checked_sub(1)?;
        self.slots.get(at)?.chosen.as_ref().map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// Five voters, so many of whom choose.
    fn oracle(quorum: usize) -> Agreement {
        let voters = (1..=5).map(NodeId).collect();
        Agreement::new(Configuration::new(voters, 6 - quorum, quorum, 16).expect("valid"))
    }

    /// A change in slot 1 of a cluster whose alpha is 16 governs slot 17 and no earlier one,
    /// and nobody may accept in a slot of which it is open who votes there.
    #[test]
    fn votes_are_counted_by_the_configuration_of_their_slot() {
        let mut oracle = oracle(3);
        let two = Configuration::majority(vec![NodeId(1), NodeId(9)], 16).expect("valid");
        let value = Value::Configuration(std::sync::Arc::new(two.numbered(1)));
        let vote = |oracle: &mut Agreement, node, slot, value: &Value| {
            oracle.accepted(NodeId(node), Slot(slot), ballot(1), value)
        };
        for node in 1..=3 {
            assert_eq!(vote(&mut oracle, node, 1, &value), Ok(()));
        }
        for (slot, chosen) in [(16, false), (17, true)] {
            for node in [1, 9] {
                assert_eq!(vote(&mut oracle, node, slot, &Value::Noop), Ok(()));
            }
            assert_eq!(oracle.chosen(Slot(slot)).is_some(), chosen, "{slot}");
        }
        assert_eq!(vote(&mut oracle, 1, 32, &Value::Noop), Ok(()));
        assert!(vote(&mut oracle, 1, 33, &Value::Noop).is_err());
        assert_eq!(oracle.changes(), 1);
    }

    /// The same change: a state of slot 0 must not know it, one of slot 1 must.
    #[test]
    fn a_state_that_says_otherwise_who_votes_is_found() {
        let mut oracle = oracle(3);
        let (before, mut after) = (oracle.configurations.clone(), oracle.configurations.clone());
        let two = Configuration::majority(vec![NodeId(1), NodeId(9)], 16).expect("valid");
        let two = Arc::new(two.numbered(1));
        assert!(after.receive_chosen(Slot(1), &two));
        for node in 1..=3 {
            let value = Value::Configuration(Arc::clone(&two));
            oracle.accepted(NodeId(node), Slot(1), ballot(1), &value).expect("fine");
        }
        for (slot, known, is_right) in
            [(0, &before, true), (1, &after, true), (0, &after, false), (1, &before, false)]
        {
            assert_eq!(oracle.knows(NodeId(1), Slot(slot), known).is_ok(), is_right, "{slot}");
        }
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn value(text: &'static str) -> Value {
        Value::Batch(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_second_value_above_a_choice_is_found() {
        let mut oracle = oracle(2);
        oracle.accepted(NodeId(1), Slot(1), ballot(1), &value("x")).expect("fine");
        oracle.accepted(NodeId(3), Slot(1), ballot(3), &value("x")).expect("fine");
        assert!(oracle.learnt(NodeId(1), Slot(1), &value("x")).is_err(), "not chosen yet");
        oracle.accepted(NodeId(2), Slot(1), ballot(1), &value("x")).expect("fine");
        oracle.learnt(NodeId(1), Slot(1), &value("x")).expect("chosen");
        assert!(oracle.learnt(NodeId(1), Slot(1), &value("y")).is_err());
        assert!(oracle.accepted(NodeId(3), Slot(1), ballot(2), &value("y")).is_err());
    }

    #[test]
    fn a_choice_below_another_acceptance_is_found() {
        let mut oracle = oracle(2);
        oracle.accepted(NodeId(1), Slot(1), ballot(1), &value("x")).expect("fine");
        oracle.accepted(NodeId(3), Slot(1), ballot(2), &value("y")).expect("fine");
        assert!(oracle.accepted(NodeId(2), Slot(1), ballot(1), &value("x")).is_err());
    }

    #[test]
    fn two_values_in_one_ballot_are_found() {
        let mut oracle = oracle(3);
        oracle.accepted(NodeId(1), Slot(2), ballot(1), &value("x")).expect("fine");
        assert!(oracle.accepted(NodeId(2), Slot(2), ballot(1), &value("y")).is_err());
    }

    #[test]
    fn one_voter_is_no_quorum_however_often_it_votes() {
        let mut oracle = oracle(2);
        for _ in 0..3 {
            oracle.accepted(NodeId(1), Slot(1), ballot(1), &value("x")).expect("fine");
        }
        assert_eq!(oracle.chosen(Slot(1)), None);
    }
}
