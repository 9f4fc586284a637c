//! The clients: they ask for one thing after the other, lose patience, ask again,
//! and write down what they were told.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use synod_host::{Event, Refusal, RequestId};
use synod_kv::{
    Command, Compare, Condition, IdempotencyKey, Operation as Write, Outcome, Relation, Revision,
    Target, Txn, TxnOperation, read,
};
use synod_paxos::NodeId;
use synod_wire::command;

use crate::checkers::Check;
use crate::coverage::Rare;
use crate::fault::Fault;
use crate::guests::is_of_guest;
use crate::happening::Happening;
use crate::history::{Answer, Operation, Request, key_bytes, value_bytes, value_name};
use crate::node::Node;
use crate::plan::{Load, Plan};
use crate::words;
use crate::world::World;

/// A request under an idempotency key is sent so often at the most.
const ATTEMPTS_MAX: u32 = 5;

/// What the clients do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Everything.
    Mixed,
    /// One read after the other, of every key in turn.
    Sweep,
    /// Everything, of every node in turn.
    Probe,
    /// They wait for what they asked.
    Stopped,
}

/// An operation that a client waits for.
#[derive(Clone, Copy, Debug)]
struct Open {
    operation: usize,
    attempts: u32,
    /// The cluster time that its first node had applied when it was asked, and when that
    /// was. Its idempotency key is remembered for its time from then on at least.
    asked_ms: u64,
    asked_us: u64,
}

/// One sending of an operation to a node.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    client: usize,
    operation: usize,
    node: NodeId,
    sent_us: u64,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    rng: Rng,
    txn_rng: Rng,
    pub(crate) mode: Mode,
    open: Vec<Option<Open>>,
    attempts: BTreeMap<RequestId, Attempt>,
    pub(crate) operations: Vec<Operation>,
    last_request: u64,
    /// The highest revision that anybody was told.
    told: Revision,
    /// Which key the sweep reads next.
    swept: u8,
    /// How many were sent in turn, and whether the next one is a read.
    probes: usize,
    reads_next: bool,
}

impl Clients {
    pub(crate) fn new(plan: &Plan) -> Self {
        Clients {
            rng: plan.rng(0xc11e),
            txn_rng: plan.rng(0x7a11),
            mode: Mode::Mixed,
            open: vec![None; plan.load.clients],
            attempts: BTreeMap::new(),
            operations: Vec::new(),
            last_request: 0,
            told: Revision(0),
            swept: 0,
            probes: 0,
            reads_next: false,
        }
    }

    /// Any living node; of a healed quorum one after the other.
    fn draw_node(&mut self, living: &[NodeId]) -> NodeId {
        match self.mode {
            Mode::Mixed => living[self.rng.usize(..living.len())],
            Mode::Probe | Mode::Sweep | Mode::Stopped => {
                self.probes += 1;
                // Each node is asked for a write, then each for a read.
                self.reads_next = (self.probes / living.len()).is_multiple_of(2);
                living[self.probes % living.len()]
            }
        }
    }

    /// Invents what a client asks for next.
    fn invent(&mut self, client: usize, load: &Load, now_us: u64) -> Operation {
        let sweeps = self.mode == Mode::Sweep;
        let (rng, told) = (&mut self.rng, self.told);
        let mut key = rng.u8(..load.keys);
        if sweeps {
            key = self.swept % load.keys;
            self.swept = self.swept.wrapping_add(1) % load.keys;
        }
        let condition = match rng.u8(..6) {
            0 => Condition::Absent,
            1 => Condition::Exists,
            2 => Condition::At(Revision(told.0.saturating_sub(rng.u64(..6)))),
            _ => Condition::Always,
        };
        let reads = match self.mode {
            Mode::Mixed => rng.u8(..100) < load.reads_percent,
            Mode::Probe => self.reads_next,
            Mode::Sweep | Mode::Stopped => true,
        };
        let keyed = !reads && rng.u8(..100) < load.keyed_percent;
        let name = self.operations.len() as u64;
        let request = match (reads, rng.u8(..4)) {
            (true, _) => Request::Get,
            (false, 0) => Request::Delete(condition),
            (false, _) => Request::Put(condition),
        };
        let padding_bytes = rng.usize(..=load.padding_bytes_max);
        let want_previous = rng.bool();
        let request = self.as_transaction(request, key, load);
        let command = encode(name, key, request, keyed, padding_bytes, want_previous);
        let (returned, ambiguous, floor) = (None, false, told);
        Operation {
            client,
            key,
            request,
            keyed,
            command,
            called_us: now_us,
            returned,
            ambiguous,
            floor,
        }
    }

