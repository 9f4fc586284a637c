//! A cluster of replicas in memory, everything drawn from one seed: a network that
//! loses, duplicates, delays and cuts, disks that lose what was not synced, and
//! processes that crash and pause. An oracle watches every durable acceptance.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use bytes::Bytes;
use synod_paxos::{
    AcceptedSlot, Ballot, Configuration, Configurations, Effects, Envelope, Input, Load, Message,
    NodeId, Options, Position, ReadToken, Record, RecordBody, Recovered, Reign, Replica, Segment,
    Slot, Standing, Time, Value,
};

/// Which faults are on, and how strong.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    pub(crate) delay_us_max: u64,
    /// Messages that come long after everything has moved on.
    pub(crate) stragglers: f64,
    pub(crate) crashes: f64,
    pub(crate) pauses: f64,
    pub(crate) cuts: f64,
    /// Evidence of a death that did not happen.
    pub(crate) false_alarms: f64,
    /// Camps: everybody hears either the leader or one rival of it.
    pub(crate) camps: f64,
    pub(crate) sync_us_max: u64,
    pub(crate) load_us_max: u64,
    /// Quorums that are no majorities.
    pub(crate) flexible: bool,
    /// Messages wait for each other and share a step, as under load.
    pub(crate) batching: bool,
    /// The members change: how often.
    pub(crate) changes: f64,
}

impl Faults {
    pub(crate) fn none() -> Faults {
        Faults {
            loss: 0.0,
            duplication: 0.0,
            delay_us_max: 300,
            stragglers: 0.0,
            crashes: 0.0,
            pauses: 0.0,
            cuts: 0.0,
            false_alarms: 0.0,
            camps: 0.0,
            sync_us_max: 200,
            load_us_max: 600,
            flexible: false,
            batching: false,
            changes: 0.0,
        }
    }

    /// Swarm style: each seed has its own mix.
    pub(crate) fn drawn(rng: &mut fastrand::Rng) -> Faults {
        let mut maybe = |strength: f64| if rng.bool() { rng.f64() * strength } else { 0.0 };
        Faults {
            loss: maybe(0.3),
            duplication: maybe(0.3),
            stragglers: maybe(0.1),
            crashes: maybe(1.0),
            pauses: maybe(1.0),
            cuts: maybe(1.0),
            false_alarms: maybe(1.0),
            camps: maybe(1.0),
            delay_us_max: [300, 3_000, 60_000][rng.usize(..3)],
            sync_us_max: [200, 5_000, 100_000, 280_000][rng.usize(..4)],
            load_us_max: [600, 400_000][rng.usize(..2)],
            flexible: rng.u8(..4) == 0,
            batching: rng.bool(),
            changes: 0.0,
        }
    }
}

/// A straggler may come three election timeouts late.
const STRAGGLE_US_MAX: u64 = 900_000;

/// Records of a segment of the journal.
const SEGMENT_RECORDS: usize = 8;

/// More events than any run comes to.
const EVENTS_MAX: u64 = 3_000_000;

/// What happens at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Happening {
    Deliver { from: NodeId, to: NodeId, message: Message },
    Synced { node: NodeId, life: u64, position: Position },
    Wake { node: NodeId, life: u64 },
    Restart { node: NodeId },
    Resume { node: NodeId },
    Died { node: NodeId, peer: NodeId },
    Loaded { node: NodeId, life: u64, load: Load },
    Snapshot { node: NodeId, life: u64, from: NodeId },
    Client,
    Nemesis,
    Change,
}

struct Event {
    at: Time,
    order: u64,
    what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One machine: what survives a crash, and the process while it runs.
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    durable: Vec<(Position, Record)>,
    pending: Vec<(Position, Record)>,
    position: Position,
    life: u64,
    /// Applied values survive up to here.
    applied_durable: Slot,
    /// The state was switched to a snapshot of this slot, and the journal may not say so.
    installed: Option<Slot>,
    /// The journal has dropped everything up to here.
    truncated: Slot,
    /// Full segments, and how many durable records they hold.
    pub(crate) segments: Vec<Segment>,
    segment_records: usize,
    pub(crate) applied: Slot,
    pub(crate) replica: Option<Replica>,
    effects: Effects,
    held: Vec<(Position, Envelope)>,
    syncing: bool,
    paused: bool,
    inbox: Vec<(NodeId, Message)>,
    promise_sent: Ballot,
    /// The first configuration, and the one in which it joined if that is another.
    joined_in: Option<Configuration>,
    /// It was told that it is no member, and stopped for good.
    pub(crate) gone: bool,
}

/// What the oracle knows.
pub(crate) struct Oracle {
    first: Configuration,
    /// Who votes in which slot, as far as every slot is chosen.
    pub(crate) configurations: Configurations,
    /// Every slot up to here is chosen.
    chosen_upto: Slot,
    votes: BTreeMap<(Slot, Ballot), (Value, BTreeSet<NodeId>)>,
    pub(crate) chosen: BTreeMap<Slot, Value>,
    /// The highest slot that any replica has applied.
    pub(crate) acknowledged: Slot,
    pub(crate) reads_checked: u64,
    pub(crate) events: BTreeMap<&'static str, u64>,
}

