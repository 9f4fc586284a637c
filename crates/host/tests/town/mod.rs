//! The town: houses (hosts on disks), clients, and the weather between them.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use bytes::Bytes;
use synod_host::{Action, Applied, Event, Host, HostSettings, Limits, RequestId, Waiter};
use synod_kv::{
    Command, Condition, KvOptions, MemoryMap, Operation, Outcome, Revision, ServerId, StateMachine,
    Taken, read,
};
use synod_paxos::{
    AcceptedSlot, Configuration, Configurations, Load, NodeId, Options, Position, Record,
    RecordBody, Recovered, Slot, Standing, Time, Value,
};
use synod_wire::{PeerMessage, batch, command};

/// Keys of the clients: few, so that preconditions meet each other.
const KEYS: u8 = 5;
const CLIENTS: usize = 6;

/// Which faults are on, and how strong.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    loss: f64,
    duplication: f64,
    crashes: f64,
    cuts: f64,
    delay_us_max: u64,
    sync_us_max: u64,
    apply_us_max: u64,
}

impl Faults {
    fn none() -> Faults {
        Faults {
            loss: 0.0,
            duplication: 0.0,
            crashes: 0.0,
            cuts: 0.0,
            delay_us_max: 300,
            sync_us_max: 200,
            apply_us_max: 100,
        }
    }

    pub(crate) fn drawn(rng: &mut fastrand::Rng) -> Faults {
        let mut maybe = |strength: f64| if rng.bool() { rng.f64() * strength } else { 0.0 };
        Faults {
            loss: maybe(0.2),
            duplication: maybe(0.3),
            crashes: maybe(0.2),
            cuts: maybe(0.2),
            delay_us_max: [300, 3_000, 40_000][rng.usize(..3)],
            sync_us_max: [200, 5_000, 60_000][rng.usize(..3)],
            apply_us_max: [100, 2_000, 40_000][rng.usize(..3)],
        }
    }
}

/// What was seen in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) crashes: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) unknown: u64,
    pub(crate) duplicates: u64,
}

enum Happening {
    Event { node: NodeId, life: u64, event: Event },
    Deliver { to: NodeId, event: Event },
    Apply { node: NodeId, life: u64, first: Slot, values: Vec<Value>, waiters: Vec<Waiter> },
    Synced { node: NodeId, life: u64, upto: Position },
    Restart { node: NodeId },
    Client { index: usize },
    GiveUp { index: usize, request: RequestId },
    Nemesis,
}

struct Scheduled {
    at: Time,
    order: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One node: its disk, and its process while it lives.
struct House {
    id: NodeId,
    life: u64,
    records: Vec<(Position, Record)>,
    unsynced: Vec<(Position, Record)>,
    durable_map: MemoryMap,
    durable_slot: Slot,
    process: Option<Process>,
}

struct Process {
    host: Host,
    machine: StateMachine<MemoryMap>,
    waiters: VecDeque<Waiter>,
    own_sequence: u64,
    /// Applies happen in order though each takes its time.
    apply_free_at: Time,
    syncing: bool,
    tick_at: Time,
}

/// What a client has asked for and not heard of.
struct Asked {
    node: NodeId,
    request: RequestId,
    asks: Ask,
    /// The highest revision that anybody was told before this was asked.
    floor: Revision,
}

enum Ask {
    Write,
    Read,
}

pub(crate) struct Town {
    rng: fastrand::Rng,
    pub(crate) now: Time,
    order: u64,
    queue: BinaryHeap<Scheduled>,
    houses: Vec<House>,
    configuration: Configuration,
    options: Options,
    faults: Faults,
    cuts: BTreeSet<(NodeId, NodeId)>,
    clients: Vec<Option<Asked>>,
    next_request: u64,
    /// The highest revision that any client was told.
    told: Revision,
    /// The slot in which each command had its effect.
    effects: BTreeMap<ServerId, u64>,
    /// The state hash after each slot, of whoever was there first.
    hashes: BTreeMap<u64, u64>,
    pub(crate) seen: Seen,
}

impl Town {
    pub(crate) fn new(seed: u64, members: u32, faults: Faults) -> Town {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ids: Vec<NodeId> = (1..=members).map(NodeId).collect();
        let configuration = Configuration::majority(ids.clone(), 64).expect("valid");
        let options = Options {
            window_slots_max: [4, 64][rng.usize(..2)],
            value_bytes_max: [200, 100_000][rng.usize(..2)],
            cache_bytes_max: [0, 1 << 20][rng.usize(..2)],
            page_bytes_max: [100, 1 << 20][rng.usize(..2)],
            ..Options::default()
        };
        let house = |id: &NodeId| House {
            id: *id,
            life: 0,
            records: Vec::new(),
            unsynced: Vec::new(),
            durable_map: MemoryMap::new(),
            durable_slot: Slot::ZERO,
            process: None,
        };
        let mut town = Town {
            houses: ids.iter().map(house).collect(),
            rng,
            now: Time(1_000_000),
            order: 0,
            queue: BinaryHeap::new(),
            configuration,
            options,
            faults,
            cuts: BTreeSet::new(),
            clients: (0..CLIENTS).map(|_| None).collect(),
            next_request: 0,
            told: Revision(0),
            effects: BTreeMap::new(),
            hashes: BTreeMap::new(),
            seen: Seen::default(),
        };
        ids.iter().for_each(|id| town.start(*id));
        (0..CLIENTS).for_each(|index| town.at(1_000, Happening::Client { index }));
        town.at(10_000, Happening::Nemesis);
        town
    }

