//! Multi-Paxos: three real replicas, two slots, two or three ballots.
//!
//! The network keeps every message for ever, and any of them can arrive at any time: that
//! is loss, delay, reordering and duplication without a limit. Only a Prepare is gone when it
//! has arrived, as often as the scope has no copies left: each answer to it has a new number,
//! so that copies without a limit would be states without a limit. Records become durable
//! one by one, in steps of their own. A crash and the restart are one step: what a node that
//! is down would miss can as well stay under way.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use stateright::{Model, Property};
use synod_paxos::{Ballot, Message, NodeId, Slot, Standing, Value};

use crate::{
    AGREEMENT,
    machine::{Act, Bug, Machine, Packet},
    shared::Shared,
};

/// What breaks when a node learns wrongly.
const LEARNT: &str = "what a node takes for chosen is chosen";

/// What is gone through to the end.
pub(crate) fn scopes() -> Vec<(&'static str, Scope)> {
    let plain = Scope {
        begin: Begin::Elected,
        stands: [1, 1, 0],
        slots: 1,
        crashes: 0,
        copies: 0,
        refusals: false,
        catch_up: false,
        change: false,
        bug: None,
    };
    let two_slots = Scope { slots: 2, ..plain.clone() };
    let changing = Scope { change: true, ..two_slots.clone() };
    let proposed = Scope { begin: Begin::Proposed, ..plain.clone() };
    vec![
        ("two new candidates", Scope { begin: Begin::New, ..plain.clone() }),
        ("a Prepare comes twice", Scope { copies: 1, ..plain.clone() }),
        ("two crashes", Scope { crashes: 2, ..plain.clone() }),
        ("two slots", two_slots.clone()),
        (
            "two slots, a gap and a restarted leader",
            Scope { begin: Begin::Gap, stands: [2, 0, 0], crashes: 1, ..two_slots },
        ),
        ("three ballots", Scope { stands: [1, 1, 1], ..proposed.clone() }),
        ("refusals", Scope { stands: [2, 1, 0], refusals: true, ..plain }),
        ("catch-up", Scope { stands: [2, 1, 0], catch_up: true, ..proposed }),
        ("a change of the members", changing.clone()),
        (
            "a change of the members by a restarted leader",
            Scope { stands: [2, 0, 0], crashes: 1, ..changing },
        ),
    ]
}

/// The scopes in which each bug breaks a property, and which.
pub(crate) fn bugs() -> Vec<(&'static str, Scope, &'static str)> {
    let with = |name: &str, bug| {
        let (_, scope) = scopes().into_iter().find(|(it, _)| *it == name).expect("a scope");
        Scope { bug: Some(bug), ..scope }
    };
    let again = Scope { stands: [2, 1, 0], ..with("three ballots", Bug::FirstReport) };
    vec![
        ("the first reported value is taken", again, AGREEMENT),
        ("answers leave before they are durable", with("two crashes", Bug::EarlyAnswer), AGREEMENT),
        (
            "a claim counts for an acceptance of another ballot",
            with("two crashes", Bug::OtherBallot),
            LEARNT,
        ),
        (
            "the vote of a removed node counts",
            with("a change of the members", Bug::RemovedVotes),
            LEARNT,
        ),
    ]
}

/// What can happen, how often.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) begin: Begin,
    /// How often each node may stand.
    pub(crate) stands: [u8; 3],
    pub(crate) slots: u64,
    pub(crate) crashes: u8,
    /// Prepares that arrive twice.
    pub(crate) copies: u8,
    pub(crate) refusals: bool,
    /// Whether nodes fetch chosen values from each other.
    pub(crate) catch_up: bool,
    /// Whether the value of the first slot is that n3 votes in the place of n2.
    pub(crate) change: bool,
    pub(crate) bug: Option<Bug>,
}

/// Where a scope begins. The next step may be any, and everything that was sent on the way
/// there may still arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Begin {
    /// With new nodes.
    New,
    /// Node 1 leads, all have promised, and nothing is proposed.
    Elected,
    /// The same, and it has proposed in every slot. Nobody else has accepted.
    Proposed,
    /// The same with two slots, and node 3 has accepted, in the second slot only.
    Gap,
}

/// A durable acceptance.
type Vote = (Slot, Ballot, Bytes, NodeId);

#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct State {
    machines: [Shared<Machine>; 3],
    network: Shared<BTreeSet<Shared<Packet>>>,
    /// Every acceptance that ever was durable.
    votes: Shared<BTreeSet<Vote>>,
    /// What clients wanted, and the slot that their leader gave it.
    offered: BTreeSet<(Slot, Bytes)>,
    stands: [u8; 3],
    crashes: u8,
    copies: u8,
    /// Whether the members change.
    changes: bool,
    /// What went wrong within a step.
    fault: Option<Fault>,
}