impl Oracle {
    fn count(&mut self, event: &'static str) {
        *self.events.entry(event).or_default() += 1;
    }

    fn vote(&mut self, node: NodeId, slot: Slot, ballot: Ballot, value: &Value) {
        let entry = self.votes.entry((slot, ballot));
        let (known, voters) = entry.or_insert_with(|| (value.clone(), BTreeSet::new()));
        assert_eq!(known, value, "slot {slot}: two values accepted in ballot {ballot}");
        voters.insert(node);
        let decided = self.configurations.known_upto(self.chosen_upto);
        assert!(slot <= decided, "{node} accepts in {slot}, but who votes there is open");
        let governing = self.configurations.governing(slot);
        let votes = voters.iter().filter(|node| governing.is_voter(**node)).count();
        if votes >= governing.accept_quorum() {
            let chosen = self.chosen.entry(slot).or_insert_with(|| value.clone());
            assert_eq!(chosen, value, "slot {slot}: two values chosen (ballot {ballot})");
        }
        while let Some(value) = self.chosen.get(&self.chosen_upto.next()) {
            self.chosen_upto = self.chosen_upto.next();
            if let Value::Configuration(new) = value {
                let effect = self.configurations.receive_chosen(self.chosen_upto, new);
                let event = if effect { "change" } else { "change without effect" };
                *self.events.entry(event).or_default() += 1;
            }
        }
    }

    /// The configurations as a state holds them that has applied every slot up to `upto`.
    fn configurations_at(&self, upto: Slot) -> Configurations {
        let mut configurations = Configurations::new(self.first.clone());
        for (slot, value) in self.chosen.range(..=upto) {
            if let Value::Configuration(new) = value {
                configurations.receive_chosen(*slot, new);
            }
        }
        configurations.forget(upto);
        Configurations::restore(configurations.reigns().to_vec()).expect("they follow each other")
    }
}

pub(crate) struct World {
    pub(crate) rng: fastrand::Rng,
    pub(crate) now: Time,
    order: u64,
    queue: BinaryHeap<Event>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) configuration: Configuration,
    pub(crate) options: Options,
    pub(crate) faults: Faults,
    /// Directed links that are cut.
    pub(crate) cuts: BTreeSet<(NodeId, NodeId)>,
    pub(crate) oracle: Oracle,
    next_value: u64,
    reads: BTreeMap<ReadToken, (NodeId, u64, Slot)>,
    pub(crate) clients: bool,
    pub(crate) value_bytes: usize,
}

