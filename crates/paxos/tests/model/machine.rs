//! One node of a model: the real replica, its journal, and what waits for the journal.
//!
//! Time stands still, so nothing happens by its passing. What would is an input of its own:
//! to stand, to fetch. Heartbeats are lost, and with them everything that only says when.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use synod_paxos::{
    AcceptedSlot, Ballot, Configuration, Configurations, Effects, Envelope, Fetch, Handover, Input,
    Load, Message, NodeId, Options, Position, Record, RecordBody, Recovered, RejectReason, Replica,
    Role, Slot, Standing, Status, Time, Value,
};

use crate::shared::Shared;

const NOW: Time = Time(1_000_000);

/// What goes wrong between the handlers and the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Bug {
    /// A candidate takes the first reported value of a slot, not that of the highest
    /// ballot (pitfall 8).
    FirstReport,
    /// Answers leave before they are durable (3).
    EarlyAnswer,
    /// A follower takes a claim for what it accepted in another ballot (10).
    OtherBallot,
    /// The vote of a node that was removed counts as that of the one in its place (24).
    RemovedVotes,
}

/// A node that runs, and its disk.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) replica: Replica,
    pub(crate) view: View,
    life: u64,
    pub(crate) journal: Journal,
    pub(crate) pending: VecDeque<Record>,
    /// What leaves once the journal has come so far.
    held: Vec<(Position, Envelope)>,
    /// The highest ballot that it has told anybody it promised.
    said: Ballot,
    /// A crash took a record that was not durable.
    pub(crate) forgot: bool,
    /// Nobody listens: what it says is not kept until it may leave.
    pub(crate) is_mute: bool,
    pub(crate) bug: Option<Bug>,
    /// Who votes in the beginning.
    first: Configuration,
    /// What this node proposes in the first slot.
    change: Option<Arc<Configuration>>,
    /// Who was the first to report on a slot, for a ballot; only with a bug.
    first_reports: BTreeMap<(Ballot, Slot), NodeId>,
}

/// What the replica says of itself.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct View {
    pub(crate) promised: Ballot,
    pub(crate) chosen_upto: Slot,
    pub(crate) proposed_upto: Slot,
    /// The ballot for which it waits for promises.
    pub(crate) prepares: Option<Ballot>,
    pub(crate) leads: Option<Ballot>,
}

impl View {
    fn of(replica: &Replica) -> View {
        let Status { promised, chosen_upto, proposed_upto, role, .. } = replica.status(NOW);
        let prepares = (role == Role::Candidate).then_some(promised);
        View { promised, chosen_upto, proposed_upto, prepares, leads: replica.leads() }
    }
}

/// What the records that are durable come to.
#[derive(Clone, PartialEq, Hash, Debug)]
pub(crate) struct Journal {
    promised: Ballot,
    chosen_upto: Slot,
    pub(crate) slots: BTreeMap<Slot, (Standing, Value)>,
    position: Position,
}

/// What a machine can do, or have done to it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Act {
    /// Its turn to stand has come.
    Stand,
    /// A client wants something of this leader.
    Propose,
    Receive(Shared<Packet>),
    /// A peer asks for everything that is chosen from a slot on.
    Ship {
        to: NodeId,
        first: Slot,
    },
    Save,
    Crash,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Packet {
    pub(crate) to: NodeId,
    pub(crate) from: NodeId,
    pub(crate) message: Message,
}

/// A machine after an act and what came of it, or what a handler panicked with.
type After = Result<(Shared<Machine>, Rc<Outcome>), String>;

thread_local! {
    /// A machine in one state does the same in each of the many states of the world.
    static KNOWN: RefCell<HashMap<(u64, Act), After>> = RefCell::default();
}

