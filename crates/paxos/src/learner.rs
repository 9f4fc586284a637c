//! The learner: which of the values that this node holds are the chosen ones.

use crate::{Ballot, Slot, Standing, Value, log::Log};

/// The newest claim of a leader, and how far it was looked at.
#[derive(Debug)]
pub(crate) struct Learner {
    ballot: Ballot,
    claimed_upto: Slot,
    examined_upto: Slot,
}

impl Learner {
    pub(crate) fn new() -> Learner {
        Learner { ballot: Ballot::ZERO, claimed_upto: Slot::ZERO, examined_upto: Slot::ZERO }
    }

    /// The highest slot that a leader claimed to be chosen.
    pub(crate) fn claimed_upto(&self) -> Slot {
        self.claimed_upto
    }

    /// The leader of `ballot` claims that every slot up to `chosen_upto` is chosen.
    ///
    /// This node takes from it exactly the slots that it accepted *in that very
    /// ballot*: there the leader proposed one value only, so the value here is the
    /// one that the claim is about. A value accepted in an older ballot may have
    /// lost (pitfall 10); such slots are fetched.
    pub(crate) fn receive_claim(&mut self, ballot: Ballot, chosen_upto: Slot, log: &mut Log) {
        if ballot < self.ballot {
            return;
        }
        if ballot > self.ballot {
            self.ballot = ballot;
            self.examined_upto = Slot::ZERO;
        }
        self.claimed_upto = self.claimed_upto.max(chosen_upto);
        let mut slot = self.examined_upto.max(log.chosen_upto()).next();
        while slot <= chosen_upto && slot <= log.last() {
            self.confirm_if_accepted_in(ballot, slot, log);
            slot = slot.next();
        }
        // Slots above the log's end are looked at when their Accept arrives.
        self.examined_upto = self.examined_upto.max(chosen_upto);
    }

    /// This node has just accepted `slot` in `ballot`, perhaps late: the leader may
    /// have claimed it already.
    pub(crate) fn note_accepted(&self, ballot: Ballot, slot: Slot, log: &mut Log) {
        if ballot == self.ballot && slot <= self.examined_upto {
            self.confirm_if_accepted_in(ballot, slot, log);
        }
    }

    fn confirm_if_accepted_in(&self, ballot: Ballot, slot: Slot, log: &mut Log) {
        let held = log.get(slot).map(|entry| entry.standing);
        if slot > log.chosen_upto() && held == Some(Standing::Accepted(ballot)) {
            log.confirm(slot);
        }
    }
}

/// What learning one chosen value changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Learnt {
    /// It was known, or the held value is the chosen one.
    Held,
    /// It is new to this node and must be recorded.
    New,
}

/// Learns that `value` is chosen in `slot`, from a peer's log or from this node's
/// own count of votes. It beats every acceptance.
///
/// # Panics
/// When the slot is known to have chosen another value: agreement is broken.
pub(crate) fn learn(slot: Slot, value: &Value, log: &mut Log) -> Learnt {
    if slot <= log.chosen_upto() {
        if let Some(entry) = log.get(slot) {
            assert!(entry.value == *value, "slot {slot}: two values chosen");
        }
        return Learnt::Held;
    }
    match log.get(slot) {
        Some(entry) if entry.value == *value => {
            log.confirm(slot);
            Learnt::Held
        }
        Some(entry) => {
            assert!(entry.standing != Standing::Chosen, "slot {slot}: two values chosen");
            log.learn(slot, value.clone());
            Learnt::New
        }
        None => {
            log.learn(slot, value.clone());
            Learnt::New
        }
    }
}
