//! The learning rule: one real replica that follows, and everything that leaders may say.
//!
//! For each slot it is settled at the beginning in which ballot its value gets chosen, if in
//! any. From that ballot on leaders propose this value, below it each its own, as Phase 1
//! would have it. Every Accept, claim and fetched value that fits may come at any time, any
//! number of times. Beside the replica stands the rule as `docs/protocol.md` has it: of a
//! claim, a node takes exactly the slots that it accepted in that very ballot.

use std::collections::BTreeSet;

use bytes::Bytes;
use stateright::{Model, Property};
use synod_paxos::{Accept, Ballot, Chosen, Message, NodeId, Slot, Standing, Value, Watermark};

use crate::{
    machine::{Act, Bug, Machine, Packet},
    shared::Shared,
};

/// What breaks when a node learns by another rule.
const RULE: &str = "exactly what the rule says is taken for chosen";

const FOLLOWER: NodeId = NodeId(3);

/// What can happen, how often.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) slots: u64,
    /// How many leaders there are, each in a ballot above the last.
    pub(crate) ballots: u64,
    pub(crate) crashes: u8,
    pub(crate) bug: Option<Bug>,
}

#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct State {
    machine: Shared<Machine>,
    /// The round of the ballot in which each slot's value is chosen; 0 for none.
    settled: Vec<u64>,
    /// What can come, given that.
    messages: Shared<Vec<Shared<Packet>>>,
    /// The newest claim.
    claim: (Ballot, Slot),
    /// What the rule says is known as chosen.
    known: BTreeSet<Slot>,
    crashes: u8,
    fault: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Action {
    Deliver(Shared<Packet>),
    Save,
    CrashAndRestart,
}

/// What is gone through to the end.
pub(crate) fn scopes() -> Vec<(&'static str, Scope)> {
    vec![
        ("two slots, two ballots, a crash", Scope { slots: 2, ballots: 2, crashes: 1, bug: None }),
        ("two slots, three ballots", Scope { slots: 2, ballots: 3, crashes: 0, bug: None }),
        ("three slots, two ballots", Scope { slots: 3, ballots: 2, crashes: 0, bug: None }),
    ]
}

/// The scopes in which each bug breaks a property, and which.
pub(crate) fn bugs() -> Vec<(&'static str, Scope, &'static str)> {
    let (_, scope) = scopes().swap_remove(1);
    let scope = Scope { bug: Some(Bug::OtherBallot), ..scope };
    vec![("a claim counts for an acceptance of another ballot", scope, RULE)]
}

/// The leaders are nodes 1 and 2 by turns.
fn ballot(round: u64) -> Ballot {
    let node = if round % 2 == 1 { NodeId(1) } else { NodeId(2) };
    Ballot { round, node }
}

impl State {
    fn value(&self, round: u64, slot: Slot) -> Value {
        let settled = self.settled[place(slot)];
        let round = if (1..=round).contains(&settled) { settled } else { round };
        Value::Batch(Bytes::from(format!("{} in {slot}", ballot(round))))
    }

    /// Whether the leader can have got every slot up to this one chosen.
    fn may_claim(&self, round: u64, upto: Slot) -> bool {
        let upto = usize::try_from(upto.0).expect("few slots");
        self.settled[..upto].iter().all(|settled| (1..=round).contains(settled))
    }

    fn with_messages(mut self, scope: &Scope) -> State {
        let mut messages = Vec::new();
        for round in 1..=scope.ballots {
            let ballot = ballot(round);
            let claims = (0..=scope.slots).map(Slot).filter(|upto| self.may_claim(round, *upto));
            for chosen_upto in claims {
                let watermark = Watermark { ballot, chosen_upto, read_round: 0 };
                messages.push((ballot.node, Message::Watermark(watermark)));
                for slot in (1..=scope.slots).map(Slot) {
                    let value = self.value(round, slot);
                    let accept = Accept { ballot, slot, value, chosen_upto, read_round: 0 };
                    messages.push((ballot.node, Message::Accept(accept)));
                }
            }
        }
        for first in (1..=scope.slots).map(Slot) {
            if self.settled[place(first)] > 0 {
                let values = vec![self.value(scope.ballots, first)];
                let chosen = Chosen { nonce: 0, first, values };
                messages.push((NodeId(1), Message::Chosen(chosen)));
            }
        }
        let packet = |(from, message)| Shared::new(Packet { to: FOLLOWER, from, message });
        self.messages = Shared::new(messages.into_iter().map(packet).collect());
        self
    }