impl World {
    pub(crate) fn new(seed: u64, members: u32, faults: Faults) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ids: Vec<NodeId> = (1..=members).map(NodeId).collect();
        // Small ones let changes govern soon.
        let alphas = if faults.changes > 0.0 { [1, 8, 32] } else { [4, 32, 1024] };
        let alpha = alphas[rng.usize(..3)];
        // Any quorums that meet: flexible ones too.
        let members_count = ids.len();
        let q1 =
            if !faults.flexible { members_count / 2 + 1 } else { rng.usize(1..=members_count) };
        let q2 = (members_count + 1 - q1).max(rng.usize(1..=members_count)).max(1);
        let q2 = if q1 == members_count / 2 + 1 { q1 } else { q2 };
        let configuration = Configuration::new(ids.clone(), q1, q2, alpha).unwrap();
        let options = Options {
            window_slots_max: [2, 16, 256][rng.usize(..3)],
            cache_bytes_max: [0, 4_096, 1 << 20][rng.usize(..3)],
            page_bytes_max: [1, 500, 1 << 20][rng.usize(..3)],
            tail_bytes_max: [0, 2_000, 2 << 30][rng.usize(..3)],
            tail_us_max: [0, 300_000, 900_000_000][rng.usize(..3)],
            keep_for_peers_us: [0, 300_000, 300_000_000][rng.usize(..3)],
            ..Options::default()
        };
        let oracle = Oracle {
            first: configuration.clone(),
            configurations: Configurations::new(configuration.clone()),
            chosen_upto: Slot::ZERO,
            votes: BTreeMap::new(),
            chosen: BTreeMap::new(),
            acknowledged: Slot::ZERO,
            reads_checked: 0,
            events: BTreeMap::new(),
        };
        let mut world = World {
            machines: ids.iter().map(|id| Machine::new(*id)).collect(),
            now: Time(1_000_000),
            order: 0,
            queue: BinaryHeap::new(),
            configuration,
            options,
            faults,
            cuts: BTreeSet::new(),
            oracle,
            next_value: 0,
            reads: BTreeMap::new(),
            clients: true,
            value_bytes: 24,
            rng,
        };
        for id in ids {
            world.start(id);
        }
        world.at(500, Happening::Client);
        world.at(10_000, Happening::Nemesis);
        if world.faults.changes > 0.0 {
            world.at(20_000, Happening::Change);
        }
        world
    }

    fn at(&mut self, delay_us: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Event { at: self.now.plus_us(delay_us), order: self.order, what });
    }

    fn size(&self) -> u32 {
        u32::try_from(self.machines.len()).expect("a few machines")
    }

    pub(crate) fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.machines[id.0 as usize - 1]
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |m: &&Machine| m.replica.as_ref().and_then(|r| r.leads()).filter(|_| !m.paused);
        self.machines.iter().filter(|m| leads(m).is_some()).max_by_key(|m| leads(m)).map(|m| m.id)
    }

    /// Runs until `condition`, or fails after `limit_us` of simulated time.
    pub(crate) fn run_until(
        &mut self,
        what: &str,
        limit_us: u64,
        condition: impl Fn(&World) -> bool,
    ) {
        let end = self.now.plus_us(limit_us);
        while !condition(self) {
            assert!(self.now < end, "not within {limit_us} us: {what}\n{}", self.describe());
            self.step();
        }
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.now.plus_us(us);
        while self.now < end {
            self.step();
        }
    }

    pub(crate) fn step(&mut self) {
        let event = self.queue.pop().expect("clients and nemesis never end");
        self.now = event.at;
        assert!(self.order < EVENTS_MAX, "a storm of messages: {}", self.describe());
        match event.what {
            Happening::Deliver { from, to, message } => {
                let machine = self.machine(to);
                if machine.replica.is_none() {
                    return;
                }
                machine.inbox.push((from, message));
                let paused = machine.paused;
                let waits = paused || (self.faults.batching && self.rng.bool());
                if !waits {
                    self.input(to, Input::Tick);
                }
            }
            Happening::Synced { node, life, position } => {
                if self.machine(node).life == life && self.machine(node).replica.is_some() {
                    self.synced(node, position);
                }
            }
            Happening::Wake { node, life } => {
                let machine = self.machine(node);
                if machine.life == life && machine.replica.is_some() && !machine.paused {
                    self.input(node, Input::Tick);
                    self.wake_later(node);
                }
            }
            Happening::Restart { node } => {
                if self.machine(node).replica.is_none() {
                    self.start(node);
                }
            }
            Happening::Resume { node } => self.resume(node),
            Happening::Died { node, peer } => {
                // Evidence, not proof: the peer may be back, or was never gone.
                let machine = self.machine(node);
                if machine.replica.is_some() && !machine.paused {
                    self.input(node, Input::PeerDied(peer));
                }
            }
            Happening::Loaded { node, life, load } => {
                let machine = self.machine(node);
                if machine.life == life && machine.replica.is_some() {
                    let values = machine.load(load);
                    self.input(node, Input::Loaded { load, values });
                }
            }
            Happening::Snapshot { node, life, from } => self.snapshot(node, life, from),
            Happening::Client => self.client(),
            Happening::Nemesis => self.nemesis(),
            Happening::Change => self.change(),
        }
    }

    fn wake_later(&mut self, node: NodeId) {
        let now = self.now;
        let machine = self.machine(node);
        let life = machine.life;
        let Some(replica) = machine.replica.as_ref() else { return };
        let deadline = replica.deadline();
        assert!(deadline > now, "{node} would spin: its deadline has passed");
        let delay = deadline.since_us(now).clamp(100, 50_000);
        self.at(delay, Happening::Wake { node, life });
    }

    fn client(&mut self) {
        if self.clients {
            let bytes = self.value_bytes;
            for index in 0..self.machines.len() {
                let id = self.machines[index].id;
                let machine = &self.machines[index];
                let Some(replica) = machine.replica.as_ref().filter(|_| !machine.paused) else {
                    continue;
                };
                if replica.may_propose(self.now, 1, bytes) {
                    self.next_value += 1;
                    let mut value = self.next_value.to_le_bytes().to_vec();
                    value.resize(bytes.max(8), 0);
                    self.input(
                        id,
                        Input::Propose { value: Value::Batch(Bytes::from(value)), commands: 1 },
                    );
                }
                if self.rng.u8(..) < 32 {
                    self.order += 1;
                    let token = ReadToken(self.order);
                    let life = self.machines[index].life;
                    self.reads.insert(token, (id, life, self.oracle.acknowledged));
                    self.input(id, Input::Read(token));
                }
            }
        }
        let delay = self.rng.u64(100..3_000);
        self.at(delay, Happening::Client);
    }

    fn nemesis(&mut self) {
        let victim = NodeId(self.rng.u32(1..=self.size()));
        let victim = self.leader().filter(|_| self.rng.bool()).unwrap_or(victim);
        if self.rng.f64() < self.faults.crashes * 0.2 {
            let down = self.rng.u64(1_000..600_000);
            self.crash(victim);
            self.at(down, Happening::Restart { node: victim });
        } else if self.rng.f64() < self.faults.pauses * 0.1 {
            self.oracle.count("pause");
            self.machine(victim).paused = true;
            let pause = self.rng.u64(1_000..900_000);
            self.at(pause, Happening::Resume { node: victim });
        } else if self.rng.f64() < self.faults.cuts * 0.3 {
            self.cut_or_heal();
        } else if self.rng.f64() < self.faults.camps * 0.3 {
            self.divide(victim);
        } else if self.rng.f64() < self.faults.false_alarms * 0.3 {
            self.oracle.count("false alarm");
            for node in (1..=self.size()).map(NodeId) {
                if node != victim && self.rng.bool() {
                    self.at(0, Happening::Died { node, peer: victim });
                }
            }
        }
        let delay = self.rng.u64(5_000..60_000);
        self.at(delay, Happening::Nemesis);
    }

    /// A rival and its camp lose the leader and take it for dead; the leader's camp
    /// loses the rival. Between the camps everything still passes.
    fn divide(&mut self, leader: NodeId) {
        self.oracle.count("camps");
        self.cuts.clear();
        let rival = NodeId(self.rng.u32(1..=self.size()));
        for node in (1..=self.size()).map(NodeId).filter(|node| *node != leader) {
            let lost = if node == rival || self.rng.u8(..3) < 2 { leader } else { rival };
            self.cuts.extend([(node, lost), (lost, node)]);
            if lost == leader {
                self.at(0, Happening::Died { node, peer: leader });
            }
        }
    }

    fn cut_or_heal(&mut self) {
        if self.rng.bool() {
            self.cuts.clear();
            return;
        }
        self.oracle.count("cut");
        let ids: Vec<NodeId> = self.machines.iter().map(|m| m.id).collect();
        let both = self.rng.bool();
        for a in &ids {
            for b in &ids {
                if a != b && self.rng.u8(..) < 80 {
                    self.cuts.insert((*a, *b));
                    if both {
                        self.cuts.insert((*b, *a));
                    }
                }
            }
        }
    }

    /// Kill -9 and loss of power: any prefix of what was not synced may survive.
    pub(crate) fn crash(&mut self, id: NodeId) {
        let pending = self.machine(id).pending.len();
        let keep = self.rng.usize(..=pending);
        let machine = self.machine(id);
        if machine.replica.take().is_none() {
            return;
        }
        let survived: Vec<_> = machine.pending.drain(..).take(keep).collect();
        machine.durable.extend(survived.iter().cloned());
        machine.effects = Effects::default();
        machine.held.clear();
        machine.inbox.clear();
        machine.syncing = false;
        machine.paused = false;
        machine.applied = machine.applied_durable;
        for (_, record) in survived {
            self.note_durable(id, &record);
        }
        self.oracle.count("crash");
        for peer in 1..=self.size() {
            let delay = self.rng.u64(100..3_000);
            self.at(delay, Happening::Died { node: NodeId(peer), peer: id });
        }
    }

    /// Starts a process on what its disk holds.
    pub(crate) fn start(&mut self, id: NodeId) {
        let seed = self.rng.u64(..);
        let (now, options) = (self.now, self.options.clone());
        if self.machine(id).gone {
            return;
        }
        let applied = {
            let machine = self.machine(id);
            machine.applied_durable.max(machine.recover().chosen_upto)
        };
        let mut configurations = self.oracle.configurations_at(applied);
        let machine = self.machine(id);
        if let Some(joined_in) = machine.joined_in.clone() {
            configurations = configurations.joined_in(joined_in);
        }
        machine.life += 1;
        let mut recovered = machine.recover();
        let installed = machine.installed.take();
        if let Some(record) = installed.and_then(|slot| recovered.start_after(slot)) {
            machine.durable.push((recovered.position, record));
            self.oracle.count("start after made up");
        }
        let machine = self.machine(id);
        assert!(recovered.promised >= machine.promise_sent, "{id} forgot a promise");
        machine.position = recovered.position;
        machine.applied = applied;
        let durable = machine.applied_durable;
        assert!(durable >= recovered.truncated_upto, "{id} dropped what its state lacks");
        let options = Options { incarnation: machine.life, seed, ..options };
        let replica = Replica::new(id, configurations, options, recovered, applied, durable, now);
        machine.replica = Some(replica);
        for segment in machine.segments.clone() {
            self.input(id, Input::Segment(segment));
        }
        self.input(id, Input::Tick);
        self.wake_later(id);
    }

    /// The state of another machine has come, or nothing has.
    fn snapshot(&mut self, id: NodeId, life: u64, from: NodeId) {
        let source = self.machine(from);
        let is_there = source.replica.is_some() && !source.paused;
        let slot = source.applied;
        let is_cut = self.cuts.contains(&(from, id)) || self.cuts.contains(&(id, from));
        let machine = self.machine(id);
        if machine.life != life || machine.replica.is_none() {
            return;
        }
        if machine.paused {
            self.at(10_000, Happening::Snapshot { node: id, life, from });
            return;
        }
        if !is_there || is_cut || slot <= machine.applied {
            self.oracle.count("snapshot failed");
            self.input(id, Input::SnapshotFailed { from });
            return;
        }
        let joins = machine.joined_in.is_some() && machine.applied == Slot::ZERO;
        machine.applied = slot;
        machine.applied_durable = slot;
        machine.installed = Some(slot);
        self.oracle.count(if joins { "joined by snapshot" } else { "snapshot" });
        let dies = if self.faults.crashes > 0.0 { self.rng.u8(..4) } else { 4 };
        if dies > 0 {
            let configurations = self.oracle.configurations_at(slot);
            self.input(id, Input::Installed { slot, state: (slot, 0), configurations });
        }
        // Before the core hears of it, or before the journal has what it said.
        if dies < 2 {
            self.crash(id);
            self.at(1_000, Happening::Restart { node: id });
        }
    }

    fn resume(&mut self, id: NodeId) {
        let machine = self.machine(id);
        if !machine.paused {
            return;
        }
        machine.paused = false;
        if machine.replica.is_none() {
            return;
        }
        self.input(id, Input::Tick);
        self.wake_later(id);
    }

    fn synced(&mut self, id: NodeId, position: Position) {
        let machine = self.machine(id);
        machine.syncing = false;
        let split = machine.pending.partition_point(|(at, _)| *at <= position);
        let synced: Vec<_> = machine.pending.drain(..split).collect();
        machine.durable.extend(synced.iter().cloned());
        for (_, record) in &synced {
            self.note_durable(id, record);
        }
        let machine = self.machine(id);
        let (ready, held) = machine.held.drain(..).partition(|(at, _)| *at <= position);
        machine.held = held;
        for (_, envelope) in ready {
            self.send(id, envelope);
        }
        if let Some(segment) = self.machine(id).fill_segment() {
            self.input(id, Input::Segment(segment));
        }
        self.input(id, Input::Persisted(position));
        self.sync_later(id);
    }

    fn note_durable(&mut self, id: NodeId, record: &Record) {
        if let RecordBody::Accepted { slot, ballot, value } = &record.body {
            self.oracle.vote(id, *slot, *ballot, value);
        }
    }

    pub(crate) fn input(&mut self, id: NodeId, input: Input) {
        let now = self.now;
        let machine = self.machine(id);
        let Some(replica) = machine.replica.as_mut() else { return };
        let was = replica.leads();
        replica.step(now, input, &mut machine.effects);
        for (from, message) in machine.inbox.drain(..) {
            replica.step(now, Input::Received { from, message }, &mut machine.effects);
        }
        replica.flush(now, &mut machine.effects);
        let is = replica.leads();
        if is.is_some() && is != was {
            self.oracle.count("elected");
        }
        self.carry_out(id);
        if self.faults.changes > 0.0 {
            self.stop_if_removed(id);
        }
    }

    fn carry_out(&mut self, id: NodeId) {
        let machine = self.machine(id);
        let effects = std::mem::take(&mut machine.effects);
        for record in effects.persist {
            machine.position = Position(machine.position.0 + 1);
            machine.pending.push((machine.position, record));
        }
        let position = machine.position;
        let idle = machine.pending.is_empty();
        let life = machine.life;
        for envelope in effects.send_now {
            assert_ne!(envelope.to, id, "nothing for oneself leaves before the disk");
            self.send(id, envelope);
        }
        for envelope in effects.send_after_durable {
            if idle {
                self.send(id, envelope);
            } else {
                self.machine(id).held.push((position, envelope));
            }
        }
        self.sync_later(id);
        for (slot, value) in effects.chosen {
            self.apply(id, slot, &value);
        }
        for load in effects.load {
            let delay = self.rng.u64(100..self.faults.load_us_max.max(101));
            self.at(delay, Happening::Loaded { node: id, life, load });
        }
        for outcome in effects.reads {
            let (reader, read_life, acknowledged) = self.reads[&outcome.token];
            assert_eq!(reader, id);
            if let Some(index) = outcome.index {
                assert_eq!(read_life, life);
                assert!(index >= acknowledged, "a read at {index} misses {acknowledged}");
                self.oracle.reads_checked += 1;
            }
        }
        if let Some(upto) = effects.truncate {
            self.oracle.count("truncate");
            let machine = self.machine(id);
            let durable = machine.applied_durable;
            assert!(upto <= durable, "{id} truncates {upto}, and its state ends at {durable}");
            machine.truncated = machine.truncated.max(upto);
            machine.segments.retain(|segment| segment.upto > upto);
        }
        if let Some(wanted) = effects.snapshot {
            assert_eq!(wanted.above, self.machine(id).applied, "above what it has");
            let delay = self.rng.u64(500..200_000);
            self.at(delay, Happening::Snapshot { node: id, life, from: wanted.from });
        }
    }

    fn apply(&mut self, id: NodeId, slot: Slot, value: &Value) {
        let chosen = self.oracle.chosen.get(&slot);
        assert_eq!(chosen, Some(value), "{id} applies in slot {slot} what is not chosen");
        if *value == Value::Noop {
            self.oracle.count("noop");
        }
        // The state becomes durable now and then, but never ahead of the journal.
        let flush = self.rng.u8(..) < 40;
        let machine = self.machine(id);
        let durable = flush && machine.pending.is_empty();
        assert_eq!(machine.applied.next(), slot, "{id} applies out of order");
        machine.applied = slot;
        if durable {
            machine.applied_durable = slot;
        }
        let durable = machine.applied_durable;
        let state = (slot, 0);
        self.oracle.acknowledged = self.oracle.acknowledged.max(slot);
        let now = self.now;
        let machine = self.machine(id);
        let replica = machine.replica.as_mut().unwrap();
        replica.step(now, Input::Applied { upto: slot, durable, state }, &mut machine.effects);
    }

    fn sync_later(&mut self, id: NodeId) {
        let delay = self.rng.u64(20..self.faults.sync_us_max.max(21));
        let machine = self.machine(id);
        if machine.syncing || machine.pending.is_empty() {
            return;
        }
        machine.syncing = true;
        let (life, position) = (machine.life, machine.position);
        self.at(delay, Happening::Synced { node: id, life, position });
    }

    fn send(&mut self, from: NodeId, envelope: Envelope) {
        let Envelope { to, message } = envelope;
        if let Message::Promise(promise) = &message {
            let machine = self.machine(from);
            machine.promise_sent = machine.promise_sent.max(promise.ballot);
        }
        if to == from {
            // This node's own vote, durable by now.
            self.at(0, Happening::Deliver { from, to, message });
            return;
        }
        if self.cuts.contains(&(from, to)) || self.rng.f64() < self.faults.loss {
            return;
        }
        let copies = if self.rng.f64() < self.faults.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let late = self.faults.stragglers > 0.0 && self.rng.f64() < self.faults.stragglers;
            let delay_us_max = if late { STRAGGLE_US_MAX } else { self.faults.delay_us_max };
            let delay = self.rng.u64(20..delay_us_max.max(21));
            let message = message.clone();
            self.at(delay, Happening::Deliver { from, to, message });
        }
    }

    /// All faults end; everything that is down comes back.
    pub(crate) fn heal(&mut self) {
        // Disks stay as slow as they are.
        let sync_us_max = self.faults.sync_us_max.min(130_000);
        // Removed nodes are still told so, but nobody wants another change.
        let changes = if self.faults.changes > 0.0 { f64::MIN_POSITIVE } else { 0.0 };
        self.faults = Faults { sync_us_max, changes, ..Faults::none() };
        self.cuts.clear();
        for index in 0..self.machines.len() {
            let id = self.machines[index].id;
            if self.machines[index].replica.is_none() {
                self.start(id);
            }
            self.resume(id);
        }
    }

    /// Kills as many voters for good as every configuration that may be in force, now or by
    /// and by, can do without.
    pub(crate) fn kill_minority(&mut self) {
        let mut configurations = vec![self.oracle.first.clone()];
        let accepted = self.oracle.votes.values().map(|(value, _)| value);
        let pending = self.machines.iter().flat_map(|machine| &machine.pending);
        let pending = pending.filter_map(|(_, record)| match &record.body {
            RecordBody::Accepted { value, .. } => Some(value),
            _ => None,
        });
        configurations.extend(accepted.chain(pending).filter_map(|value| match value {
            Value::Configuration(new) => Some((**new).clone()),
            _ => None,
        }));
        let newest = &self.oracle.configurations.newest().configuration;
        let mut ids: Vec<NodeId> = newest.voters().to_vec();
        self.rng.shuffle(&mut ids);
        let mut killed = Vec::new();
        for id in ids {
            killed.push(id);
            let survives = |c: &Configuration| {
                let dead = killed.iter().filter(|id| c.is_voter(**id)).count();
                !c.is_voter(id) || dead + c.progress_quorum() <= c.voters().len()
            };
            if !configurations.iter().all(survives) || self.machine(id).gone {
                killed.pop();
            }
        }
        for id in killed {
            self.oracle.count("killed");
            self.crash(id);
            self.machine(id).gone = true;
        }
    }

    /// Progress is demanded: a leader, new values, the same prefix everywhere.
    pub(crate) fn demand_progress(&mut self, limit_us: u64) {
        let before = self.oracle.acknowledged;
        self.run_until("every replica applies new values", limit_us, |world| {
            let members = world.oracle.configurations.newest().configuration.members().to_vec();
            let is_member = |m: &&Machine| members.contains(&m.id) && !m.gone;
            let floor = world.machines.iter().filter(is_member).map(|m| m.applied).min().unwrap();
            floor > before.plus(20)
        });
    }

    /// Everybody who is a member now or will be one.
    pub(crate) fn members(&self) -> BTreeSet<NodeId> {
        let in_force = self.oracle.configurations.in_force(self.oracle.chosen_upto);
        in_force.iter().flat_map(|r| r.configuration.members().to_vec()).collect()
    }

    /// The leader proposes another configuration, drawn at random: a learner joins, is
    /// promoted, a voter leaves or is replaced, quorums and alpha change.
    fn change(&mut self) {
        let delay = self.rng.u64(2_000..60_000);
        self.at(delay, Happening::Change);
        if self.rng.f64() > self.faults.changes {
            return;
        }
        let Some(leader) = self.leader() else { return };
        let newest = self.machine(leader).replica.as_ref().map(|r| r.configurations().newest());
        let newest = (*newest.expect("it leads").configuration).clone();
        let Some(new) = self.draw_change(&newest) else { return };
        let force = self.rng.u8(..4) == 0;
        let now = self.now;
        // Now and then one is proposed that may come at the wrong moment, or as the wrong
        // number: it must have no effect on anybody.
        let blind = new.members() == newest.members() && self.rng.bool();
        let number = new.number() - u64::from(blind && self.rng.bool());
        let new = new.numbered(number);
        let replica = self.machine(leader).replica.as_ref().expect("it leads");
        if replica.check_change(now, &new, force).is_err() && !blind {
            self.oracle.count("change refused");
            return;
        }
        self.oracle.count("change proposed");
        let joined = new.members().to_vec();
        for id in joined {
            if id.0 > self.size() {
                self.join(id, leader, &new);
            }
        }
        let value = Value::Configuration(std::sync::Arc::new(new));
        self.input(leader, Input::Propose { value, commands: 1 });
    }

    fn draw_change(&mut self, newest: &Configuration) -> Option<Configuration> {
        const MACHINES_MAX: u32 = 9;
        let mut voters = newest.voters().to_vec();
        let mut learners = newest.learners().to_vec();
        let fresh = Some(NodeId(self.size() + 1)).filter(|id| id.0 <= MACHINES_MAX);
        match self.rng.u8(..8) {
            0 | 1 => learners.push(fresh?),
            2 | 3 if !learners.is_empty() => {
                let promoted = learners.swap_remove(self.rng.usize(..learners.len()));
                voters.push(promoted);
            }
            4 if voters.len() > 1 => {
                voters.swap_remove(self.rng.usize(..voters.len()));
            }
            // Nobody who voted votes any more: the two have no quorum in common.
            6 | 7 if !learners.is_empty() => std::mem::swap(&mut voters, &mut learners),
            5 => {
                // One that was replaced takes nothing with it.
                let place = self.rng.usize(..voters.len());
                voters[place] = match learners.pop() {
                    Some(learner) => learner,
                    None => fresh?,
                };
            }
            _ => {}
        }
        let count = voters.len();
        let q1 = if self.rng.bool() { count / 2 + 1 } else { self.rng.usize(1..=count) };
        let q2 = count + 1 - q1;
        let q2 = if q1 == count / 2 + 1 { q1 } else { q2 };
        let alpha = [newest.alpha(), 1, 2, 3, 16][self.rng.usize(..5)];
        let new = Configuration::new(voters, q1, q2, alpha).expect("quorums that meet");
        Some(new.with_learners(learners).expect("all different").numbered(newest.number() + 1))
    }

    /// A new machine: empty, or on a copy of another one's durable state.
    fn join(&mut self, id: NodeId, from: NodeId, joined_in: &Configuration) {
        let slot = self.machine(from).applied_durable;
        let mut machine = Machine::new(id);
        machine.joined_in = Some(joined_in.clone());
        if self.rng.u8(..4) == 0 {
            machine.applied_durable = slot;
            let body = RecordBody::StartAfter { slot };
            let record = Record { promised: Ballot::ZERO, chosen_upto: slot, body };
            machine.durable.push((Position(1), record));
        }
        assert_eq!(id.0, self.size() + 1);
        self.machines.push(machine);
        self.oracle.count("join");
        self.start(id);
    }

    /// A node that was told that it is a member no more stops for good.
    fn stop_if_removed(&mut self, id: NodeId) {
        let now = self.now;
        let Some(replica) = self.machine(id).replica.as_ref() else { return };
        let Some(number) = replica.status(now).removed else { return };
        self.oracle.count("removed");
        let members = self.members();
        assert!(!members.contains(&id), "{id} is told that it was removed by {number}");
        self.crash(id);
        self.machine(id).gone = true;
    }
}

