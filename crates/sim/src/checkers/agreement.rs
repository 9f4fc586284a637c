//! One value per slot.
//!
//! A global oracle over all acceptances that are durable anywhere, not over what a
//! replica believes. A value is chosen when a quorum has accepted it in one ballot;
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

use synod_paxos::{Ballot, NodeId, Slot, Value};

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
    accept_quorum: usize,
    /// Of the slots from 1 on.
    slots: Vec<Votes>,
}

impl Agreement {
    /// Nothing is accepted yet.
    #[must_use]
    pub fn new(accept_quorum: usize) -> Self {
        Agreement { accept_quorum, slots: Vec::new() }
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
        let quorum = self.accept_quorum;
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
        let is_chosen = vote.voters.count_ones() as usize >= quorum;
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

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn value(text: &'static str) -> Value {
        Value::Batch(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_second_value_above_a_choice_is_found() {
        let mut oracle = Agreement::new(2);
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
        let mut oracle = Agreement::new(2);
        oracle.accepted(NodeId(1), Slot(1), ballot(1), &value("x")).expect("fine");
        oracle.accepted(NodeId(3), Slot(1), ballot(2), &value("y")).expect("fine");
        assert!(oracle.accepted(NodeId(2), Slot(1), ballot(1), &value("x")).is_err());
    }

    #[test]
    fn two_values_in_one_ballot_are_found() {
        let mut oracle = Agreement::new(3);
        oracle.accepted(NodeId(1), Slot(2), ballot(1), &value("x")).expect("fine");
        assert!(oracle.accepted(NodeId(2), Slot(2), ballot(1), &value("y")).is_err());
    }

    #[test]
    fn one_voter_is_no_quorum_however_often_it_votes() {
        let mut oracle = Agreement::new(2);
        for _ in 0..3 {
            oracle.accepted(NodeId(1), Slot(1), ballot(1), &value("x")).expect("fine");
        }
        assert_eq!(oracle.chosen(Slot(1)), None);
    }
}