    fn at(&mut self, delay_us: u64, what: Happening) {
        self.order += 1;
        self.queue.push(Scheduled { at: self.now.plus_us(delay_us), order: self.order, what });
    }

    /// How many nodes there are.
    fn size(&self) -> u32 {
        u32::try_from(self.houses.len()).expect("a small town")
    }

    fn house(&mut self, id: NodeId) -> &mut House {
        &mut self.houses[id.0 as usize - 1]
    }

    fn process(&mut self, id: NodeId, life: u64) -> Option<&mut Process> {
        let house = self.house(id);
        if house.life == life { house.process.as_mut() } else { None }
    }

    pub(crate) fn run_for(&mut self, us: u64) {
        let end = self.now.plus_us(us);
        while self.now < end {
            self.step();
        }
    }

    /// Every client is answered anew, and all replicas have applied the same.
    pub(crate) fn demand_progress(&mut self, limit_us: u64) {
        let end = self.now.plus_us(limit_us);
        let (writes, reads) = (self.seen.writes, self.seen.reads);
        while self.seen.writes < writes + 50 || self.seen.reads < reads + 50 {
            let statuses: Vec<_> = self.houses.iter().map(|house| house.status(self.now)).collect();
            assert!(self.now < end, "no progress within {limit_us} us: {statuses:#?}");
            self.step();
        }
    }

    fn step(&mut self) {
        let event = self.queue.pop().expect("clients and nemesis never end");
        self.now = event.at;
        match event.what {
            Happening::Event { node, life, event } => {
                if self.process(node, life).is_some() {
                    self.input(node, event);
                }
            }
            Happening::Deliver { to, event } => {
                if self.house(to).process.is_some() {
                    self.input(to, event);
                }
            }
            Happening::Apply { node, life, first, values, waiters } => {
                if self.process(node, life).is_some() {
                    self.apply(node, first, values, waiters);
                }
            }
            Happening::Synced { node, life, upto } => self.synced(node, life, upto),
            Happening::Restart { node } => {
                if self.house(node).process.is_none() {
                    self.start(node);
                }
            }
            Happening::Client { index } => self.ask(index),
            Happening::GiveUp { index, request } => {
                if self.clients[index].as_ref().is_some_and(|asked| asked.request == request) {
                    self.clients[index] = None;
                    self.seen.unknown += 1;
                    self.at(1_000, Happening::Client { index });
                }
            }
            Happening::Nemesis => self.nemesis(),
        }
    }