impl Machine {
    fn new(id: NodeId) -> Machine {
        Machine {
            id,
            durable: Vec::new(),
            pending: Vec::new(),
            position: Position::ZERO,
            life: 0,
            applied_durable: Slot::ZERO,
            installed: None,
            truncated: Slot::ZERO,
            segments: Vec::new(),
            segment_records: 0,
            applied: Slot::ZERO,
            replica: None,
            effects: Effects::default(),
            held: Vec::new(),
            syncing: false,
            paused: false,
            inbox: Vec::new(),
            promise_sent: Ballot::ZERO,
            joined_in: None,
            gone: false,
        }
    }

    /// A segment that is full now, if one is. The mark of a snapshot goes when the journal
    /// has it.
    fn fill_segment(&mut self) -> Option<Segment> {
        let slot_of = |record: &Record| match record.body {
            RecordBody::Accepted { slot, .. } | RecordBody::Chosen { slot, .. } => Some(slot),
            RecordBody::Promise | RecordBody::StartAfter { .. } => None,
        };
        let records = || self.durable.iter().map(|(_, record)| record);
        let starts = |record: &Record| match record.body {
            RecordBody::StartAfter { slot } => Some(slot) >= self.installed,
            _ => false,
        };
        if records().any(starts) {
            self.installed = None;
        }
        let upto = records().filter_map(slot_of).max().unwrap_or(Slot::ZERO);
        let full = self.durable.len() - self.segment_records >= SEGMENT_RECORDS;
        full.then(|| {
            self.segment_records = self.durable.len();
            let segment = Segment { upto, bytes: 1_000 };
            self.segments.push(segment);
            segment
        })
    }

