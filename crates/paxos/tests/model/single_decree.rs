//! Single-decree Paxos: the real `Register` on three nodes, of which two propose.
//!
//! The network keeps every message for ever, and any of them can arrive at any time: that
//! is loss, delay, reordering and duplication without a limit. A record is saved in a step
//! of its own. A crash and the restart are one step: what a node that is down would miss
//! can as well stay under way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use stateright::{Model, Property};
use synod_paxos::{
    Ballot, Configuration, NodeId,
    single_decree::{Effects, Envelope, Message, Proposal, Record, Register, Unsaved},
};

use crate::{AGREEMENT, shared::Shared};

const FORGOT: &str = "a value is chosen although a crash took what was not saved";

/// What is gone through to the end: the name, and the scope.
pub(crate) fn scopes() -> Vec<(&'static str, Scope)> {
    let plain = Scope {
        attempts: [1, 1],
        crashes: 0,
        learners: &[],
        refusals: false,
        half_done: false,
        bug: None,
    };
    vec![
        ("two ballots, a crash", Scope { crashes: 1, ..plain.clone() }),
        ("two ballots, a learner", Scope { learners: &[NodeId(3)], ..plain.clone() }),
        ("three ballots", Scope { attempts: [2, 1], half_done: true, ..plain }),
    ]
}

/// The scopes in which each bug breaks agreement.
pub(crate) fn bugs() -> Vec<(&'static str, Scope)> {
    let with = |scope: usize, bug| Scope { bug: Some(bug), ..scopes()[scope].1.clone() };
    vec![
        ("accepting does not raise the promise", with(2, Bug::AcceptKeepsPromise)),
        ("the first reported value is taken", with(2, Bug::FirstReport)),
        ("answers leave before they are saved", with(0, Bug::EarlyAnswer)),
    ]
}

/// What can happen, how often.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// How often nodes 1 and 2 may try to write.
    pub(crate) attempts: [u8; 2],
    pub(crate) crashes: u8,
    /// Who hears of acceptances; they cost many states and decide nothing.
    pub(crate) learners: &'static [NodeId],
    /// Whether refusals arrive.
    pub(crate) refusals: bool,
    /// Starts where node 1 has come half through with its first attempt: all have promised,
    /// and only it has accepted.
    pub(crate) half_done: bool,
    pub(crate) bug: Option<Bug>,
}

/// What goes wrong between the handlers and the world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bug {
    /// Accepting does not raise the promise (pitfall 5).
    AcceptKeepsPromise,
    /// The proposer takes the first reported value, not that of the highest ballot (8).
    FirstReport,
    /// Answers leave before they are saved (3).
    EarlyAnswer,
}

#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Node {
    register: Register,
    disk: Option<Record>,
    /// What is being saved, and what leaves then.
    unsaved: VecDeque<(Record, Vec<Envelope>)>,
    attempts: u8,
    /// The highest ballot that it has told anybody it promised.
    said: Ballot,
    /// A crash took a record that was not saved.
    forgot: bool,
    /// Who was the first to report an acceptance for this node's ballot; only with a bug.
    first_report: Option<(Ballot, NodeId)>,
}

#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct State {
    nodes: [Shared<Node>; 3],
    network: Shared<BTreeSet<Packet>>,
    /// Every acceptance that ever was durable.
    votes: Shared<BTreeSet<(Proposal, NodeId)>>,
    crashes: u8,
    /// What a handler panicked with.
    panicked: Option<String>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Packet {
    to: NodeId,
    from: NodeId,
    message: Message,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Action {
    Write(usize),
    Deliver(Packet),
    Save(usize),
    CrashAndRestart(usize),
}

fn id(index: usize) -> NodeId {
    NodeId(u32::try_from(index).expect("three nodes") + 1)
}

fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}

const VALUES: [Bytes; 2] = [Bytes::from_static(b"x"), Bytes::from_static(b"y")];

fn configuration() -> Configuration {
    Configuration::majority(vec![NodeId(1), NodeId(2), NodeId(3)], 1).expect("three nodes")
}

impl State {
    /// Every value that a quorum has accepted in one ballot, and the ballots.
    fn chosen(&self) -> BTreeSet<(&Bytes, Ballot)> {
        let mut voters: BTreeMap<&Proposal, usize> = BTreeMap::new();
        for (proposal, _) in self.votes.iter() {
            *voters.entry(proposal).or_default() += 1;
        }
        let chosen = voters.into_iter().filter(|(_, voters)| *voters >= 2);
        chosen.map(|(proposal, _)| (&proposal.value, proposal.ballot)).collect()
    }

    fn chosen_values(&self) -> BTreeSet<&Bytes> {
        self.chosen().into_iter().map(|(value, _)| value).collect()
    }

    fn proposals(&self) -> impl Iterator<Item = &Proposal> {
        self.network.iter().filter_map(|packet| match &packet.message {
            Message::Accept(proposal) => Some(proposal),
            _ => None,
        })
    }
}