#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) enum Fault {
    Panicked(String),
    NotChosen(NodeId, Slot, Value),
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Action {
    Stand(usize),
    Propose(usize),
    Deliver(Shared<Packet>),
    DeliverCopy(Shared<Packet>),
    Save(usize),
    CrashAndRestart(usize),
    CatchUp { from: usize, to: usize },
}

fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// How the change of the members is told from every batch.
const CHANGE: &[u8] = b"n3 votes in the place of n2";

/// No batch is empty.
fn bytes(value: &Value) -> Bytes {
    match value {
        Value::Noop => Bytes::new(),
        Value::Configuration(_) => Bytes::from_static(CHANGE),
        Value::Batch(bytes) => bytes.clone(),
    }
}

impl State {
    /// What a quorum of those who vote in a slot has accepted in one ballot.
    fn chosen(&self) -> impl Iterator<Item = (Slot, Ballot, &Bytes)> {
        let is_changed = || self.pairs(Some(NodeId(3))).any(|vote| vote.2 == CHANGE);
        let first = if self.changes { Some(NodeId(3)) } else { None };
        let later = if self.changes && is_changed() { Some(NodeId(2)) } else { first };
        let of_first = self.pairs(first).filter(|(slot, ..)| *slot == Slot(1));
        of_first.chain(self.pairs(later).filter(|(slot, ..)| *slot > Slot(1)))
    }

    /// What two of the three nodes have accepted in one ballot, one of them left aside.
    fn pairs(&self, aside: Option<NodeId>) -> impl Iterator<Item = (Slot, Ballot, &Bytes)> {
        // Votes of one slot, ballot and value stand side by side.
        let counts = move |vote: &&Vote| Some(vote.3) != aside;
        let votes = || self.votes.iter().filter(counts);
        let next = votes().skip(1);
        let pairs = votes().zip(next).filter(|(a, b)| (a.0, a.1, &a.2) == (b.0, b.1, &b.2));
        pairs.map(|(vote, _)| (vote.0, vote.1, &vote.2))
    }

    fn is_chosen(&self, slot: Slot, value: &Value) -> bool {
        let value = bytes(value);
        self.chosen().any(|(at, _, chosen)| at == slot && *chosen == value)
    }

    /// Whether each slot has at most one chosen value.
    fn agrees(&self) -> bool {
        let mut known = BTreeMap::new();
        self.chosen().all(|(slot, _, value)| *known.entry(slot).or_insert(value) == value)
    }

    /// Everything that was proposed to somebody else.
    fn proposals(&self) -> impl Iterator<Item = (Slot, Ballot, &Value)> {
        self.network.iter().filter_map(|packet| match &packet.message {
            Message::Accept(accept) => Some((accept.slot, accept.ballot, &accept.value)),
            _ => None,
        })
    }