impl Shared<Machine> {
    /// The machine after the act, and what came of it.
    pub(crate) fn after(&self, act: Act) -> After {
        let key = (self.digest(), act);
        if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
            return known;
        }
        let mut machine = Machine::clone(self);
        let outcome = machine.act(&key.1);
        let after = outcome.map(|outcome| (Shared::new(machine), Rc::new(outcome)));
        KNOWN.with_borrow_mut(|known| known.insert(key, after.clone()));
        after
    }
}

/// What a step brought about outside its node.
#[derive(Default)]
pub(crate) struct Outcome {
    /// To other nodes.
    pub(crate) sent: Vec<Shared<Packet>>,
    /// What the node took for chosen.
    pub(crate) chosen: Vec<(Slot, Value)>,
    /// The acceptance that became durable.
    pub(crate) vote: Option<(Slot, Ballot, Value)>,
}

pub(crate) fn configuration() -> Configuration {
    Configuration::majority(vec![NodeId(1), NodeId(2), NodeId(3)], 4).expect("three nodes")
}

/// n1 and n2 vote, and n3 learns; alpha is 1.
fn pair() -> Configuration {
    let pair = Configuration::majority(vec![NodeId(1), NodeId(2)], 1).expect("two nodes");
    pair.with_learners(vec![NodeId(3)]).expect("another one")
}

/// What replaces it: n3 votes in the place of n2.
pub(crate) fn replacement() -> Configuration {
    let pair = Configuration::majority(vec![NodeId(1), NodeId(3)], 1).expect("two nodes");
    pair.with_learners(vec![NodeId(2)]).expect("another one").numbered(1)
}

fn replica(id: NodeId, life: u64, recovered: Recovered, configurations: Configurations) -> Replica {
    let options = Options { incarnation: life, value_pace_us: 0, ..Options::default() };
    // The state machine keeps nothing: it is as the journal's prefix makes it.
    let applied = recovered.chosen_upto;
    Replica::new(id, configurations, options, recovered, applied, Slot::ZERO, NOW)
}

impl Machine {
    pub(crate) fn new(id: NodeId) -> Machine {
        Machine::with(id, configuration(), None)
    }

    /// A node of a cluster whose members change in the first slot.
    pub(crate) fn changing(id: NodeId) -> Machine {
        Machine::with(id, pair(), Some(Arc::new(replacement())))
    }

    fn with(id: NodeId, first: Configuration, change: Option<Arc<Configuration>>) -> Machine {
        let replica = replica(id, 1, Recovered::empty(), Configurations::new(first.clone()));
        Machine {
            first,
            change,
            id,
            view: View::of(&replica),
            replica,
            life: 1,
            journal: Journal {
                promised: Ballot::ZERO,
                chosen_upto: Slot::ZERO,
                slots: BTreeMap::new(),
                position: Position::ZERO,
            },
            pending: VecDeque::new(),
            held: Vec::new(),
            said: Ballot::ZERO,
            forgot: false,
            is_mute: false,
            bug: None,
            first_reports: BTreeMap::new(),
        }
    }

    /// What it told others is still in force.
    pub(crate) fn keeps_its_word(&self) -> bool {
        self.said <= self.view.promised
    }

    /// What it holds in a slot, durable or not, as its records have it.
    pub(crate) fn holds(&self, slot: Slot) -> Option<Standing> {
        let of = |record: &Record| match &record.body {
            RecordBody::Accepted { slot: at, ballot, .. } if *at == slot => {
                Some(Standing::Accepted(*ballot))
            }
            RecordBody::Chosen { slot: at, .. } if *at == slot => Some(Standing::Chosen),
            _ => None,
        };
        let pending = self.pending.iter().rev().find_map(of);
        pending.or_else(|| self.journal.slots.get(&slot).map(|(standing, _)| *standing))
    }

    /// Whether a value may be proposed, in a slot up to `last`.
    pub(crate) fn may_propose(&self, last: Slot) -> bool {
        let View { leads, proposed_upto, .. } = self.view;
        leads.is_some() && proposed_upto < last && self.replica.may_propose(NOW, 1, 1)
    }