    /// How many segments were ever filled.
    pub(crate) fn filled(&self) -> u64 {
        (self.segment_records / SEGMENT_RECORDS) as u64
    }

    /// What a journal brings back, worked out naively from all records.
    fn recover(&self) -> Recovered {
        let mut recovered = Recovered::empty();
        recovered.truncated_upto = self.truncated;
        let mut slots: BTreeMap<Slot, (Standing, Value)> = BTreeMap::new();
        for (position, record) in &self.durable {
            assert!(record.promised >= recovered.promised, "a promise fell in the journal");
            recovered.promised = record.promised;
            recovered.chosen_upto = recovered.chosen_upto.max(record.chosen_upto);
            recovered.position = *position;
            match &record.body {
                RecordBody::Promise => {}
                RecordBody::Accepted { slot, ballot, value } => {
                    slots.insert(*slot, (Standing::Accepted(*ballot), value.clone()));
                }
                RecordBody::Chosen { slot, value } => {
                    slots.insert(*slot, (Standing::Chosen, value.clone()));
                }
                RecordBody::StartAfter { slot } => {
                    recovered.truncated_upto = recovered.truncated_upto.max(*slot);
                }
            }
        }
        recovered.chosen_upto = recovered.chosen_upto.max(recovered.truncated_upto);
        let open = slots.into_iter().filter(|(slot, _)| *slot > recovered.chosen_upto);
        recovered.open =
            open.map(|(slot, (standing, value))| AcceptedSlot { slot, standing, value }).collect();
        recovered
    }