    /// Some puts are parts of a transaction. Drawn apart, so that a client draws what it
    /// always drew besides.
    fn as_transaction(&mut self, request: Request, key: u8, load: &Load) -> Request {
        let Request::Put(condition) = request else { return request };
        if load.keys < 2 || self.txn_rng.u8(..100) >= load.txn_percent {
            return request;
        }
        // A comparison takes a key that is not there for one of revision 0.
        let condition = match condition {
            Condition::At(Revision(0)) => Condition::Absent,
            condition => condition,
        };
        let other = (key + self.txn_rng.u8(1..load.keys)) % load.keys;
        Request::Txn { condition, other, removes: self.txn_rng.bool() }
    }

    /// The highest revision that anybody was told.
    pub(crate) fn told(&self) -> Revision {
        self.told
    }

    fn take(&mut self, request: RequestId) -> Option<Attempt> {
        self.attempts.remove(&request)
    }
}

fn encode(
    name: u64,
    key: u8,
    request: Request,
    keyed: bool,
    padding_bytes: usize,
    want_previous: bool,
) -> Bytes {
    let key = key_bytes(key);
    let operation = match request {
        Request::Get => return Bytes::new(),
        Request::Put(condition) => {
            let value = value_bytes(name, padding_bytes);
            Write::Put { key, value, condition, want_previous }
        }
        Request::Delete(condition) => Write::Delete { key, condition, want_previous },
        Request::Txn { condition, other, removes } => {
            let value = value_bytes(name, padding_bytes);
            Write::Txn(transaction((key, key_bytes(other)), value, condition, removes))
        }
    };
    let idempotency = keyed.then(|| IdempotencyKey {
        key: Bytes::from(name.to_le_bytes().to_vec()),
        request_hash: u128::from(name),
        asked_ms: 0,
    });
    command::encode(&Command { idempotency, operation })
}

fn transaction(
    (key, other): (Bytes, Bytes),
    value: Bytes,
    condition: Condition,
    removes: bool,
) -> Txn {
    let compares = match condition {
        Condition::Always => None,
        Condition::Absent => Some((Relation::Equal, Target::Version(0))),
        Condition::Exists => Some((Relation::Greater, Target::Create(Revision(0)))),
        Condition::At(revision) => Some((Relation::Equal, Target::Mod(revision))),
    };
    let compare = |(relation, target)| Compare { key: key.clone(), relation, target };
    let put = |key: &Bytes| TxnOperation::Put {
        key: key.clone(),
        value: value.clone(),
        lease: None,
        want_previous: true,
    };
    let second = match removes {
        true => TxnOperation::Delete { key: other.clone(), want_previous: true },
        false => put(&other),
    };
    Txn {
        compares: compares.into_iter().map(compare).collect(),
        success: vec![put(&key), second],
        failure: [&key, &other].map(|key| TxnOperation::Get { key: key.clone() }).to_vec(),
    }
}

/// A command under an idempotency key, as a node writes it down that has applied this time.
fn asked_at(encoded: &Bytes, asked_ms: u64) -> Bytes {
    let mut command = command::decode(encoded.clone()).expect("it was encoded here");
    command.idempotency.as_mut().expect("it has a key").asked_ms = asked_ms;
    command::encode(&command)
}

