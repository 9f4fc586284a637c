//! Scenarios as texts with a story: each file of `scripts/` is replayed by hand,
//! message by message, and its output compared.
//!
//! Commands (nodes are n1, n2, ...):
//! `cluster N [learners="3,4"] [q1=N q2=N] [alpha=N] [page=BYTES] [window=BYTES] [priorities="0,1,2"]` · `change NODE voters="1,2"
//! [learners="3"] [alpha=N] [number=N] [force=yes]` proposes other members · `join NODE voters=...`
//! starts a node on an empty disk that was told of these members · `wait ms=N [NODE...]` lets time
//! pass, millisecond by millisecond (on those nodes only), `run ms=N` lets disks and
//! network work meanwhile · `deliver [WHAT] [from=NODE] [to=NODE]`, `drop` and
//! `copy` (the same; a copy is delivered and stays under way), where WHAT is how the
//! message begins, in small letters: `accept`, `"accept 1.1 2"` · `sync NODE` ·
//! `settle` syncs and delivers until nothing is left · `propose NODE VALUE` ·
//! `read NODE` · `crash NODE` · `restart NODE` · `died NODE PEER` ·
//! `connected NODE PEER` · `cut A B` ·
//! `heal` · `filled NODE SLOT` (a segment of its journal, up to this slot; `tail=0` of the
//! cluster keeps none, or `keep=MS` for those that were heard) · `sent NODE SLOT` (something of its
//! snapshot) · `doubts NODE` (its state is damaged, and it goes on) · `installed NODE SLOT` (a snapshot) · `failed NODE PEER` (its
//! snapshot does not come) · `room NODE enough|low|out` (on its disk) · `writable` · `handover NODE` · `route NODE` · `queue` · `log NODE` · `who`.
//!
//! Heartbeats are delivered at once, in the order in which they were sent, and not
//! shown; what a cut link loses is shown once a command, as `-x`. A node that runs is woken when its deadline has come, as the host does it.
//! `UPDATE_GOLDENFILES=1` writes the outputs anew.

use std::{
    collections::{BTreeMap, VecDeque},
    error::Error,
    fmt::Write as _,
};

use std::sync::Arc;

use bytes::Bytes;
use goldenscript::{Argument, Command, Context, Runner};
use synod_paxos::{
    AcceptedSlot, Configuration, Configurations, Effects, Input, Load, Message, NodeId, Options,
    Position, ReadToken, Record, RecordBody, Recovered, RejectReason, Replica, Role, Room, Route,
    Segment, Slot, SnapshotWanted, Standing, Time, Value,
};

#[test]
fn scripts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the folder of scripts") {
        let path = entry.expect("an entry").path();
        goldenscript::run(&mut Stage::default(), &path).expect("a script");
        count += 1;
    }
    assert!(count >= 30, "the scripts are gone");
}

#[derive(Default)]
struct Stage {
    now: u64,
    configuration: Option<Configuration>,
    options: Options,
    priorities: Vec<u8>,
    nodes: BTreeMap<NodeId, Node>,
    queue: Vec<(NodeId, NodeId, Message)>,
    heartbeats: VecDeque<(NodeId, NodeId, Message)>,
    cuts: Vec<(NodeId, NodeId)>,
    reads: u64,
    out: String,
}

struct Node {
    life: u64,
    durable: Vec<(Position, Record)>,
    pending: Vec<(Position, Record)>,
    held: Vec<(Position, NodeId, Message)>,
    position: Position,
    replica: Option<Replica>,
    applied: Slot,
    /// Its state needs nothing of its journal up to here.
    flushed: Slot,
    /// Who votes, as the last snapshot said that it installed.
    snapshot: Option<Configurations>,
    joined_in: Option<Configuration>,
}