    fn load(&self, load: Load) -> Vec<Value> {
        let mut values = Vec::new();
        let mut bytes = 0;
        let mut slot = load.first;
        let starts = self.durable.iter().chain(&self.pending).filter_map(|(_, r)| match r.body {
            RecordBody::StartAfter { slot } => Some(slot),
            _ => None,
        });
        if slot <= starts.max().unwrap_or(Slot::ZERO).max(self.truncated) {
            return values;
        }
        // A journal gives back only what its own newest watermark covers, or what was
        // recorded as chosen.
        let newest = self.durable.iter().chain(&self.pending).last();
        let recorded_upto = newest.map_or(Slot::ZERO, |(_, record)| record.chosen_upto);
        let last = load.last.min(recorded_upto);
        while slot <= last && bytes < load.bytes_max {
            let records = self.durable.iter().chain(&self.pending).rev();
            let value = records.filter_map(|(_, record)| match &record.body {
                RecordBody::Accepted { slot: at, value, .. }
                | RecordBody::Chosen { slot: at, value }
                    if *at == slot =>
                {
                    Some(value.clone())
                }
                _ => None,
            });
            let Some(value) = value.into_iter().next() else { break };
            bytes += value.size_bytes();
            values.push(value);
            slot = slot.next();
        }
        values
    }
}

impl World {
    /// One line a machine, for a person who looks at a seed that failed.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("at {} us, acknowledged {}\n", self.now.0, self.oracle.acknowledged);
        for reign in self.oracle.configurations.reigns() {
            let Reign { from, configuration: c } = reign;
            let (q1, q2, alpha) = (c.promise_quorum(), c.accept_quorum(), c.alpha());
            let (voters, learners) = (c.voters(), c.learners());
            text.push_str(&format!("{from}: {voters:?} {q1}/{q2} {learners:?} alpha {alpha}\n"));
        }
        for machine in &self.machines {
            let status = machine.replica.as_ref().map(|replica| replica.status(self.now));
            text.push_str(&format!("{} paused {} {status:?}\n", machine.id, machine.paused));
        }
        text
    }
}
