//! A few hosts on simulated time: every message takes a millisecond, so does
//! every sync, and the state machine only counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use synod_host::{Action, Applied, Event, Host, HostSettings, Limits, Refusal, RequestId, Waiter};
use synod_kv::{Command, Condition, Operation, ServerId};
use synod_paxos::{
    Configuration, Configurations, NodeId, Options, Recovered, Role, Slot, Time, Value,
};
use synod_wire::{PeerMessage, batch, command};

/// How long a message or a sync takes.
const HOP_US: u64 = 1_000;

/// What became of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Applied,
    Read,
    Refused(Refusal),
}

/// One host, its state machine and what its clients were told.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) answers: BTreeMap<RequestId, Answer>,
    /// Every command that had effect, in order.
    pub(crate) taken: Vec<(ServerId, Bytes)>,
    pub(crate) forwards_sent: usize,
    pub(crate) is_dead: bool,
    /// Whose members it was told to talk to.
    pub(crate) talks_to: Vec<Arc<Configuration>>,
    /// The state wants the time after each pause of so many milliseconds, until that time.
    pub(crate) wants_time: (u64, u64),
    last_of_origin: BTreeMap<u32, u64>,
    waiters: VecDeque<Waiter>,
    applied: Applied,
}

/// All of them, and what is under way.
pub(crate) struct Cluster {
    pub(crate) now: Time,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    events: BTreeMap<(Time, u64), (NodeId, Event)>,
    count: u64,
    /// Cut in this direction.
    pub(crate) cuts: Vec<(NodeId, NodeId)>,
    /// Loses the next so many forwards.
    pub(crate) lose_forwards: usize,
}

/// A command that every replica can read.
pub(crate) fn some_command(key: &str) -> Bytes {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let operation = Operation::Delete { key, condition: Condition::Always, want_previous: false };
    command::encode(&Command { idempotency: None, operation })
}

impl Cluster {
    pub(crate) fn new(size: u32, limits: &Limits) -> Cluster {
        let members: Vec<NodeId> = (1..=size).map(NodeId).collect();
        Cluster {
            now: Time::ZERO,
            nodes: members.iter().map(|id| (*id, Node::new(*id, 1, &members, limits))).collect(),
            events: BTreeMap::new(),
            count: 0,
            cuts: Vec::new(),
            lose_forwards: 0,
        }
    }

    pub(crate) fn node(&self, id: u32) -> &Node {
        &self.nodes[&NodeId(id)]
    }

    /// The node that leads and whose leadership a quorum confirmed.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |node: &Node| {
            let status = node.host.status(self.now);
            !node.is_dead && status.role == Role::Leader && status.following.is_some()
        };
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(id, _)| *id)
    }

    pub(crate) fn write(&mut self, at: NodeId, request: u64, deadline_us: u64) {
        let command = some_command(&format!("{at}-{request}"));
        let deadline = self.now.plus_us(deadline_us);
        let request = RequestId(request);
        self.step(at, Event::Write { request, command, deadline });
    }

    pub(crate) fn read(&mut self, at: NodeId, request: u64, deadline_us: u64) {
        let deadline = self.now.plus_us(deadline_us);
        self.step(at, Event::Read { request: RequestId(request), deadline });
    }

    pub(crate) fn kill(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a member").is_dead = true;
    }

    /// Replaces a node that has not done anything yet by a later life of it.
    pub(crate) fn restart(&mut self, id: NodeId, incarnation: u64) {
        let members: Vec<NodeId> = self.nodes.keys().copied().collect();
        let node = Node::new(id, incarnation, &members, &Limits::default());
        self.nodes.insert(id, node);
    }

    /// Lets time pass until `done`, at most `limit_us`. Says whether it was.
    pub(crate) fn run_until(&mut self, limit_us: u64, done: impl Fn(&Cluster) -> bool) -> bool {
        let end = self.now.plus_us(limit_us);
        while !done(self) {
            let tick = self
                .nodes
                .iter()
                .filter(|(_, node)| !node.is_dead)
                .map(|(id, node)| (node.host.deadline().max(self.now), *id))
                .min();
            let event = self.events.first_key_value().map(|(at, _)| at.0);
            let (tick_at, id) = tick.expect("somebody lives");
            if event.is_some_and(|at| at <= tick_at) {
                let ((at, _), (to, event)) = self.events.pop_first().expect("just seen");
                self.now = self.now.max(at);
                self.step(to, event);
            } else {
                // A tick that does nothing must not stop the clock.
                self.now = tick_at.max(self.now.plus_us(10));
                self.step(id, Event::Tick);
            }
            if self.now > end {
                return false;
            }
        }
        true
    }

    /// Lets this much time pass.
    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.now.plus_us(us);
        self.run_until(us, |cluster| cluster.now >= end);
    }

    fn later(&mut self, to: NodeId, event: Event) {
        self.count += 1;
        self.events.insert((self.now.plus_us(HOP_US), self.count), (to, event));
    }

    pub(crate) fn step(&mut self, at: NodeId, event: Event) {
        let now = self.now;
        let node = self.nodes.get_mut(&at).expect("a member");
        if node.is_dead {
            return;
        }
        let mut actions = Vec::new();
        node.host.step(now, event, &mut actions);
        for action in actions {
            self.carry_out(at, action);
        }
    }

    fn carry_out(&mut self, at: NodeId, action: Action) {
        let node = self.nodes.get_mut(&at).expect("a member");
        match action {
            Action::Persist { upto, .. } => self.later(at, Event::Persisted(upto)),
            Action::Send { to, message, .. } => {
                assert_ne!(to, at, "a message to oneself never leaves the host");
                if matches!(message, PeerMessage::Forward(_)) {
                    node.forwards_sent += 1;
                    if self.lose_forwards > 0 {
                        self.lose_forwards -= 1;
                        return;
                    }
                }
                if !self.cuts.contains(&(at, to)) {
                    self.later(to, Event::Received { from: at, message });
                }
            }
            Action::Apply { first, values, waiters } => {
                node.waiters.extend(waiters);
                let applied = node.apply(at, first, values);
                self.later(at, Event::Applied(applied));
            }
            Action::Load(load) => self.later(at, Event::Loaded { load, values: Vec::new() }),
            Action::Truncate(_) | Action::ChangeAnswered { .. } => {}
            Action::TalkTo(configurations) => node.talks_to = configurations,
            Action::FetchSnapshot { .. } => unreachable!("nothing is truncated here"),
            Action::ReadReady { request } => node.answer(request, Answer::Read),
            Action::Refuse { request, refusal } => node.answer(request, Answer::Refused(refusal)),
        }
    }
}