    /// What a client wants of this leader, and the slot that it will get. No other ballot
    /// and no other slot has this value to begin with.
    pub(crate) fn offer(&self) -> (Slot, Value) {
        let ballot = self.view.leads.expect("a leader proposes");
        let slot = self.view.proposed_upto.next();
        if let Some(change) = self.change.as_ref().filter(|_| slot == Slot(1)) {
            return (slot, Value::Configuration(Arc::clone(change)));
        }
        (slot, Value::Batch(Bytes::from(format!("{ballot} in {slot}"))))
    }

    fn act(&mut self, act: &Act) -> Result<Outcome, String> {
        match act.clone() {
            // To be asked to stand is the shortest way to it.
            Act::Stand => {
                let from = if self.id == NodeId(1) { NodeId(2) } else { NodeId(1) };
                let ballot = Ballot { round: self.view.promised.round + 1, node: from };
                let message = Message::Handover(Handover { ballot, chosen_upto: Slot::ZERO });
                self.input(Input::Received { from, message })
            }
            Act::Propose => {
                let (_, value) = self.offer();
                self.input(Input::Propose { value, commands: 1 })
            }
            Act::Receive(packet) => {
                let message = packet.message.clone();
                self.input(Input::Received { from: packet.from, message })
            }
            Act::Ship { to, first } => {
                let fetch = Fetch { nonce: 0, first, last: self.view.chosen_upto };
                self.input(Input::Received { from: to, message: Message::Fetch(fetch) })
            }
            Act::Save => self.save(),
            Act::Crash => self.crash().map(|()| Outcome::default()),
        }
    }

    /// The next record is durable.
    fn save(&mut self) -> Result<Outcome, String> {
        let record = self.pending.pop_front().expect("something to save");
        let vote = match &record.body {
            RecordBody::Accepted { slot, ballot, value } => Some((*slot, *ballot, value.clone())),
            _ => None,
        };
        self.journal.append(record);
        let outcome = self.input(Input::Persisted(self.journal.position))?;
        Ok(Outcome { vote, ..outcome })
    }

    /// Loses what is not durable, and starts again.
    fn crash(&mut self) -> Result<(), String> {
        self.life += 1;
        self.forgot |= !self.pending.is_empty();
        self.pending.clear();
        self.held.clear();
        let (id, life, recovered) = (self.id, self.life, self.journal.recover());
        let configurations = self.journal.configurations(&self.first);
        self.replica = guard(|| replica(id, life, recovered, configurations))?;
        self.view = View::of(&self.replica);
        Ok(())
    }

    /// Takes an input, and what it makes the node say to itself.
    fn input(&mut self, input: Input) -> Result<Outcome, String> {
        let mut outcome = Outcome::default();
        let mut inputs = VecDeque::from([input]);
        while let Some(mut input) = inputs.pop_front() {
            if let Input::Received { from, message } = &mut input {
                self.mangle(from, message);
            }
            let replica = &mut self.replica;
            let effects = guard(|| {
                let mut effects = Effects::default();
                replica.step(NOW, input, &mut effects);
                replica.flush(NOW, &mut effects);
                effects
            })?;
            self.pending.extend(effects.persist);
            outcome.chosen.extend(effects.chosen);
            for load in effects.load {
                let values = self.journal.load(load);
                inputs.push_back(Input::Loaded { load, values });
            }
            for envelope in effects.send_now {
                self.send(envelope, &mut inputs, &mut outcome);
            }
            let position = Position(self.journal.position.0 + self.pending.len() as u64);
            for envelope in effects.send_after_durable {
                // A copy of what is already waiting could only come later.
                if !self.is_mute && self.held.iter().all(|(_, held)| *held != envelope) {
                    self.held.push((position, envelope));
                }
            }
            let durable = self.journal.position;
            let is_hasty = self.bug == Some(Bug::EarlyAnswer);
            let is_free = |(at, _): &mut (Position, Envelope)| *at <= durable || is_hasty;
            let free: Vec<_> = self.held.extract_if(.., is_free).collect();
            for (_, envelope) in free {
                self.send(envelope, &mut inputs, &mut outcome);
            }
        }
        self.view = View::of(&self.replica);
        Ok(outcome)
    }