    /// The values that a leader proposed after another one had.
    fn adopted(&self) -> impl Iterator<Item = (Slot, Ballot, &Value)> {
        let offered_before = |slot: Slot, ballot: Ballot, value: &Value| {
            self.proposals().any(|(at, by, it)| at == slot && by < ballot && it == value)
        };
        self.proposals().filter(move |(slot, ballot, value)| match value {
            Value::Batch(it) => *it != format!("{ballot} in {slot}"),
            // It does not tell who offered it.
            Value::Configuration(_) => offered_before(*slot, *ballot, value),
            Value::Noop => false,
        })
    }
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let machine = |id| {
            let new = if self.change { Machine::changing } else { Machine::new };
            let mut machine = new(NodeId(id));
            machine.bug = self.bug;
            Shared::new(machine)
        };
        let mut state = State {
            machines: [1, 2, 3].map(machine),
            network: Shared::new(BTreeSet::new()),
            votes: Shared::new(BTreeSet::new()),
            offered: BTreeSet::new(),
            stands: [0; 3],
            crashes: 0,
            copies: 0,
            changes: self.change,
            fault: None,
        };
        self.run_first_half(&mut state);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        for (at, machine) in state.machines.iter().enumerate() {
            if state.stands[at] < self.stands[at] {
                actions.push(Action::Stand(at));
            }
            if machine.may_propose(Slot(self.slots)) {
                actions.push(Action::Propose(at));
            }
            if !machine.pending.is_empty() {
                actions.push(Action::Save(at));
            }
            if state.crashes < self.crashes {
                actions.push(Action::CrashAndRestart(at));
            }
            let behind =
                |to: &usize| state.machines[*to].view.chosen_upto < machine.view.chosen_upto;
            if self.catch_up {
                let behind = (0..3).filter(behind);
                actions.extend(behind.map(|to| Action::CatchUp { from: at, to }));
            }
        }
        for packet in state.network.iter() {
            actions.push(Action::Deliver(packet.clone()));
            if matches!(packet.message, Message::Prepare(_)) && state.copies < self.copies {
                actions.push(Action::DeliverCopy(packet.clone()));
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = Next { scope: self, state: state.clone(), sent: Vec::new() };
        next.act(action);
        let after = next.finish();
        (after != *state).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(AGREEMENT, |_, state: &State| state.agrees()),
            Property::always("validity", |_, state: &State| {
                state.votes.iter().all(|(slot, _, value, _)| {
                    value.is_empty() || state.offered.contains(&(*slot, value.clone()))
                })
            }),
            Property::always("one ballot has one value in a slot", |_, state: &State| {
                let mut known = BTreeMap::new();
                let mut proposals = state.proposals();
                proposals
                    .all(|(slot, at, value)| *known.entry((slot, at)).or_insert(value) == value)
            }),
            Property::always("a promise never decreases", |_, state: &State| {
                state.machines.iter().all(|machine| machine.keeps_its_word())
            }),
            Property::always(LEARNT, |_, state: &State| {
                !matches!(state.fault, Some(Fault::NotChosen(..)))
            }),
            Property::always("no handler panics", |_, state: &State| {
                !matches!(state.fault, Some(Fault::Panicked(_)))
            }),
            Property::sometimes("a value is chosen in every slot", |scope: &Scope, state| {
                (1..=scope.slots).all(|slot| {
                    let mut chosen = state.chosen();
                    chosen.any(|(at, _, value)| at == Slot(slot) && !value.is_empty())
                })
            }),
            Property::sometimes("a value is adopted and chosen", |_, state: &State| {
                let mut adopted = state.adopted();
                adopted
                    .any(|(slot, by, _)| state.chosen().any(|(at, it, _)| (at, it) == (slot, by)))
            }),
            Property::sometimes("a value is chosen in two ballots", |_, state: &State| {
                let slots: Vec<_> = state.chosen().map(|(slot, _, _)| slot).collect();
                slots.windows(2).any(|pair| pair[0] == pair[1])
            }),
            Property::sometimes("a leader follows the claim of another", |_, state: &State| {
                state.machines.iter().any(|machine| {
                    machine.view.chosen_upto > Slot::ZERO && machine.view.leads.is_none()
                })
            }),
        ];
        if self.slots > 1 && self.stands[1..] != [0, 0] && !self.change {
            properties.push(Property::sometimes(
                "a leader change with a gap",
                |_, state: &State| {
                    let mut chosen = state.chosen();
                    let no_op =
                        chosen.find(|(slot, _, value)| *slot == Slot(1) && value.is_empty());
                    let mut adopted = state.adopted();
                    no_op.is_some_and(|(_, by, _)| {
                        adopted.any(|(at, it, _)| (at, it) == (Slot(2), by))
                    })
                },
            ));
        }
        if self.change {
            let name = "a value is chosen by those who vote after the change";
            properties.push(Property::sometimes(name, |_, state: &State| {
                let changed = state.chosen().any(|(slot, _, v)| slot == Slot(1) && v == CHANGE);
                let batch = |(slot, _, v): (Slot, Ballot, &Bytes)| slot == Slot(2) && !v.is_empty();
                changed && state.chosen().any(batch)
            }));
        }
        if self.crashes > 0 {
            let name = "a value is chosen although a crash took what was not durable";
            properties.push(Property::sometimes(name, |_, state: &State| {
                state.machines.iter().any(|it| it.forgot) && state.chosen().next().is_some()
            }));
        }
        if self.catch_up {
            properties.push(Property::sometimes("a node fetches a value", |_, state: &State| {
                let mut slots = state.machines.iter().flat_map(|it| it.journal.slots.values());
                slots.any(|(standing, _)| *standing == Standing::Chosen)
            }));
        }
        properties
    }
}

impl Scope {
    /// Does what stands at the beginning, each thing as long as it does anything.
    fn run_first_half(&self, state: &mut State) {
        let mut run = |wanted: &dyn Fn(&Action) -> bool| {
            let after = |action| self.next_state(state, action);
            let mut actions = Vec::new();
            self.actions(state, &mut actions);
            let after = actions.into_iter().filter(wanted).find_map(after);
            let is_new = after.is_some();
            *state = after.unwrap_or_else(|| state.clone());
            is_new
        };
        if self.begin == Begin::New {
            return;
        }
        run(&|action| *action == Action::Stand(0));
        let votes = |action: &Action| match action {
            Action::Save(_) => true,
            Action::Deliver(it) => matches!(it.message, Message::Prepare(_) | Message::Promise(_)),
            _ => false,
        };
        while run(&votes) {}
        if self.begin == Begin::Elected {
            return;
        }
        while run(&|action| matches!(action, Action::Propose(0) | Action::Save(0))) {}
        if self.begin == Begin::Proposed {
            return;
        }
        let second =
            |message: &Message| matches!(message, Message::Accept(it) if it.slot == Slot(2));
        run(&|it| matches!(it, Action::Deliver(it) if it.to == NodeId(3) && second(&it.message)));
        while run(&|action| *action == Action::Save(2)) {}
    }
}