impl Node {
    fn new(id: NodeId, incarnation: u64, members: &[NodeId], limits: &Limits) -> Node {
        let applied = Applied {
            upto: Slot::ZERO,
            durable: Slot::ZERO,
            cluster_time_ms: 0,
            tick_ms: None,
            own_sequence: 0,
            own_gap: false,
            state: (Slot::ZERO, 0),
        };
        let first = Configuration::majority(members.to_vec(), 1_024).expect("valid");
        let configurations = Configurations::new(first);
        let talks_to = configurations.talked_to();
        let settings = HostSettings {
            node: id,
            incarnation,
            configurations,
            options: Options { seed: u64::from(id.0), ..Options::default() },
            limits: limits.clone(),
        };
        Node {
            host: Host::new(settings, Recovered::empty(), &applied, Time::ZERO),
            answers: BTreeMap::new(),
            taken: Vec::new(),
            forwards_sent: 0,
            is_dead: false,
            talks_to,
            wants_time: (0, 0),
            last_of_origin: BTreeMap::new(),
            waiters: VecDeque::new(),
            applied,
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        assert_eq!(self.answers.insert(request, answer), None, "answered twice");
    }

    fn apply(&mut self, me: NodeId, first: Slot, values: Vec<Value>) -> Applied {
        assert_eq!(first, self.applied.upto.next());
        self.applied.own_gap = false;
        for value in values {
            self.applied.upto = self.applied.upto.next();
            let Value::Batch(bytes) = value else { continue };
            let batch = batch::decode(bytes).expect("a batch of ours");
            self.applied.cluster_time_ms = self.applied.cluster_time_ms.max(batch.cluster_time_ms);
            for entry in batch.entries {
                self.take(me, entry.id, entry.command);
            }
        }
        let ((pause_ms, until_ms), now_ms) = (self.wants_time, self.applied.cluster_time_ms);
        self.applied.tick_ms = (now_ms < until_ms).then_some(now_ms + pause_ms);
        self.applied.clone()
    }

    fn take(&mut self, me: NodeId, id: ServerId, command: Bytes) {
        let last = self.last_of_origin.entry(id.origin).or_insert(0);
        let is_own = id.origin == me.0;
        if id.sequence > *last + 1 {
            self.applied.own_gap |= is_own;
        }
        if id.sequence != *last + 1 {
            return;
        }
        *last = id.sequence;
        self.taken.push((id, command));
        if is_own {
            self.applied.own_sequence = id.sequence;
            let waiter = self.waiters.pop_front().expect("a waiter came with or before it");
            assert_eq!(waiter.sequence, id.sequence);
            self.answer(waiter.request, Answer::Applied);
        }
    }
}