impl Runner for Stage {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let names: Vec<&str> = command.args.iter().filter_map(positional).collect();
        let key = |name: &str| command.args.iter().find_map(|arg| key_value(arg, name));
        let first = || names.first().copied().ok_or("a node is missing");
        match command.name.as_str() {
            "cluster" => {
                let number = |name| key(name).map(str::parse::<usize>).transpose();
                let size: u32 = first()?.parse()?;
                let learning = key("learners").map_or(0, |text| text.split(',').count());
                let majority = (size as usize - learning) / 2 + 1;
                let (q1, q2) =
                    (number("q1")?.unwrap_or(majority), number("q2")?.unwrap_or(majority));
                let learners: Vec<NodeId> =
                    key("learners").map_or(Vec::new(), |text| text.split(',').map(node).collect());
                let members = (1..=size).map(NodeId).filter(|id| !learners.contains(id)).collect();
                let alpha = number("alpha")?.map_or(Configuration::ALPHA_DEFAULT, |n| n as u64);
                let configuration = Configuration::new(members, q1, q2, alpha)
                    .and_then(|configuration| configuration.with_learners(learners));
                self.configuration = Some(configuration.map_err(|e| format!("{e:?}"))?);
                if let Some(bytes) = number("page")? {
                    self.options.page_bytes_max = bytes;
                }
                if let Some(bytes) = number("window")? {
                    self.options.window_bytes_max = bytes;
                    self.options.cache_bytes_max = 0;
                }
                if let Some(bytes) = number("tail")? {
                    self.options.tail_bytes_max = bytes as u64;
                    self.options.keep_for_peers_us = number("keep")?.unwrap_or(0) as u64 * 1_000;
                }
                if let Some(text) = key("priorities") {
                    self.priorities = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                self.cluster();
            }
            "wait" => {
                let ms: u64 = key("ms").ok_or("ms= is missing")?.parse()?;
                self.wait(ms, &names.iter().map(|name| node(name)).collect::<Vec<_>>());
            }
            "run" => {
                let ms: u64 = key("ms").ok_or("ms= is missing")?.parse()?;
                for _ in 0..ms {
                    self.wait(1, &[]);
                    self.settle();
                }
            }
            "deliver" | "drop" | "copy" => {
                let what = names.first().copied();
                let (from, to) = (key("from").map(node), key("to").map(node));
                let taken = self.take(what, from, to);
                if command.name == "copy" {
                    self.queue.extend(taken.iter().cloned());
                }
                if command.name != "drop" {
                    self.hand_over(taken);
                }
            }
            "join" | "change" => {
                let nodes =
                    |name| key(name).map_or(Vec::new(), |text| text.split(',').map(node).collect());
                let leader = if command.name == "join" { NodeId(1) } else { node(first()?) };
                let replica = self.nodes[&leader].replica.as_ref().ok_or("it is down")?;
                let newest = replica.configurations().newest().configuration.clone();
                let alpha = key("alpha").map_or(Ok(newest.alpha()), str::parse)?;
                let voters = nodes("voters");
                let majority = voters.len() / 2 + 1;
                let quorum = |name| key(name).map_or(Ok(majority), str::parse);
                let new = Configuration::new(voters, quorum("q1")?, quorum("q2")?, alpha);
                let new = new.and_then(|new| new.with_learners(nodes("learners")));
                let number = key("number").map_or(Ok(newest.number() + 1), str::parse)?;
                let new = new.map_err(|e| format!("{e:?}"))?.numbered(number);
                match command.name.as_str() {
                    "join" => self.join(node(first()?), new),
                    _ => self.change(leader, new, key("force").is_some()),
                }
            }
            "settle" => self.settle(),
            "sync" => self.sync(node(first()?)),
            "propose" => self.propose(node(first()?), names.get(1).ok_or("a value is missing")?),
            "read" => {
                self.reads += 1;
                self.input(node(first()?), Input::Read(ReadToken(self.reads)));
            }
            "crash" => self.crash(node(first()?)),
            "restart" => self.start(node(first()?)),
            "died" => self.input(node(first()?), Input::PeerDied(node(names[1]))),
            "connected" => self.input(node(first()?), Input::Connected(node(names[1]))),
            "doubts" => self.doubt(node(first()?)),
            "filled" => self.fill(node(first()?), Slot(names[1].parse()?)),
            "installed" => {
                let slot = Slot(names[1].parse()?);
                let id = node(first()?);
                let first = self.configuration.clone().ok_or("a cluster is missing")?;
                let from = key("of").map(node).unwrap_or(id);
                let configurations = self.nodes[&from].configurations(first, slot);
                let node = self.nodes.get_mut(&id).ok_or("no such node")?;
                node.applied = node.applied.max(slot);
                node.snapshot = Some(configurations.clone());
                self.input(id, Input::Installed { slot, state: (Slot::ZERO, 0), configurations });
            }
            "failed" => {
                self.input(node(first()?), Input::SnapshotFailed { from: node(names[1]) });
            }
            "sent" => {
                let slot = Slot(names[1].parse()?);
                self.input(node(first()?), Input::SnapshotSent { slot });
            }
            "room" => {
                let room = match names.get(1).map(|name| &**name) {
                    Some("enough") => Room::Enough,
                    Some("low") => Room::Low,
                    Some("out") => Room::Out,
                    _ => return Err("enough, low or out".into()),
                };
                self.input(node(first()?), Input::Room(room));
            }
            "writable" => {
                for (id, node) in &self.nodes {
                    let Some(replica) = &node.replica else { continue };
                    let may = if replica.has_disk_room() { "put" } else { "not put" };
                    writeln!(self.out, "clients of {id} may {may}")?;
                }
            }
            "handover" => self.input(node(first()?), Input::HandOver { to: None }),
            "cut" => {
                let (a, b) = (node(names[0]), node(names[1]));
                self.cuts.extend([(a, b), (b, a)]);
            }
            "heal" => self.cuts.clear(),
            "queue" => {
                for (from, to, message) in &self.queue {
                    writeln!(self.out, "{from} -> {to} {}", describe(message))?;
                }
            }
            "log" => self.print_log(node(first()?))?,
            "route" => {
                let node = &self.nodes[&node(first()?)];
                let route = match node.replica.as_ref().ok_or("it is down")?.route() {
                    Route::Here => "here".into(),
                    Route::Leader(leader) => format!("to the leader {leader}"),
                    Route::Through(peer) => format!("through {peer}"),
                    Route::Nowhere => "nowhere".into(),
                };
                writeln!(self.out, "{route}")?;
            }
            "who" => self.print_roles()?,
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(std::mem::take(&mut self.out))
    }
}

fn positional(argument: &Argument) -> Option<&str> {
    match argument {
        Argument::Positional(text) => Some(text),
        _ => None,
    }
}

fn key_value<'a>(argument: &'a Argument, name: &str) -> Option<&'a str> {
    match argument {
        Argument::KeyValue(key, value) if key == name => Some(value),
        _ => None,
    }
}