/// The state that a step makes of another.
struct Next<'a> {
    scope: &'a Scope,
    state: State,
    sent: Vec<Shared<Packet>>,
}

impl Next<'_> {
    fn act(&mut self, action: Action) {
        match action {
            Action::Stand(at) => {
                let promised = self.state.machines[at].view.promised;
                self.step(at, Act::Stand);
                if self.state.machines[at].view.promised > promised {
                    self.state.stands[at] += 1;
                }
            }
            Action::Propose(at) => {
                let (slot, value) = self.state.machines[at].offer();
                self.state.offered.insert((slot, bytes(&value)));
                self.step(at, Act::Propose);
            }
            Action::Deliver(packet) => {
                if matches!(packet.message, Message::Prepare(_)) {
                    let mut network = BTreeSet::clone(&self.state.network);
                    network.remove(&packet);
                    self.state.network = Shared::new(network);
                }
                self.step(index(packet.to), Act::Receive(packet));
            }
            Action::DeliverCopy(packet) => {
                self.state.copies += 1;
                self.step(index(packet.to), Act::Receive(packet));
            }
            Action::Save(at) => self.step(at, Act::Save),
            Action::CrashAndRestart(at) => {
                self.state.crashes += 1;
                self.step(at, Act::Crash);
            }
            Action::CatchUp { from, to } => {
                let first = self.state.machines[to].view.chosen_upto.next();
                let to = self.state.machines[to].id;
                self.step(from, Act::Ship { to, first });
            }
        }
    }

    /// Has a machine do something, and watches.
    fn step(&mut self, at: usize, act: Act) {
        let from = self.state.machines[at].id;
        let (machine, outcome) = match self.state.machines[at].after(act) {
            Ok(after) => after,
            Err(panic) => {
                self.state.fault = Some(Fault::Panicked(panic));
                return;
            }
        };
        self.state.machines[at] = machine;
        if let Some((slot, ballot, value)) = &outcome.vote {
            let mut votes = BTreeSet::clone(&self.state.votes);
            votes.insert((*slot, *ballot, bytes(value), from));
            self.state.votes = Shared::new(votes);
        }
        for (slot, value) in &outcome.chosen {
            if !self.state.is_chosen(*slot, value) {
                self.state.fault = Some(Fault::NotChosen(from, *slot, value.clone()));
            }
        }
        self.sent.extend(outcome.sent.iter().cloned());
    }

    /// Ends the step. When no crash is left, nobody can tell a slow disk from a slow
    /// network, and everything is saved at once.
    fn finish(mut self) -> State {
        if self.state.crashes == self.scope.crashes {
            for at in 0..self.state.machines.len() {
                while !self.state.machines[at].pending.is_empty() && self.state.fault.is_none() {
                    self.step(at, Act::Save);
                }
            }
        }
        let State { network, machines, .. } = &self.state;
        let lives = |packet: &Packet| self.scope.can_matter(&machines[index(packet.to)], packet);
        self.sent.retain(|packet| lives(packet) && !network.contains(packet));
        if !self.sent.is_empty() || !network.iter().all(|packet| lives(packet)) {
            let mut network = BTreeSet::clone(network);
            network.retain(|packet| lives(packet));
            network.extend(self.sent);
            self.state.network = Shared::new(network);
        }
        self.state
    }
}

impl Scope {
    /// Whether the packet could still change its addressee. No ballot is used twice, so
    /// what answers a ballot that its node has given up is as good as lost.
    fn can_matter(&self, to: &Machine, packet: &Packet) -> bool {
        match &packet.message {
            Message::Promise(promise) => {
                // A leader asks those who begin to vote.
                let asks = self.change && to.view.leads == Some(promise.ballot);
                asks || to.view.prepares == Some(promise.ballot)
            }
            Message::Accepted(accepted) => to.view.leads == Some(accepted.ballot),
            Message::Prepare(prepare) => self.refusals || prepare.ballot >= to.view.promised,
            Message::Reject(reject) => {
                let mine = to.view.prepares.or(to.view.leads);
                self.refusals && mine == Some(reject.ballot)
            }
            Message::Chosen(_) => self.catch_up,
            _ => true,
        }
    }
}