impl World<'_> {
    /// A client without anything open asks for something, or asks again.
    pub(crate) fn ask(&mut self, client: usize) -> Check {
        self.dismiss_removed();
        // Of the healed those that must answer; others only help them.
        let liveness = self.checks.liveness.as_ref();
        let is_asked = |node: &&Node| {
            node.process.is_some() && liveness.is_none_or(|liveness| liveness.watches(node.id))
        };
        let living: Vec<NodeId> = self.nodes.iter().filter(is_asked).map(|n| n.id).collect();
        if self.clients.mode == Mode::Stopped && self.clients.open[client].is_none() {
            return Ok(());
        }
        if living.is_empty() {
            self.at(50_000, Happening::Client { client });
            return Ok(());
        }
        let node = self.clients.draw_node(&living);
        let asked_ms = self.applied_ms(node);
        let open = match self.clients.open[client] {
            Some(open) => Open { attempts: open.attempts + 1, ..open },
            None => {
                let operation = self.clients.invent(client, &self.plan.load, self.now_us);
                self.clients.operations.push(operation);
                let operation = self.clients.operations.len() - 1;
                Open { operation, attempts: 1, asked_ms, asked_us: self.now_us }
            }
        };
        if self.is_key_over(&open, asked_ms) {
            self.clients.operations[open.operation].ambiguous = true;
            self.rest(client);
            return Ok(());
        }
        self.clients.open[client] = Some(open);
        self.attempt(client, open.operation, node, asked_ms)
    }

    /// Whether an attempt at this time may be a new request to the cluster. Clients go by
    /// their clocks. Only where those of nodes are wrong on purpose they must know better.
    fn is_key_over(&self, open: &Open, asked_ms: u64) -> bool {
        let ttl_ms = self.plan.keys.ttl_ms;
        if [Fault::ClockRate, Fault::ClockJump].iter().any(|fault| self.plan.percent(*fault) > 0) {
            asked_ms >= open.asked_ms.saturating_add(ttl_ms)
        } else {
            self.now_us >= open.asked_us.saturating_add(ttl_ms * 1_000)
        }
    }

    /// The cluster time that a living node has applied.
    fn applied_ms(&self, id: NodeId) -> u64 {
        let process =
            self.nodes[id.0 as usize - 1].process.as_ref().expect("it was chosen among the living");
        process.machine.cluster_time_ms()
    }

    fn attempt(&mut self, client: usize, operation: usize, id: NodeId, asked_ms: u64) -> Check {
        let now_us = self.now_us;
        let clients = &mut self.clients;
        clients.last_request += 1;
        let request = RequestId(clients.last_request);
        let attempt = Attempt { client, operation, node: id, sent_us: now_us };
        clients.attempts.insert(request, attempt);
        let patience_us = clients.rng.u64(100_000..2_000_000);
        let Operation { command, key, request: asked, keyed, .. } = &clients.operations[operation];
        let is_write = *asked != Request::Get;
        let command = if *keyed { asked_at(command, asked_ms) } else { command.clone() };
        self.trace.note(
            now_us,
            [words::ASKS, request.0, operation as u64, u64::from(id.0)],
            || {
                let under = if *keyed { " under a key" } else { "" };
                format!("client {client} asks {id}: #{operation} {asked:?} key {key}{under}")
            },
        );
        self.at(patience_us + 200_000, Happening::GiveUp { request });
        let node = self.node(id);
        let (life, deadline) = (node.life, node.clock.read(now_us).plus_us(patience_us));
        if is_write {
            let sent = command.clone();
            self.checks.exactly_once.submitted(id.0, life, request, operation, sent);
            self.hear(id, Event::Write { request, command, deadline })
        } else {
            self.hear(id, Event::Read { request, deadline })
        }
    }

    /// A read is safe now: what does it see?
    pub(crate) fn read_ready(&mut self, id: NodeId, request: RequestId) -> Check {
        if is_of_guest(request) {
            return self.confirmed(id, request);
        }
        if self.confirm_backup(id, request) {
            return Ok(());
        }
        let Some(attempt) = self.clients.attempts.get(&request) else { return Ok(()) };
        let key = key_bytes(self.clients.operations[attempt.operation].key);
        let process = self.node(id).process.as_ref().expect("it steps");
        let map = process.machine.map();
        let (Ok(record), Ok(revision)) = (read::get(map, &key), read::revision(map)) else {
            return self.doubt_state(id);
        };
        let found = record.map(|record| (value_name(&record.value), record.mod_revision));
        self.answered(id, request, Answer::Found(found, revision));
        Ok(())
    }

    /// A node answers.
    pub(crate) fn answered(&mut self, id: NodeId, request: RequestId, answer: Answer) {
        let now_us = self.now_us;
        let Some(attempt) = self.clients.take(request) else { return };
        let Attempt { client, operation: index, sent_us, .. } = attempt;
        self.note_answer(&answer);
        let is_late = matches!(answer, Answer::Outcome(Outcome::IdempotencyLate { .. }));
        self.trace.note(
            now_us,
            [words::ANSWERS, request.0, index as u64, revision_of(&answer).0],
            || format!("{id} answers client {client}: #{index} {answer:?}"),
        );
        if is_late && let Some(liveness) = &mut self.checks.liveness {
            liveness.refused_late(id, sent_us);
        }
        // It had no effect, so it may be asked again, under the key that it has.
        if is_late && self.asks_again(client) {
            return;
        }
        let operation = &mut self.clients.operations[index];
        if let Some(liveness) = self.checks.liveness.as_mut().filter(|_| !is_late) {
            liveness.answered(id, operation.is_write(), sent_us, now_us);
        }
        operation.returned = Some((now_us, answer));
        self.clients.told = self.clients.told.max(revision_of_last(operation));
        self.rest(client);
    }

    /// A node will never send what it was asked, or will never know what became of it.
    ///
    /// # Errors
    /// When it says that it may have sent what nobody took.
    pub(crate) fn refused(&mut self, id: NodeId, request: RequestId, refusal: Refusal) -> Check {
        let (now_us, life) = (self.now_us, self.node(id).life);
        self.coverage.rare(match refusal {
            Refusal::NoLeader => Rare::RefusedNoLeader,
            Refusal::Overloaded => Rare::RefusedOverloaded,
            Refusal::Unknown => Rare::UnknownBySnapshot,
        });
        if refusal == Refusal::Unknown {
            self.checks.exactly_once.unknown(id.0, life, request)?;
            if is_of_guest(request) {
                return self.refused_beside(request);
            }
            if let Some(attempt) = self.clients.take(request) {
                self.lost(attempt);
            }
            return Ok(());
        }
        if self.refuse_backup(request) {
            return Ok(());
        }
        self.checks.exactly_once.refused(id.0, life, request);
        if is_of_guest(request) {
            return self.refused_beside(request);
        }
        let Some(attempt) = self.clients.take(request) else { return Ok(()) };
        self.trace.note(now_us, [words::REFUSES, request.0, u64::from(id.0), 0], || {
            format!("{id} refuses #{}: {refusal:?}", attempt.operation)
        });
        if !self.asks_again(attempt.client) {
            let operation = &mut self.clients.operations[attempt.operation];
            if !operation.ambiguous {
                operation.returned = Some((now_us, Answer::Refused));
            }
            self.rest(attempt.client);
        }
        Ok(())
    }

    /// A client's patience with one attempt is over.
    pub(crate) fn give_up(&mut self, request: RequestId) {
        if let Some(attempt) = self.clients.take(request) {
            self.trace.note(self.now_us, [words::GIVES_UP, request.0, 0, 0], || {
                format!("client {} gives up on #{}", attempt.client, attempt.operation)
            });
            self.lost(attempt);
        }
    }

    /// A node's process is gone, and its clients' connections with it.
    pub(crate) fn disconnect_clients(&mut self, id: NodeId) {
        let open = self.clients.attempts.iter().filter(|(_, attempt)| attempt.node == id);
        let requests: Vec<RequestId> = open.map(|(request, _)| *request).collect();
        for request in requests {
            let attempt = self.clients.take(request).expect("just seen");
            self.lost(attempt);
        }
    }

    /// Nobody will say what became of this attempt.
    fn lost(&mut self, attempt: Attempt) {
        self.clients.operations[attempt.operation].ambiguous = true;
        if !self.asks_again(attempt.client) {
            self.rest(attempt.client);
        }
    }

    /// With a key a client may ask again. Says whether it does.
    fn asks_again(&mut self, client: usize) -> bool {
        let Some(open) = self.clients.open[client] else { return false };
        let keyed = self.clients.operations[open.operation].keyed;
        let again = keyed && open.attempts < ATTEMPTS_MAX;
        if again {
            let delay_us = self.clients.rng.u64(1_000..100_000);
            self.at(delay_us, Happening::Client { client });
        }
        again
    }

    /// A client is done with its operation, and thinks of the next.
    fn rest(&mut self, client: usize) {
        self.clients.open[client] = None;
        let think_us = match self.clients.mode {
            Mode::Mixed | Mode::Probe => self.clients.rng.u64(1_000..self.plan.load.think_us * 2),
            Mode::Sweep | Mode::Stopped => 10_000,
        };
        self.at(think_us, Happening::Client { client });
    }

    fn note_answer(&mut self, answer: &Answer) {
        match answer {
            Answer::Outcome(Outcome::ConditionFailed { .. }) => {
                self.coverage.rare(Rare::ConditionFailed);
            }
            Answer::Outcome(Outcome::Txn { succeeded, .. }) => {
                self.coverage.rare(if *succeeded { Rare::TxnDone } else { Rare::TxnNotDone });
            }
            Answer::Outcome(Outcome::IdempotencyFull { .. }) => {
                self.coverage.rare(Rare::KeyTableFull);
            }
            Answer::Outcome(Outcome::IdempotencyLate { .. }) => {
                self.coverage.rare(Rare::AttemptLate);
            }
            _ => {}
        }
    }
}

fn revision_of_last(operation: &Operation) -> Revision {
    operation.returned.as_ref().map_or(Revision(0), |(_, answer)| revision_of(answer))
}

fn revision_of(answer: &Answer) -> Revision {
    match answer {
        Answer::Refused => Revision(0),
        Answer::Found(_, revision) => *revision,
        Answer::Outcome(outcome) => outcome.revision(),
    }
}