    /// What the bug, if it is one of receiving, makes of a message.
    fn mangle(&mut self, from: &mut NodeId, message: &mut Message) {
        match (self.bug, message) {
            (Some(Bug::FirstReport), Message::Promise(promise)) => {
                promise.accepted.retain(|accepted| {
                    let key = (promise.ballot, accepted.slot);
                    *self.first_reports.entry(key).or_insert(*from) == *from
                });
            }
            (Some(Bug::RemovedVotes), Message::Accepted(accepted))
                if *from == NodeId(2) && accepted.first > Slot(1) =>
            {
                *from = NodeId(3);
            }
            (Some(Bug::OtherBallot), Message::Watermark(watermark)) => {
                if let Some(Standing::Accepted(ballot)) = self.holds(watermark.chosen_upto) {
                    watermark.ballot = ballot;
                    *from = ballot.node;
                }
            }
            _ => {}
        }
    }

    fn send(&mut self, envelope: Envelope, inputs: &mut VecDeque<Input>, outcome: &mut Outcome) {
        let said = match &envelope.message {
            Message::Prepare(it) => it.ballot,
            Message::Promise(it) => it.ballot,
            Message::Accepted(it) => it.ballot,
            Message::Reject(it) => match it.reason {
                RejectReason::Promised(promised) => promised,
                _ => Ballot::ZERO,
            },
            Message::Heartbeat(_) => return,
            _ => Ballot::ZERO,
        };
        self.said = self.said.max(said);
        if envelope.to == self.id {
            inputs.push_back(Input::Received { from: self.id, message: envelope.message });
        } else {
            let Envelope { to, message } = envelope;
            outcome.sent.push(Shared::new(Packet { to, from: self.id, message }));
        }
    }
}

/// The handlers check themselves: what they panic with is a finding.
fn guard<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| crate::panic_message(&*panic))
}

impl Journal {
    fn append(&mut self, record: Record) {
        self.position = Position(self.position.0 + 1);
        self.promised = record.promised;
        self.chosen_upto = record.chosen_upto;
        match record.body {
            RecordBody::Accepted { slot, ballot, value } => {
                self.slots.insert(slot, (Standing::Accepted(ballot), value));
            }
            RecordBody::Chosen { slot, value } => {
                self.slots.insert(slot, (Standing::Chosen, value));
            }
            RecordBody::Promise | RecordBody::StartAfter { .. } => {}
        }
    }

    fn recover(&self) -> Recovered {
        let open = self.slots.iter().filter(|(slot, _)| **slot > self.chosen_upto);
        let open = open.map(|(slot, (standing, value))| AcceptedSlot {
            slot: *slot,
            standing: *standing,
            value: value.clone(),
        });
        Recovered {
            promised: self.promised,
            chosen_upto: self.chosen_upto,
            truncated_upto: Slot::ZERO,
            open: open.collect(),
            position: self.position,
        }
    }

    /// Who votes above the chosen prefix.
    fn configurations(&self, first: &Configuration) -> Configurations {
        let mut configurations = Configurations::new(first.clone());
        for (slot, (_, value)) in self.slots.range(..=self.chosen_upto) {
            if let Value::Configuration(new) = value {
                configurations.receive_chosen(*slot, new);
            }
        }
        configurations
    }

    fn load(&self, load: Load) -> Vec<Value> {
        let held = self.slots.range(load.first..=load.last);
        held.map(|(_, (_, value))| value.clone()).collect()
    }
}