fn node(name: &str) -> NodeId {
    NodeId(name.trim_start_matches('n').parse().expect("a node is called n1, n2, ..."))
}

impl Stage {
    fn cluster(&mut self) {
        self.now = 1_000_000;
        let ids = self.configuration.as_ref().expect("just set").members().to_vec();
        ids.iter().for_each(|id| drop(self.nodes.insert(*id, Node::empty())));
        ids.into_iter().for_each(|id| self.start(id));
    }

    fn join(&mut self, id: NodeId, joined_in: Configuration) {
        self.nodes.insert(id, Node { joined_in: Some(joined_in), ..Node::empty() });
        self.start(id);
    }

    fn change(&mut self, id: NodeId, new: Configuration, force: bool) {
        let replica = self.nodes[&id].replica.as_ref().expect("a running node");
        match replica.check_change(Time(self.now), &new, force) {
            Err(refusal) => {
                let _ = writeln!(self.out, "{id} refuses: {refusal:?}");
            }
            Ok(()) => {
                let value = Value::Configuration(Arc::new(new));
                self.input(id, Input::Propose { value, commands: 1 });
            }
        }
    }

    fn start(&mut self, id: NodeId) {
        let first = self.configuration.clone().expect("a cluster");
        let node = self.nodes.get_mut(&id).expect("a node of the cluster");
        node.life += 1;
        let recovered = node.recover();
        node.position = recovered.position;
        node.applied = recovered.chosen_upto;
        node.flushed = recovered.truncated_upto;
        let mut configurations = node.configurations(first, node.applied);
        if let Some(joined_in) = node.joined_in.clone() {
            configurations = configurations.joined_in(joined_in);
        }
        let leader_priority = self.priorities.get(id.0 as usize - 1).copied().unwrap_or(0);
        let incarnation = node.life;
        let options = Options { incarnation, leader_priority, ..self.options.clone() };
        let (applied, now) = (node.applied, Time(self.now));
        let durable = recovered.truncated_upto;
        node.replica =
            Some(Replica::new(id, configurations, options, recovered, applied, durable, now));
        self.input(id, Input::Tick);
    }

    fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.replica = None;
        if !node.pending.is_empty() {
            let _ = writeln!(self.out, "{id} loses {} records", node.pending.len());
        }
        node.pending.clear();
        node.held.clear();
    }

    fn wait(&mut self, ms: u64, only: &[NodeId]) {
        let mut ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        ids.retain(|id| only.is_empty() || only.contains(id));
        for _ in 0..ms {
            self.now += 1_000;
            for id in &ids {
                let replica = self.nodes[id].replica.as_ref();
                if replica.is_some_and(|replica| replica.deadline() <= Time(self.now)) {
                    self.input(*id, Input::Tick);
                }
            }
        }
    }

    /// The state is flushed, and a segment of the journal is full.
    fn fill(&mut self, id: NodeId, upto: Slot) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.flushed = node.applied;
        let (applied, state) = (node.applied, (Slot::ZERO, 0));
        self.input(id, Input::Applied { upto: applied, durable: applied, state });
        self.input(id, Input::Segment(Segment { upto, bytes: 1 }));
    }

    /// The state is found damaged, and the node goes on.
    fn doubt(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.flushed = Slot::ZERO;
        let (upto, durable, state) = (node.applied, Slot::ZERO, (Slot::ZERO, 0));
        self.input(id, Input::Applied { upto, durable, state });
    }

    fn propose(&mut self, id: NodeId, text: &str) {
        let replica = self.nodes[&id].replica.as_ref().expect("a running node");
        if replica.may_propose(Time(self.now), 1, usize::MAX) {
            let value = Value::Batch(Bytes::copy_from_slice(text.as_bytes()));
            self.input(id, Input::Propose { value, commands: 1 });
        } else {
            let _ = writeln!(self.out, "{id} may not propose");
        }
    }

    fn input(&mut self, id: NodeId, input: Input) {
        self.step(id, input);
        while let Some((from, to, message)) = self.heartbeats.pop_front() {
            self.step(to, Input::Received { from, message });
        }
    }

    fn step(&mut self, id: NodeId, input: Input) {
        let now = Time(self.now);
        let mut effects = Effects::default();
        let Some(replica) = self.nodes.get_mut(&id).and_then(|node| node.replica.as_mut()) else {
            return;
        };
        replica.step(now, input, &mut effects);
        replica.flush(now, &mut effects);
        self.carry_out(id, effects);
    }

    fn carry_out(&mut self, id: NodeId, effects: Effects) {
        let node = self.nodes.get_mut(&id).expect("a node");
        for record in effects.persist {
            let _ = writeln!(self.out, "{id} writes {}", describe_record(&record));
            node.position = Position(node.position.0 + 1);
            node.pending.push((node.position, record));
        }
        for (slot, value) in &effects.chosen {
            let _ = writeln!(self.out, "{id} applies {slot} = {}", describe_value(value));
            node.applied = *slot;
        }
        if let Some(upto) = effects.truncate {
            let _ = writeln!(self.out, "{id} truncates up to {upto}");
        }
        if let Some(SnapshotWanted { from, above }) = effects.snapshot {
            let _ = writeln!(self.out, "{id} wants the state of {from} above {above}");
        }
        for read in effects.reads {
            let index = read.index.map_or("refused".into(), |index| format!("at {index}"));
            let _ = writeln!(self.out, "{id} read {} {index}", read.token.0);
        }
        let loaded: Vec<Input> = effects.load.into_iter().map(|load| node.load(load)).collect();
        let (position, idle) = (node.position, node.pending.is_empty());
        let mut leave = Vec::new();
        for envelope in effects.send_after_durable {
            if idle {
                leave.push((envelope.to, envelope.message));
            } else {
                node.held.push((position, envelope.to, envelope.message));
            }
        }
        leave.extend(effects.send_now.into_iter().map(|e| (e.to, e.message)));
        if !effects.chosen.is_empty() {
            let (upto, durable, state) = (node.applied, node.flushed, (Slot::ZERO, 0));
            self.step(id, Input::Applied { upto, durable, state });
        }
        for (to, message) in leave {
            self.send(id, to, message);
        }
        for input in loaded {
            self.step(id, input);
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if from == to {
            self.step(to, Input::Received { from, message });
        } else if self.cuts.contains(&(from, to)) {
            let line = format!("{from} -x {to} {}\n", describe(&message));
            if !matches!(message, Message::Heartbeat(_)) && !self.out.contains(&line) {
                self.out.push_str(&line);
            }
        } else if matches!(message, Message::Heartbeat(_)) {
            self.heartbeats.push_back((from, to, message));
        } else {
            let _ = writeln!(self.out, "{from} -> {to} {}", describe(&message));
            self.queue.push((from, to, message));
        }
    }

    fn take(
        &mut self,
        what: Option<&str>,
        from: Option<NodeId>,
        to: Option<NodeId>,
    ) -> Vec<(NodeId, NodeId, Message)> {
        let all = std::mem::take(&mut self.queue);
        let fits = |(a, b, message): &(NodeId, NodeId, Message)| {
            let text = describe(message).to_lowercase() + " ";
            what.is_none_or(|what| text.starts_with(&format!("{what} ")))
                && from.is_none_or(|from| from == *a)
                && to.is_none_or(|to| to == *b)
        };
        let (taken, kept) = all.into_iter().partition::<Vec<_>, _>(fits);
        self.queue = kept;
        taken
    }

    fn hand_over(&mut self, taken: Vec<(NodeId, NodeId, Message)>) {
        for (from, to, message) in taken {
            self.input(to, Input::Received { from, message });
        }
    }

    fn sync(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.durable.append(&mut node.pending);
        let position = node.position;
        let held = std::mem::take(&mut node.held);
        self.step(id, Input::Persisted(position));
        for (_, to, message) in held {
            self.send(id, to, message);
        }
        self.input(id, Input::Tick);
    }

    fn settle(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for _ in 0..100 {
            ids.iter().for_each(|id| self.sync(*id));
            if self.queue.is_empty() {
                return;
            }
            let all = std::mem::take(&mut self.queue);
            self.hand_over(all);
        }
        panic!("it does not settle");
    }

    fn print_log(&mut self, id: NodeId) -> std::fmt::Result {
        for (_, record) in &self.nodes[&id].durable {
            writeln!(self.out, "{}", describe_record(record))?;
        }
        Ok(())
    }

    fn print_roles(&mut self) -> std::fmt::Result {
        for (id, node) in &self.nodes {
            let Some(replica) = &node.replica else {
                writeln!(self.out, "{id} down")?;
                continue;
            };
            let status = replica.status(Time(self.now));
            let role = match status.role {
                Role::Follower => "follower ",
                Role::Candidate => "candidate",
                Role::Leader => "leader   ",
            };
            let follows = status.following.map_or("-".into(), |ballot| ballot.to_string());
            let (promised, chosen) = (status.promised, status.chosen_upto);
            writeln!(
                self.out,
                "{id} {role} promised {promised} follows {follows} chosen {chosen}"
            )?;
            if status.configuration > 0 {
                let from = status.configuration_from;
                let removed = if status.removed.is_some() { ", and may go" } else { "" };
                let number = status.configuration;
                writeln!(self.out, "   configuration {number} from {from} on{removed}")?;
            }
        }
        Ok(())
    }
}