impl Model for Scope {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = |index| Node {
            register: Register::recover(id(index), configuration(), None),
            disk: None,
            unsaved: VecDeque::new(),
            attempts: 0,
            said: Ballot::ZERO,
            forgot: false,
            first_report: None,
        };
        let mut state = State {
            nodes: [0, 1, 2].map(|index| Shared::new(node(index))),
            network: Shared::new(BTreeSet::new()),
            votes: Shared::new(BTreeSet::new()),
            crashes: 0,
            panicked: None,
        };
        if self.half_done {
            self.run_first_half(&mut state);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.panicked.is_some() {
            return;
        }
        for (index, node) in state.nodes.iter().enumerate() {
            if self.attempts.get(index).is_some_and(|most| node.attempts < *most) {
                actions.push(Action::Write(index));
            }
            if !node.unsaved.is_empty() {
                actions.push(Action::Save(index));
            }
            if state.crashes < self.crashes {
                actions.push(Action::CrashAndRestart(index));
            }
        }
        actions.extend(state.network.iter().cloned().map(Action::Deliver));
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = Next { scope: self, state: state.clone(), sent: Vec::new() };
        match action {
            Action::Write(at) => next.write(at),
            Action::Deliver(packet) => next.deliver(packet),
            Action::Save(at) => next.save(at),
            Action::CrashAndRestart(at) => next.crash(at),
        }
        let state_after = next.finish();
        (state_after != *state).then_some(state_after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(AGREEMENT, |_, state: &State| state.chosen_values().len() <= 1),
            Property::always("validity", |_, state: &State| {
                state.votes.iter().all(|(proposal, _)| VALUES.contains(&proposal.value))
            }),
            Property::always("one ballot has one value", |_, state: &State| {
                let all: BTreeSet<_> = state.proposals().collect();
                let ballots: BTreeSet<_> = all.iter().map(|proposal| proposal.ballot).collect();
                all.len() == ballots.len()
            }),
            Property::always("a promise never decreases", |_, state: &State| {
                state.nodes.iter().all(|node| node.said <= node.register.record().promised)
            }),
            Property::always("what a node has learnt is chosen", |_, state: &State| {
                let chosen = state.chosen_values();
                state
                    .nodes
                    .iter()
                    .filter_map(|node| node.register.chosen())
                    .all(|it| chosen.contains(it))
            }),
            Property::always("no handler panics", |_, state: &State| state.panicked.is_none()),
            Property::sometimes("a value is chosen", |_, state: &State| !state.chosen().is_empty()),
            Property::sometimes("each value is chosen", |_, state: &State| {
                state.chosen_values().contains(&VALUES[1])
            }),
            Property::sometimes("a rival's value is adopted", |_, state: &State| {
                let own = |it: &Proposal| VALUES[index(it.ballot.node)] == it.value;
                state.proposals().any(|it| !own(it))
            }),
            Property::sometimes("a value is chosen in two ballots", |_, state: &State| {
                state.chosen().len() > 1
            }),
        ];
        if self.crashes > 0 {
            properties.push(Property::sometimes(FORGOT, |_, state: &State| {
                state.nodes.iter().any(|node| node.forgot) && !state.chosen().is_empty()
            }));
        }
        if !self.learners.is_empty() {
            properties.push(Property::sometimes("a node learns the value", |_, state: &State| {
                state.nodes.iter().any(|node| node.register.chosen().is_some())
            }));
        }
        properties
    }
}

impl Scope {
    /// Does the first thing that can be done of each kind, until node 1 has accepted.
    fn run_first_half(&self, state: &mut State) {
        let mut step = |wanted: &dyn Fn(&Action) -> bool| {
            let mut actions = Vec::new();
            self.actions(state, &mut actions);
            let mut after = actions.into_iter().filter(wanted).map(|it| self.next_state(state, it));
            after.find_map(|after| after).is_some_and(|after| {
                *state = after;
                true
            })
        };
        let is_save = |action: &Action| matches!(action, Action::Save(_));
        let is_first_half = |action: &Action| match action {
            Action::Deliver(Packet { to, message: Message::Accept(_), .. }) => *to == id(0),
            Action::Deliver(_) => true,
            _ => false,
        };
        step(&|action| *action == Action::Write(0));
        while step(&is_save) || step(&is_first_half) {}
    }
}

/// The state that a step makes of another.
struct Next<'a> {
    scope: &'a Scope,
    state: State,
    sent: Vec<Packet>,
}