    fn nemesis(&mut self) {
        let victim = NodeId(self.rng.u32(1..=self.size()));
        if self.rng.f64() < self.faults.crashes {
            self.crash(victim);
            let down = self.rng.u64(1_000..500_000);
            self.at(down, Happening::Restart { node: victim });
        }
        if self.rng.f64() < self.faults.cuts {
            self.cuts.clear();
            let other = NodeId(self.rng.u32(1..=self.size()));
            self.cuts.insert((victim, other));
            if self.rng.bool() {
                self.cuts.insert((other, victim));
            }
        }
        let delay = self.rng.u64(10_000..80_000);
        self.at(delay, Happening::Nemesis);
    }

    fn crash(&mut self, id: NodeId) {
        let house = self.house(id);
        if house.process.take().is_none() {
            return;
        }
        let unsynced = std::mem::take(&mut house.unsynced);
        let keep = self.rng.usize(..=unsynced.len());
        self.house(id).records.extend(unsynced.into_iter().take(keep));
        self.seen.crashes += 1;
        for client in &mut self.clients {
            if client.as_ref().is_some_and(|asked| asked.node == id) {
                *client = None; // The connection broke: the outcome is unknown.
                self.seen.unknown += 1;
            }
        }
        for index in 0..CLIENTS {
            if self.clients[index].is_none() {
                self.at(2_000, Happening::Client { index });
            }
        }
        for peer in 1..=self.size() {
            let delay = self.rng.u64(100..3_000);
            self.at(delay, Happening::Deliver { to: NodeId(peer), event: Event::PeerDied(id) });
        }
    }

    fn start(&mut self, id: NodeId) {
        let (now, configurations) = (self.now, Configurations::new(self.configuration.clone()));
        let options = Options { seed: self.rng.u64(..), ..self.options.clone() };
        let house = self.house(id);
        house.life += 1;
        let recovered = house.recover();
        let journaled = recovered.open.iter().map(|open| open.slot).max();
        let journaled = journaled.unwrap_or(recovered.chosen_upto).max(recovered.chosen_upto);
        assert!(house.durable_slot <= journaled, "the state is durable ahead of the journal");
        let options = Options { incarnation: house.life, ..options };
        let map = house.durable_map.clone();
        let mut machine = StateMachine::open(map, kv_options()).expect("memory does not fail");
        // The state lags behind the journal: what is known as chosen is applied first.
        let first = Slot(machine.applied_slot()).next();
        let values = house.values(first, recovered.chosen_upto, usize::MAX);
        for (slot, value) in (first.0..).zip(values) {
            apply_value(&mut machine, slot, value);
        }
        machine.commit().expect("memory does not fail");
        let applied = Applied {
            upto: Slot(machine.applied_slot()),
            durable: house.durable_slot,
            cluster_time_ms: machine.cluster_time_ms(),
            own_sequence: 0,
            own_gap: false,
            state: (Slot::ZERO, 0),
        };
        let limits = Limits::default();
        let settings =
            HostSettings { node: id, incarnation: house.life, configurations, options, limits };
        house.process = Some(Process {
            host: Host::new(settings, recovered, &applied, now),
            machine,
            waiters: VecDeque::new(),
            own_sequence: 0,
            apply_free_at: now,
            syncing: false,
            tick_at: Time::ZERO,
        });
        self.input(id, Event::Tick);
    }

    pub(crate) fn heal(&mut self) {
        self.faults = Faults::none();
        self.cuts.clear();
        for id in 1..=self.size() {
            if self.house(NodeId(id)).process.is_none() {
                self.start(NodeId(id));
            }
        }
    }

    /// A client with nothing open asks for something, of any node.
    fn ask(&mut self, index: usize) {
        if self.clients[index].is_some() {
            return;
        }
        let node = NodeId(self.rng.u32(1..=self.size()));
        if self.house(node).process.is_none() {
            self.at(5_000, Happening::Client { index });
            return;
        }
        self.next_request += 1;
        let request = RequestId(self.next_request);
        let patience = self.rng.u64(50_000..500_000);
        let deadline = self.now.plus_us(patience);
        let asks = if self.rng.u8(..) < 100 { Ask::Read } else { Ask::Write };
        let event = match asks {
            Ask::Read => Event::Read { request, deadline },
            Ask::Write => Event::Write { request, command: self.draw_command(), deadline },
        };
        self.clients[index] = Some(Asked { node, request, asks, floor: self.told });
        self.at(patience * 2, Happening::GiveUp { index, request });
        self.input(node, event);
    }