impl Node {
    fn empty() -> Node {
        Node {
            life: 0,
            durable: Vec::new(),
            pending: Vec::new(),
            held: Vec::new(),
            position: Position::ZERO,
            replica: None,
            applied: Slot::ZERO,
            flushed: Slot::ZERO,
            snapshot: None,
            joined_in: None,
        }
    }

    /// What its state at this slot would know of the members: what its last snapshot and
    /// the chosen slots of its journal say.
    fn configurations(&self, first: Configuration, upto: Slot) -> Configurations {
        let mut values = BTreeMap::new();
        for (_, record) in &self.durable {
            if let RecordBody::Accepted { slot, value, .. } | RecordBody::Chosen { slot, value } =
                &record.body
            {
                values.insert(*slot, value);
            }
        }
        let mut configurations =
            self.snapshot.clone().unwrap_or_else(|| Configurations::new(first));
        for (slot, value) in values.range(..=upto) {
            if let Value::Configuration(new) = value {
                configurations.receive_chosen(*slot, new);
            }
        }
        configurations
    }

    /// Reads chosen values back, as far as the watermark in the journal covers them.
    fn load(&self, load: Load) -> Input {
        let records: Vec<&Record> =
            self.durable.iter().chain(&self.pending).map(|(_, record)| record).collect();
        let covered = records.last().map_or(Slot::ZERO, |record| record.chosen_upto);
        let value_of = |wanted: Slot| {
            records.iter().rev().find_map(|record| match &record.body {
                RecordBody::Accepted { slot, value, .. } | RecordBody::Chosen { slot, value } => {
                    (*slot == wanted).then(|| value.clone())
                }
                RecordBody::Promise | RecordBody::StartAfter { .. } => None,
            })
        };
        let slots = (load.first.0..=load.last.min(covered).0).map(Slot);
        Input::Loaded { load, values: slots.map_while(value_of).collect() }
    }