impl Next<'_> {
    fn write(&mut self, at: usize) {
        let mut node = Node::clone(&self.state.nodes[at]);
        node.attempts += 1;
        let Effects { send_now, unsaved } = node.register.write_once(VALUES[at].clone());
        if unsaved.is_some() {
            self.carry_out(at, node, send_now, unsaved.map(Unsaved::into_parts));
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let at = index(packet.to);
        let mut node = Node::clone(&self.state.nodes[at]);
        let promised = node.register.record().promised;
        let message = self.mangle(&mut node, &packet);
        let is_accept = matches!(message, Message::Accept(_));
        let register = AssertUnwindSafe(&mut node.register);
        let received = catch_unwind(|| { register }.receive(packet.from, message));
        let Effects { send_now, unsaved } = match received {
            Ok(effects) => effects,
            Err(panic) => {
                self.state.panicked = Some(crate::panic_message(&*panic));
                return;
            }
        };
        let mut unsaved = unsaved.map(Unsaved::into_parts);
        if let Some((record, _)) = &mut unsaved
            && is_accept
            && self.scope.bug == Some(Bug::AcceptKeepsPromise)
        {
            record.promised = promised;
            node.register = Register::recover(id(at), configuration(), Some(record.clone()));
        }
        self.carry_out(at, node, send_now, unsaved);
    }

    /// What a proposer that takes the first report sees of a promise: no other reports.
    fn mangle(&self, node: &mut Node, packet: &Packet) -> Message {
        let mut message = packet.message.clone();
        if self.scope.bug == Some(Bug::FirstReport)
            && let Message::Promise { ballot, accepted } = &mut message
            && accepted.is_some()
        {
            let first = node.first_report.filter(|(of, _)| of == ballot);
            let (_, from) = first.unwrap_or((*ballot, packet.from));
            node.first_report = Some((*ballot, from));
            if from != packet.from {
                *accepted = None;
            }
        }
        message
    }

    /// Gives the record to the disk. A record that repeats what the disk has or is about
    /// to have is saved at once: it waits for nothing else.
    fn carry_out(
        &mut self,
        at: usize,
        mut node: Node,
        send_now: Vec<Envelope>,
        unsaved: Option<(Record, Vec<Envelope>)>,
    ) {
        self.send(&mut node, at, send_now);
        if let Some((record, mut envelopes)) = unsaved {
            if self.scope.bug == Some(Bug::EarlyAnswer) {
                self.send(&mut node, at, std::mem::take(&mut envelopes));
            }
            if let Some((newest, waiting)) = node.unsaved.back_mut()
                && *newest == record
            {
                envelopes.retain(|envelope| !waiting.contains(envelope));
                waiting.extend(envelopes);
            } else if node.unsaved.is_empty() && node.disk.as_ref() == Some(&record) {
                self.send(&mut node, at, envelopes);
            } else {
                node.unsaved.push_back((record, envelopes));
            }
        }
        self.state.nodes[at] = Shared::new(node);
    }

    fn save(&mut self, at: usize) {
        let mut node = Node::clone(&self.state.nodes[at]);
        let (record, envelopes) = node.unsaved.pop_front().expect("something to save");
        if let Some(proposal) = &record.accepted {
            let vote = (proposal.clone(), id(at));
            if !self.state.votes.contains(&vote) {
                let mut votes = BTreeSet::clone(&self.state.votes);
                votes.insert(vote);
                self.state.votes = Shared::new(votes);
            }
        }
        node.disk = Some(record);
        self.send(&mut node, at, envelopes);
        self.state.nodes[at] = Shared::new(node);
    }

    fn crash(&mut self, at: usize) {
        let mut node = Node::clone(&self.state.nodes[at]);
        node.forgot |= !node.unsaved.is_empty();
        node.unsaved.clear();
        node.first_report = None;
        let restarted = Register::recover(id(at), configuration(), node.disk.clone());
        if restarted != node.register {
            node.register = restarted;
            self.state.crashes += 1;
            self.state.nodes[at] = Shared::new(node);
        }
    }

    fn send(&mut self, node: &mut Node, at: usize, envelopes: Vec<Envelope>) {
        for Envelope { to, message } in envelopes {
            match &message {
                Message::Promise { ballot, .. } => node.said = node.said.max(*ballot),
                Message::Accepted(proposal) => node.said = node.said.max(proposal.ballot),
                Message::Reject { .. } if !self.scope.refusals => continue,
                _ => {}
            }
            let unheard =
                matches!(message, Message::Accepted(_)) && !self.scope.learners.contains(&to);
            if !unheard {
                self.sent.push(Packet { to, from: id(at), message });
            }
        }
    }

    /// Ends the step. When no crash is left, nobody can tell a slow disk from a slow
    /// network, and everything is saved at once.
    fn finish(mut self) -> State {
        if self.state.crashes == self.scope.crashes {
            for at in 0..self.state.nodes.len() {
                while !self.state.nodes[at].unsaved.is_empty() {
                    self.save(at);
                }
            }
        }
        self.sent.retain(|packet| !self.state.network.contains(packet));
        if !self.sent.is_empty() {
            let mut network = BTreeSet::clone(&self.state.network);
            network.extend(self.sent);
            self.state.network = Shared::new(network);
        }
        self.state
    }
}