    fn draw_command(&mut self) -> Bytes {
        let key = Bytes::from(vec![b'k', self.rng.u8(..KEYS)]);
        let condition = match self.rng.u8(..4) {
            0 => Condition::Absent,
            1 => Condition::At(Revision(self.told.0.saturating_sub(self.rng.u64(..5)))),
            _ => Condition::Always,
        };
        let want_previous = self.rng.bool();
        let operation = if self.rng.u8(..) < 50 {
            Operation::Delete { key, condition, want_previous }
        } else {
            let value = Bytes::from(self.next_request.to_le_bytes().to_vec());
            Operation::Put { key, value, condition, want_previous }
        };
        command::encode(&Command { idempotency: None, operation })
    }

    fn answered(&mut self, request: RequestId) -> Option<Asked> {
        let open = |c: &Option<Asked>| c.as_ref().is_some_and(|asked| asked.request == request);
        let index = self.clients.iter().position(open)?;
        let pause = self.rng.u64(100..5_000);
        self.at(pause, Happening::Client { index });
        self.clients[index].take()
    }

    /// What anybody is told from here on is at least this new.
    fn tell(&mut self, asked: &Asked, revision: Revision, changed: bool) {
        assert!(revision >= asked.floor, "told {revision} after somebody knew {}", asked.floor);
        if changed {
            assert!(revision > asked.floor, "a new change has an old revision");
        }
        self.told = self.told.max(revision);
    }

    fn input(&mut self, id: NodeId, event: Event) {
        let now = self.now;
        let mut actions = Vec::new();
        let process = self.house(id).process.as_mut().expect("checked by the caller");
        process.host.receive(now, event);
        process.host.finish(now, &mut actions);
        for action in actions {
            self.carry_out(id, action);
        }
        self.tick_later(id);
    }

    fn tick_later(&mut self, id: NodeId) {
        let now = self.now;
        let house = self.house(id);
        let life = house.life;
        let Some(process) = house.process.as_mut() else { return };
        let deadline = process.host.deadline().max(now.plus_us(20));
        if process.tick_at <= now || deadline < process.tick_at {
            process.tick_at = deadline;
            let event = Event::Tick;
            self.at(deadline.since_us(now), Happening::Event { node: id, life, event });
        }
    }