    /// The rule.
    fn learn(&mut self, message: &Message) {
        let claim = match message {
            Message::Watermark(it) => Some((it.ballot, it.chosen_upto)),
            Message::Accept(it) => Some((it.ballot, it.chosen_upto)),
            Message::Chosen(it) if it.first == self.prefix().next() => {
                self.known.insert(it.first);
                None
            }
            _ => None,
        };
        if let Some((ballot, upto)) = claim {
            if ballot > self.claim.0 {
                self.claim = (ballot, upto);
            } else if ballot == self.claim.0 {
                self.claim.1 = self.claim.1.max(upto);
            }
        }
        let (ballot, upto) = self.claim;
        for slot in (1..=upto.0).map(Slot) {
            if self.machine.holds(slot) == Some(Standing::Accepted(ballot)) {
                self.known.insert(slot);
            }
        }
    }

    /// The slots without a gap that the rule says are known.
    fn prefix(&self) -> Slot {
        let missing = (1..).map(Slot).find(|slot| !self.known.contains(slot));
        missing.expect("few slots are known").prior()
    }

    fn act(&mut self, act: Act) {
        let (machine, outcome) = match self.machine.after(act) {
            Ok(after) => after,
            Err(panic) => {
                self.fault = Some(format!("a handler panics: {panic}"));
                return;
            }
        };
        self.machine = machine;
        for (slot, value) in &outcome.chosen {
            let settled = self.settled[place(*slot)];
            if settled == 0 || *value != self.value(settled, *slot) {
                self.fault = Some(format!("{slot} is not chosen as {value:?}"));
            }
        }
    }
}

fn place(slot: Slot) -> usize {
    usize::try_from(slot.0 - 1).expect("few slots")
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slots = u32::try_from(self.slots).expect("few slots");
        let choices = self.ballots + 1;
        let states = (0..choices.pow(slots)).map(|code| {
            let mut machine = Machine::new(FOLLOWER);
            machine.is_mute = true;
            machine.bug = self.bug;
            let state = State {
                machine: Shared::new(machine),
                settled: (0..slots).map(|slot| code / choices.pow(slot) % choices).collect(),
                messages: Shared::new(Vec::new()),
                claim: (Ballot::ZERO, Slot::ZERO),
                known: BTreeSet::new(),
                crashes: 0,
                fault: None,
            };
            state.with_messages(self)
        });
        states.collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        actions.extend(state.messages.iter().cloned().map(Action::Deliver));
        if !state.machine.pending.is_empty() {
            actions.push(Action::Save);
        }
        if state.crashes < self.crashes {
            actions.push(Action::CrashAndRestart);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Deliver(packet) => {
                next.act(Act::Receive(packet.clone()));
                next.learn(&packet.message);
            }
            Action::Save => next.act(Act::Save),
            Action::CrashAndRestart => {
                next.crashes += 1;
                next.act(Act::Crash);
                // What the journal does not say is forgotten.
                next.claim = (Ballot::ZERO, Slot::ZERO);
                let slots = (1..=self.slots).map(Slot);
                let recorded = next.machine.view.chosen_upto;
                let is_known = |slot: &Slot| {
                    *slot <= recorded || next.machine.holds(*slot) == Some(Standing::Chosen)
                };
                next.known = slots.filter(is_known).collect();
            }
        }
        // When no crash is left, it shows nothing whether the disk is slow.
        while next.crashes == self.crashes
            && !next.machine.pending.is_empty()
            && next.fault.is_none()
        {
            next.act(Act::Save);
        }
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(RULE, |_, state: &State| {
                state.fault.is_some() || state.machine.view.chosen_upto == state.prefix()
            }),
            Property::always("no fault", |_, state: &State| state.fault.is_none()),
            Property::always("a promise never decreases", |_, state: &State| {
                state.machine.keeps_its_word()
            }),
            Property::sometimes("everything is learnt", |scope: &Scope, state: &State| {
                state.machine.view.chosen_upto == Slot(scope.slots)
            }),
            Property::sometimes("a claim covers what was accepted before", |_, state: &State| {
                let (ballot, upto) = state.claim;
                let is_older = |slot: &Slot| {
                    let held = state.machine.holds(*slot);
                    matches!(held, Some(Standing::Accepted(older)) if older < ballot)
                };
                (1..=upto.0).map(Slot).any(|it| !state.known.contains(&it) && is_older(&it))
            }),
            Property::sometimes(
                "a later slot is known before an earlier one",
                |_, state: &State| state.known.last().is_some_and(|last| *last > state.prefix()),
            ),
        ]
    }
}
