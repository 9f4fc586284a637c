//! The learner: which of the values that this node holds are the chosen ones.

use crate::{Ballot, Bug, Planted, Slot, Standing, Value, log::Log};

/// The newest claim of a leader, and how far it was looked at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Learner {
    ballot: Ballot,
    claimed_upto: Slot,
    examined_upto: Slot,
    planted: Planted,
}

impl Learner {
    pub(crate) fn new(planted: Planted) -> Learner {
        Learner {
            ballot: Ballot::ZERO,
            claimed_upto: Slot::ZERO,
            examined_upto: Slot::ZERO,
            planted,
        }
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
        let is_older = self.planted.is(Bug::LearnsOlderAcceptance) && held.is_some();
        if slot > log.chosen_upto() && (held == Some(Standing::Accepted(ballot)) || is_older) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use alloc::{format, vec::Vec};
    use bytes::Bytes;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn value_of(ballot: Ballot) -> Value {
        Value::Batch(Bytes::from(format!("value of {ballot}")))
    }

    /// What a slot can hold: nothing, an acceptance of ballot 1 or 2, a choice.
    const STANDINGS: [Option<Standing>; 4] = [
        None,
        Some(Standing::Accepted(Ballot { round: 1, node: NodeId(1) })),
        Some(Standing::Accepted(Ballot { round: 2, node: NodeId(1) })),
        Some(Standing::Chosen),
    ];

    fn log_of(standings: [Option<Standing>; 3]) -> Log {
        let mut log = Log::new(Slot::ZERO, Slot::ZERO);
        for (slot, standing) in (1..).map(Slot).zip(standings) {
            match standing {
                None => {}
                Some(Standing::Accepted(ballot)) => log.accept(slot, ballot, value_of(ballot)),
                Some(Standing::Chosen) => log.learn(slot, Value::Noop),
            }
        }
        log
    }

    fn standings_of(log: &Log) -> [Option<Standing>; 3] {
        [1, 2, 3].map(|slot| log.get(Slot(slot)).map(|entry| entry.standing))
    }

    /// One thing that a follower hears.
    #[derive(Clone, Copy, Debug)]
    enum Heard {
        Claim(Ballot, Slot),
        Accept(Ballot, Slot),
    }

    fn everything_heard() -> Vec<Heard> {
        let mut heard = Vec::new();
        for round in 1..=2 {
            heard.extend((0..=4).map(|upto| Heard::Claim(ballot(round), Slot(upto))));
            heard.extend((1..=3).map(|slot| Heard::Accept(ballot(round), Slot(slot))));
        }
        heard
    }

    /// The Part-Time Parliament 3.1 lets a priest write a decree into his ledger only when
    /// told of its success. Here a watermark tells it, of what was accepted in its own ballot.
    /// Three slots, each way to hold them, every sequence of three claims and Accepts: a slot
    /// becomes chosen iff its acceptance is of the ballot of the newest claim, which covers it.
    #[test]
    fn a_claim_is_taken_for_exactly_the_slots_accepted_in_its_own_ballot() {
        let everything = everything_heard();
        let count = everything.len();
        for code in 0..4_usize.pow(3) {
            let start = [code % 4, code / 4 % 4, code / 16].map(|place| STANDINGS[place]);
            for sequence in 0..count.pow(3) {
                let mut log = log_of(start);
                let mut learner = Learner::new(Planted::NONE);
                let mut expected = start;
                let (mut newest, mut claimed) = (Ballot::ZERO, Slot::ZERO);
                for step in [sequence, sequence / count, sequence / count / count] {
                    match everything[step % count] {
                        Heard::Claim(ballot, upto) => {
                            learner.receive_claim(ballot, upto, &mut log);
                            if ballot > newest {
                                (newest, claimed) = (ballot, upto);
                            } else if ballot == newest {
                                claimed = claimed.max(upto);
                            }
                        }
                        Heard::Accept(ballot, slot) => {
                            let held = expected.iter_mut().zip(1..).find(|(_, at)| *at == slot.0);
                            let (held, _) = held.expect("slots 1 to 3");
                            // The acceptor takes nothing below what it accepted.
                            if *held < Some(Standing::Accepted(ballot)) {
                                log.accept(slot, ballot, value_of(ballot));
                                *held = Some(Standing::Accepted(ballot));
                                learner.note_accepted(ballot, slot, &mut log);
                            }
                        }
                    }
                    for (slot, held) in (1..).map(Slot).zip(&mut expected) {
                        if slot <= claimed && *held == Some(Standing::Accepted(newest)) {
                            *held = Some(Standing::Chosen);
                        }
                    }
                    assert_eq!(standings_of(&log), expected, "{start:?}, sequence {sequence}");
                }
            }
        }
    }

    /// What is claimed is worth fetching, whatever ballot claims it and whatever is held.
    #[test]
    fn the_highest_claim_says_up_to_where_values_can_be_fetched() {
        let mut log = log_of([None; 3]);
        let mut learner = Learner::new(Planted::NONE);
        for (round, upto, known) in [(2, 3, 3), (2, 1, 3), (3, 2, 3), (3, 7, 7), (1, 9, 7)] {
            learner.receive_claim(ballot(round), Slot(upto), &mut log);
            assert_eq!(learner.claimed_upto(), Slot(known));
        }
    }

    #[test]
    fn a_claim_moves_nothing_in_the_prefix_and_is_bounded_by_the_log() {
        let mut log = log_of([Some(Standing::Accepted(ballot(1))); 3]);
        let mut learner = Learner::new(Planted::NONE);
        learner.receive_claim(ballot(1), Slot(u64::MAX - 1), &mut log);
        while log.advance().is_some() {}
        assert_eq!(log.chosen_upto(), Slot(3));
        log.evict(Slot(3), 0);
        learner.receive_claim(ballot(2), Slot(3), &mut log);
        assert_eq!((log.chosen_upto(), log.first()), (Slot(3), Slot(4)));
    }

    /// A value that was shipped as chosen beats every acceptance, and needs a record unless
    /// the journal holds it already.
    #[test]
    fn a_learnt_value_beats_every_acceptance() {
        for standing in STANDINGS {
            for round in 1..=2 {
                let mut log = log_of([standing, None, None]);
                let held = log.get(Slot(1)).map(|entry| entry.value.clone());
                let value = if standing == Some(Standing::Chosen) {
                    Value::Noop
                } else {
                    value_of(ballot(round))
                };
                let learnt = learn(Slot(1), &value, &mut log);
                let expected =
                    if held.as_ref() == Some(&value) { Learnt::Held } else { Learnt::New };
                assert_eq!(learnt, expected, "{standing:?}");
                assert_eq!(log.advance(), Some((Slot(1), value.clone())));
                assert_eq!(learn(Slot(1), &value, &mut log), Learnt::Held, "twice is once");
            }
        }
    }

    /// Paxos Made Simple 2.1: "Only a single value is chosen."
    #[test]
    #[should_panic(expected = "two values chosen")]
    fn only_a_single_value_is_chosen() {
        let mut log = log_of([Some(Standing::Chosen), None, None]);
        learn(Slot(1), &value_of(ballot(1)), &mut log);
    }

    #[test]
    #[should_panic(expected = "two values chosen")]
    fn only_a_single_value_is_chosen_in_the_prefix_too() {
        let mut log = log_of([Some(Standing::Chosen), None, None]);
        log.advance();
        learn(Slot(1), &value_of(ballot(1)), &mut log);
    }
}