    fn carry_out(&mut self, id: NodeId, action: Action) {
        let life = self.house(id).life;
        match action {
            Action::Persist { upto, records } => {
                let house = self.house(id);
                let first = upto.0 + 1 - records.len() as u64;
                let numbered = (first..).map(Position).zip(records);
                house.unsynced.extend(numbered);
                self.sync_later(id);
            }
            Action::Send { to, message } => self.send(id, to, message),
            Action::Apply { first, values, waiters } => {
                let took = self.rng.u64(10..self.faults.apply_us_max.max(11));
                let now = self.now;
                let process = self.house(id).process.as_mut().expect("alive");
                process.apply_free_at = process.apply_free_at.max(now).plus_us(took);
                let delay = process.apply_free_at.since_us(now);
                self.at(delay, Happening::Apply { node: id, life, first, values, waiters });
            }
            Action::Load(load) => {
                let values = self.house(id).load(load);
                let event = Event::Loaded { load, values };
                self.at(300, Happening::Event { node: id, life, event });
            }
            Action::Truncate(_) | Action::TalkTo(_) | Action::ChangeAnswered { .. } => {}
            Action::ReadReady { request } => {
                let process = self.house(id).process.as_ref().expect("alive");
                let revision = process.machine.revision();
                let map_revision = read::revision(process.machine.map()).expect("memory");
                assert_eq!(revision, map_revision, "a read sees what is committed");
                if let Some(asked) = self.answered(request) {
                    assert!(matches!(asked.asks, Ask::Read));
                    self.tell(&asked, revision, false);
                    self.seen.reads += 1;
                }
            }
            Action::Refuse { request, .. } => {
                self.answered(request);
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage) {
        assert_ne!(from, to, "a node does not send to itself");
        if self.cuts.contains(&(from, to)) || self.rng.f64() < self.faults.loss {
            return;
        }
        let copies = if self.rng.f64() < self.faults.duplication { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.rng.u64(20..self.faults.delay_us_max.max(21));
            let event = Event::Received { from, message: message.clone() };
            self.at(delay, Happening::Deliver { to, event });
        }
    }

    fn sync_later(&mut self, id: NodeId) {
        let delay = self.rng.u64(20..self.faults.sync_us_max.max(21));
        let house = self.house(id);
        let life = house.life;
        let (Some(process), Some((upto, _))) = (house.process.as_mut(), house.unsynced.last())
        else {
            return;
        };
        if !process.syncing {
            process.syncing = true;
            let upto = *upto;
            self.at(delay, Happening::Synced { node: id, life, upto });
        }
    }

    fn synced(&mut self, id: NodeId, life: u64, upto: Position) {
        let Some(process) = self.process(id, life) else { return };
        process.syncing = false;
        let house = self.house(id);
        let split = house.unsynced.partition_point(|(position, _)| *position <= upto);
        let synced: Vec<_> = house.unsynced.drain(..split).collect();
        house.records.extend(synced);
        self.sync_later(id);
        self.input(id, Event::Persisted(upto));
    }

    fn apply(&mut self, id: NodeId, first: Slot, values: Vec<Value>, waiters: Vec<Waiter>) {
        let incarnation = self.house(id).life;
        let process = self.house(id).process.as_mut().expect("alive");
        process.waiters.extend(waiters);
        let mut answers = Vec::new();
        let mut taken_ids = Vec::new();
        let mut hashes = Vec::new();
        let (mut own_gap, mut duplicates) = (false, 0);
        for (slot, value) in (first.0..).zip(values) {
            for (id_, taken) in apply_value(&mut process.machine, slot, value) {
                let own = id_.origin == id.0 && id_.incarnation == incarnation;
                match taken {
                    Taken::Applied { outcome, .. } => {
                        taken_ids.push((id_, slot));
                        if own {
                            process.own_sequence = id_.sequence;
                            let waiter = process.waiters.pop_front().expect("a waiter each");
                            assert_eq!(waiter.sequence, id_.sequence, "answers come in order");
                            answers.push((waiter.request, outcome));
                        }
                    }
                    Taken::Duplicate => duplicates += 1,
                    Taken::Gap => own_gap |= own,
                }
            }
            hashes.push((slot, process.machine.state_hash()));
        }
        process.machine.commit().expect("memory does not fail");
        let own_sequence = process.own_sequence;
        let upto = Slot(process.machine.applied_slot());
        let cluster_time_ms = process.machine.cluster_time_ms();
        let state = (upto, process.machine.state_hash());
        self.flush_sometimes(id, upto);
        self.seen.duplicates += duplicates;
        for (server_id, slot) in taken_ids {
            let known = *self.effects.entry(server_id).or_insert(slot);
            assert_eq!(known, slot, "{server_id:?} had effect twice");
        }
        for (slot, hash) in hashes {
            let known = *self.hashes.entry(slot).or_insert(hash);
            assert_eq!(known, hash, "{id} differs from the others after slot {slot}");
        }
        for (request, outcome) in answers {
            self.answer_write(request, &outcome);
        }
        let durable = self.house(id).durable_slot;
        let applied = Applied { upto, durable, cluster_time_ms, own_sequence, own_gap, state };
        self.input(id, Event::Applied(applied));
    }

    /// The state becomes durable now and then, when the storage engine likes.
    fn flush_sometimes(&mut self, id: NodeId, upto: Slot) {
        let flush = self.rng.u8(..) < 20;
        let house = self.house(id);
        if flush {
            let process = house.process.as_ref().expect("alive");
            house.durable_map = process.machine.map().clone();
            house.durable_slot = upto;
        }
    }

    fn answer_write(&mut self, request: RequestId, outcome: &Outcome) {
        let Some(asked) = self.answered(request) else { return };
        assert!(matches!(asked.asks, Ask::Write));
        let (revision, changed) = match outcome {
            Outcome::Stored { revision, .. } | Outcome::Deleted { revision, .. } => {
                (*revision, true)
            }
            Outcome::NotFound { revision } | Outcome::ConditionFailed { revision, .. } => {
                (*revision, false)
            }
            other => panic!("nobody asked for {other:?}"),
        };
        self.tell(&asked, revision, changed);
        self.seen.writes += 1;
    }

    /// After the faults all replicas come to the same state.
    pub(crate) fn check_replicas_agree(&mut self) {
        let hash = |house: &House| {
            let machine = &house.process.as_ref().expect("healed").machine;
            (machine.applied_slot(), machine.state_hash())
        };
        for house in &self.houses {
            let (slot, hash) = hash(house);
            assert_eq!(self.hashes.get(&slot), Some(&hash), "{} at slot {slot}", house.id);
        }
    }
}

fn kv_options() -> KvOptions {
    // A tiny cache: what it holds must not matter.
    KvOptions { metadata_cache_bytes_max: 200, ..KvOptions::default() }
}

fn apply_value(
    machine: &mut StateMachine<MemoryMap>,
    slot: u64,
    value: Value,
) -> Vec<(ServerId, Taken)> {
    let mut commands = Vec::new();
    let mut stamp = 0;
    assert!(!matches!(value, Value::Configuration(_)), "nobody here changes the members");
    if let Value::Batch(bytes) = value {
        let batch = batch::decode(bytes).expect("a batch of our own");
        stamp = batch.cluster_time_ms;
        for entry in batch.entries {
            let command = command::decode(entry.command).expect("a command of our own");
            commands.push((entry.id, command));
        }
    }
    let taken = machine.apply(slot, stamp, &commands).expect("memory does not fail");
    commands.into_iter().map(|(id, _)| id).zip(taken).collect()
}

impl House {
    fn status(&self, now: Time) -> Option<synod_paxos::Status> {
        self.process.as_ref().map(|process| process.host.status(now))
    }

    /// What a journal brings back, worked out naively from all records.
    fn recover(&self) -> Recovered {
        let mut recovered = Recovered::empty();
        for (position, record) in &self.records {
            recovered.promised = record.promised;
            recovered.chosen_upto = recovered.chosen_upto.max(record.chosen_upto);
            recovered.position = *position;
        }
        let mut open: BTreeMap<Slot, (Standing, Value)> = BTreeMap::new();
        for (_, record) in &self.records {
            let (slot, standing, value) = match &record.body {
                RecordBody::Accepted { slot, ballot, value } => {
                    (*slot, Standing::Accepted(*ballot), value.clone())
                }
                RecordBody::Chosen { slot, value } => (*slot, Standing::Chosen, value.clone()),
                RecordBody::Promise | RecordBody::StartAfter { .. } => continue,
            };
            if slot > recovered.chosen_upto {
                open.insert(slot, (standing, value));
            }
        }
        let accepted = |(slot, (standing, value))| AcceptedSlot { slot, standing, value };
        recovered.open = open.into_iter().map(accepted).collect();
        recovered
    }

    fn load(&self, load: Load) -> Vec<Value> {
        self.values(load.first, load.last, load.bytes_max)
    }

    fn values(&self, first: Slot, last: Slot, bytes_max: usize) -> Vec<Value> {
        let mut held: BTreeMap<Slot, &Value> = BTreeMap::new();
        for (_, record) in self.records.iter().chain(&self.unsynced) {
            if let RecordBody::Accepted { slot, value, .. } | RecordBody::Chosen { slot, value } =
                &record.body
            {
                held.insert(*slot, value);
            }
        }
        let mut values = Vec::new();
        let (mut slot, mut bytes) = (first, 0);
        while slot <= last && bytes < bytes_max {
            let Some(value) = held.get(&slot) else { break };
            bytes += value.size_bytes();
            values.push((*value).clone());
            slot = slot.next();
        }
        values
    }
}