    fn recover(&self) -> Recovered {
        let mut recovered = Recovered::empty();
        let mut open = BTreeMap::new();
        for (position, record) in &self.durable {
            recovered.promised = record.promised;
            recovered.chosen_upto = record.chosen_upto;
            recovered.position = *position;
            match &record.body {
                RecordBody::Accepted { slot, ballot, value } => {
                    open.insert(*slot, (Standing::Accepted(*ballot), value.clone()));
                }
                RecordBody::Chosen { slot, value } => {
                    open.insert(*slot, (Standing::Chosen, value.clone()));
                }
                RecordBody::StartAfter { slot } => recovered.truncated_upto = *slot,
                RecordBody::Promise => {}
            }
        }
        let open = open.into_iter().filter(|(slot, _)| *slot > recovered.chosen_upto);
        recovered.open =
            open.map(|(slot, (standing, value))| AcceptedSlot { slot, standing, value }).collect();
        recovered
    }
}

fn describe_value(value: &Value) -> String {
    match value {
        Value::Noop => "no-op".into(),
        Value::Batch(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Configuration(new) => describe_configuration(new),
    }
}

fn describe_configuration(configuration: &Configuration) -> String {
    let names = |nodes: &[NodeId]| {
        nodes.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(",")
    };
    let mut text =
        format!("configuration {}: {}", configuration.number(), names(configuration.voters()));
    if !configuration.learners().is_empty() {
        let _ = write!(text, " learns {}", names(configuration.learners()));
    }
    text
}

fn describe_record(record: &Record) -> String {
    let in_force = format!("(promised {}, chosen {})", record.promised, record.chosen_upto);
    match &record.body {
        RecordBody::Promise => format!("promise {in_force}"),
        RecordBody::Accepted { slot, ballot, value } => {
            format!("accepted {slot} = {} in {ballot} {in_force}", describe_value(value))
        }
        RecordBody::Chosen { slot, value } => {
            format!("chosen {slot} = {} {in_force}", describe_value(value))
        }
        RecordBody::StartAfter { slot } => format!("start after {slot} {in_force}"),
    }
}

fn describe(message: &Message) -> String {
    match message {
        Message::Prepare(m) => format!("Prepare {} from {}", m.ballot, m.from),
        Message::Promise(m) => {
            let mut text = format!("Promise {} chosen {}", m.ballot, m.chosen_upto);
            if m.pages > 1 {
                let _ = write!(text, " page {} of {}", m.page + 1, m.pages);
            }
            for accepted in &m.accepted {
                let standing = match accepted.standing {
                    Standing::Accepted(ballot) => format!("in {ballot}"),
                    Standing::Chosen => "chosen".into(),
                };
                let value = describe_value(&accepted.value);
                let _ = write!(text, ", {} = {value} {standing}", accepted.slot);
            }
            text
        }
        Message::Accept(m) => {
            let value = describe_value(&m.value);
            format!("Accept {} {} = {value}, chosen {}", m.ballot, m.slot, m.chosen_upto)
        }
        Message::Accepted(m) => format!("Accepted {} {}..{}", m.ballot, m.first, m.last),
        Message::Reject(m) => match m.reason {
            RejectReason::Promised(ballot) => format!("Reject {}: promised {ballot}", m.ballot),
            RejectReason::TooFarBehind(slot) => format!("Reject {}: truncated {slot}", m.ballot),
            RejectReason::Truncated(slot) => format!("Reject {}: truncated {slot}", m.ballot),
            RejectReason::BeyondWindow(slot) => format!("Reject {}: window {slot}", m.ballot),
            RejectReason::NoVoter(number) => format!("Reject {}: no voter in {number}", m.ballot),
            RejectReason::NoMember { number, .. } => {
                format!("Reject {}: no member in {number}", m.ballot)
            }
        },
        Message::Watermark(m) => {
            format!("Watermark {} chosen {} round {}", m.ballot, m.chosen_upto, m.read_round)
        }
        Message::ReadEcho(m) => format!("ReadEcho {} round {}", m.ballot, m.read_round),
        Message::ReadIndex(_) => "ReadIndex".into(),
        Message::ReadIndexAnswer(m) => {
            format!("ReadIndexAnswer {}", m.index.map_or("none".into(), |index| index.to_string()))
        }
        Message::Heartbeat(_) => "Heartbeat".into(),
        Message::Fetch(m) => format!("Fetch {}..{}", m.first, m.last),
        Message::Chosen(m) => {
            let values: Vec<String> = m.values.iter().map(describe_value).collect();
            format!("Chosen from {}: {}", m.first, values.join(" "))
        }
        Message::Handover(m) => format!("Handover {} chosen {}", m.ballot, m.chosen_upto),
    }
}
