//! Guests of the cluster beside the clients: who holds leases, and what they ask for. Who keeps
//! the time of leases stands in [`crate::keepers`], who watches in [`crate::watchers`].
//!
//! A holder is told that its lease is kept by the leader, once a quorum confirmed that it
//! leads, or else through the log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use synod_host::timekeeper::{Expired, Proposal};
use synod_host::{Event, RequestId};
use synod_kv::{
    Command, LeaseEpoch, LeaseId, LeaseOperation, Operation, Outcome, Revision, Txn, TxnOperation,
    lease,
};
use synod_paxos::NodeId;
use synod_wire::command;

use crate::checkers::story::BESIDE;
use crate::checkers::{Check, leases};
use crate::client::Mode;
use crate::coverage::Rare;
use crate::fault::Fault;
use crate::keepers::Shell;
use crate::mistakes::Mistake;
use crate::node::Took;
use crate::plan::Plan;
use crate::watchers::Watcher;
use crate::words;
use crate::world::{Happening, World};

/// Requests of guests are numbered from here on, those of clients stay below.
const REQUESTS_FROM: u64 = 1 << 48;
/// How long a holder waits, and how long whoever keeps the time.
const PATIENCE_US: u64 = 2_000_000;
const KEEPER_PATIENCE_US: u64 = 5_000_000;
/// Keys of each holder.
const KEYS: u8 = 4;

/// What a guest does at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Visit {
    /// A holder has nothing to do.
    Holder(usize),
    /// A node looks who leads and what is over.
    Look { node: NodeId, life: u64 },
    /// A node's epoch has begun, and it counts all leases from now on.
    Begin { node: NodeId, life: u64, epoch: LeaseEpoch },
    /// A watch is told more, or connects.
    Watcher(usize),
    /// An operator has what was replaced forgotten.
    Compact,
    /// Nobody waits any more.
    GiveUp(RequestId),
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// By a holder: a lease, a change of its keys, the end of its lease.
    Grant(usize),
    Change(usize, LeaseId),
    Revoke(usize),
    /// By a holder, through the log.
    Keep(usize, LeaseId),
    /// By a leader for a holder: whether it still leads.
    Confirm {
        holder: usize,
        id: LeaseId,
        epoch: LeaseEpoch,
        is_noted: bool,
    },
    /// By a leader for itself.
    Epoch,
    Expire(Proposal),
    /// By a watch: from where on to be told.
    Start {
        watcher: usize,
        floor: Revision,
    },
    /// By an operator.
    Compact,
}

/// A request that waits for its answer.
#[derive(Clone, Debug)]
struct Asked {
    ask: Ask,
    node: NodeId,
    life: u64,
    asked_us: u64,
}

#[derive(Clone, Debug, Default)]
struct Holder {
    lease: Option<LeaseId>,
    written: u64,
}

/// All guests.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(crate) rng: Rng,
    /// The keeper wants moments, and there is no other way to get the first. Only
    /// what lies between two of them matters.
    pub(crate) base: Instant,
    last_request: u64,
    asked: BTreeMap<RequestId, Asked>,
    holders: Vec<Holder>,
    pub(crate) shells: BTreeMap<NodeId, Shell>,
    pub(crate) watchers: Vec<Watcher>,
}

/// Whether it is a guest's.
pub(crate) fn is_of_guest(request: RequestId) -> bool {
    request.0 >= REQUESTS_FROM
}

/// What a lease may be promised by the clocks of this run.
pub(crate) fn checker(plan: &Plan) -> leases::Leases {
    let rate_max = if plan.percent(Fault::ClockRate) > 0 { 2 } else { 1 };
    let removes_max = plan.guests.as_ref().map_or(u32::MAX, |guests| guests.removes_max);
    leases::Leases::new(rate_max, u64::from(removes_max))
}

impl Guests {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut rng = plan.rng(0x90e5);
        let (holders, watchers) =
            plan.guests.as_ref().map_or((0, 0), |guests| (guests.holders, guests.watchers));
        Guests {
            base: Instant::now(),
            last_request: REQUESTS_FROM,
            asked: BTreeMap::new(),
            holders: vec![Holder::default(); holders],
            shells: BTreeMap::new(),
            watchers: (0..watchers).map(|_| Watcher::new(&mut rng)).collect(),
            rng,
        }
    }

    /// A node took a command; before the commit.
    pub(crate) fn applied(&mut self, id: NodeId, life: u64, took: &Took) {
        let Some(shell) = self.shell(id, life) else { return };
        let command = command::decode(took.command.clone()).expect("a chosen command can be read");
        shell.news.tell(&command, &took.taken);
    }

    /// A node has committed.
    pub(crate) fn committed(&mut self, id: NodeId, life: u64) {
        if let Some(shell) = self.shell(id, life) {
            shell.commits += 1;
        }
    }

    pub(crate) fn shell(&mut self, id: NodeId, life: u64) -> Option<&mut Shell> {
        self.shells.get_mut(&id).filter(|shell| shell.life == life)
    }
}

impl World<'_> {
    /// Everybody comes for the first time.
    pub(crate) fn invite(&mut self) {
        let Some(plan) = self.plan.guests.clone() else { return };
        for holder in 0..plan.holders {
            self.visit(2_000, Visit::Holder(holder));
        }
        for watcher in 0..plan.watchers {
            self.visit(2_000, Visit::Watcher(watcher));
        }
        if plan.compacts {
            self.visit(5_000_000, Visit::Compact);
        }
    }

    /// A process begins: its shell looks after leases.
    pub(crate) fn begin_looking(&mut self, id: NodeId, life: u64) {
        if self.plan.guests.is_some() {
            self.guests.shells.insert(id, Shell { life, ..Shell::default() });
            self.visit(1_000, Visit::Look { node: id, life });
        }
    }

    pub(crate) fn visit(&mut self, delay_us: u64, visit: Visit) {
        self.at(delay_us, Happening::Guest(visit));
    }

    /// A guest's turn.
    pub(crate) fn receive_guest(&mut self, visit: Visit) -> Check {
        match visit {
            Visit::Holder(holder) => self.hold(holder),
            Visit::Look { node, life } => self.look(node, life),
            Visit::Begin { node, life, epoch } => self.begin_epoch(node, life, epoch),
            Visit::Watcher(watcher) => self.watch(watcher),
            Visit::Compact => self.compact(),
            Visit::GiveUp(request) => match self.guests.asked.remove(&request) {
                Some(asked) => self.unanswered(&asked),
                None => Ok(()),
            },
        }
    }

    /// Nodes with a process that is not paused.
    pub(crate) fn draw_running(&mut self) -> Option<NodeId> {
        let running: Vec<NodeId> =
            self.nodes.iter().filter(|node| node.is_running()).map(|node| node.id).collect();
        (!running.is_empty()).then(|| running[self.guests.rng.usize(..running.len())])
    }

    /// Asks a node for a command, or to confirm that what it has is the newest.
    pub(crate) fn ask_beside(
        &mut self,
        id: NodeId,
        ask: Ask,
        operation: Option<Operation>,
        asked_us: u64,
    ) -> Check {
        let now_us = self.now_us;
        self.guests.last_request += 1;
        let request = RequestId(self.guests.last_request);
        let is_keeper = matches!(ask, Ask::Epoch | Ask::Expire(_));
        let patience_us = if is_keeper { KEEPER_PATIENCE_US } else { PATIENCE_US };
        self.trace.note(now_us, [words::GUEST, request.0, u64::from(id.0), 0], || {
            format!("a guest asks {id}: {ask:?} {operation:?}")
        });
        let node = self.node(id);
        let (life, deadline) = (node.life, node.clock.read(now_us).plus_us(patience_us));
        self.guests.asked.insert(request, Asked { ask, node: id, life, asked_us });
        self.visit(patience_us + 200_000, Visit::GiveUp(request));
        match operation {
            Some(operation) => {
                let command = command::encode(&Command { idempotency: None, operation });
                self.checks.exactly_once.submitted_beside(id.0, life, request, command.clone());
                self.hear(id, Event::Write { request, command, deadline })
            }
            None => self.hear(id, Event::Read { request, deadline }),
        }
    }

    /// A node answers a guest's command.
    pub(crate) fn answered_beside(
        &mut self,
        id: NodeId,
        request: RequestId,
        outcome: &Outcome,
    ) -> Check {
        let now_us = self.now_us;
        let Some(asked) = self.guests.asked.remove(&request) else { return Ok(()) };
        self.trace.note(
            now_us,
            [words::GUEST, request.0, u64::from(id.0), outcome.revision().0 + 1],
            || format!("{id} answers a guest: {:?} had {outcome:?}", asked.ask),
        );
        match (&asked.ask, outcome) {
            (Ask::Grant(holder), Outcome::LeaseGranted { id, .. }) => {
                self.guests.holders[*holder].lease = Some(*id);
                self.checks.leases.kept(*id, asked.asked_us, now_us)?;
            }
            // It is its own: nobody heard of its grant.
            (Ask::Grant(holder), Outcome::LeaseExists { id, .. }) => {
                self.guests.holders[*holder].lease = Some(*id);
            }
            (Ask::Keep(holder, id), Outcome::LeasesKept { ttls_ms, .. }) => {
                self.coverage.rare(Rare::LeaseKeptByLog);
                self.told_of_lease(*holder, *id, ttls_ms[0].is_some(), asked.asked_us)?;
            }
            (Ask::Change(holder, id), Outcome::LeaseNotFound { .. }) => {
                self.told_of_lease(*holder, *id, false, asked.asked_us)?;
            }
            (Ask::Revoke(holder), _) => self.guests.holders[*holder].lease = None,
            (Ask::Epoch, Outcome::LeaseEpochBegun { epoch, .. }) => {
                let delay_us = self.guests.rng.u64(..20_000);
                let (life, epoch) = (asked.life, *epoch);
                self.visit(delay_us, Visit::Begin { node: id, life, epoch });
            }
            (Ask::Expire(proposal), outcome) => {
                let expired = match outcome {
                    Outcome::LeaseEnded { more: true, .. } => Expired::More,
                    Outcome::LeaseEnded { .. } | Outcome::LeaseNotFound { .. } => Expired::Gone,
                    Outcome::LeaseExpiryOld { .. } => Expired::Old,
                    _ => Expired::Unknown,
                };
                self.learn(id, asked.life, proposal, expired);
            }
            _ => {}
        }
        self.rest_holder(&asked.ask);
        Ok(())
    }

    /// A node confirmed that what it has is the newest.
    pub(crate) fn confirmed(&mut self, id: NodeId, request: RequestId) -> Check {
        let Some(asked) = self.guests.asked.remove(&request) else { return Ok(()) };
        match asked.ask {
            Ask::Confirm { holder, id: lease, epoch, is_noted } => {
                self.confirm(id, (holder, lease), epoch, is_noted, asked.asked_us)
            }
            Ask::Start { watcher, floor } => self.start_watch(watcher, id, floor),
            other => unreachable!("{other:?} is no read"),
        }
    }

    /// A node refuses a guest, or does not know what became of its command.
    pub(crate) fn refused_beside(&mut self, request: RequestId) -> Check {
        match self.guests.asked.remove(&request) {
            Some(asked) => self.unanswered(&asked),
            None => Ok(()),
        }
    }

    fn unanswered(&mut self, asked: &Asked) -> Check {
        match &asked.ask {
            Ask::Epoch => {
                if let Some(shell) = self.guests.shell(asked.node, asked.life) {
                    shell.is_beginning = false;
                }
            }
            Ask::Expire(proposal) => {
                self.learn(asked.node, asked.life, proposal, Expired::Unknown);
            }
            Ask::Start { watcher, .. } => self.guests.watchers[*watcher].starts_again(),
            _ => {}
        }
        self.rest_holder(&asked.ask);
        Ok(())
    }

    /// A holder is done, and lets some of the time to live pass.
    fn rest_holder(&mut self, ask: &Ask) {
        let holder = match ask {
            Ask::Grant(holder) | Ask::Revoke(holder) => *holder,
            Ask::Keep(holder, _) | Ask::Change(holder, _) => *holder,
            Ask::Confirm { holder, .. } => *holder,
            _ => return,
        };
        let Some(plan) = &self.plan.guests else { return };
        let rng = &mut self.guests.rng;
        let permille = match rng.u8(..8) {
            0 => rng.u64(1_500..3_000),
            1..3 => rng.u64(900..1_100),
            _ => rng.u64(100..700),
        };
        let think_us = plan.ttl_ms * permille;
        self.visit(think_us, Visit::Holder(holder));
    }

    /// A holder asks for something.
    fn hold(&mut self, holder: usize) -> Check {
        let now_us = self.now_us;
        if matches!(self.clients.mode, Mode::Sweep | Mode::Stopped) {
            return Ok(());
        }
        let Some(mut id) = self.draw_running() else {
            self.visit(100_000, Visit::Holder(holder));
            return Ok(());
        };
        let leads = |node: &&crate::node::Node| {
            node.is_running() && node.process.as_ref().is_some_and(|process| process.leads)
        };
        // Whoever holds itself for the leader; of two either.
        if self.guests.rng.u8(..4) > 0 {
            let leaders: Vec<NodeId> =
                self.nodes.iter().filter(leads).map(|node| node.id).collect();
            if !leaders.is_empty() {
                id = leaders[self.guests.rng.usize(..leaders.len())];
            }
        }
        let ttl_ms = self.plan.guests.as_ref().expect("there are holders").ttl_ms;
        let rng = &mut self.guests.rng;
        let Some(lease) = self.guests.holders[holder].lease else {
            let own = 100 * (holder as u64 + 1) + rng.u64(..2);
            let wanted = rng.bool().then_some(LeaseId(own));
            let grant = Operation::Lease(LeaseOperation::Grant { id: wanted, ttl_ms });
            return self.ask_beside(id, Ask::Grant(holder), Some(grant), now_us);
        };
        match rng.u8(..16) {
            0..10 => self.keep(holder, lease, id),
            10..15 => {
                let change = self.guests.change(holder, lease);
                self.ask_beside(id, Ask::Change(holder, lease), Some(change), now_us)
            }
            _ => {
                let revoke = Operation::Lease(LeaseOperation::Revoke { id: lease });
                self.ask_beside(id, Ask::Revoke(holder), Some(revoke), now_us)
            }
        }
    }

    /// A node is asked to keep a lease: as the leader it need not write.
    fn keep(&mut self, holder: usize, lease: LeaseId, id: NodeId) -> Check {
        let now_us = self.now_us;
        let node = &self.nodes[id.0 as usize - 1];
        let (life, mistake) = (node.life, node.mistake);
        let moment = self.guests.base + Duration::from_micros(node.clock.read(now_us).0);
        if let Some(shell) = self.guests.shell(id, life)
            && let Some(epoch) = shell.keeper.epoch()
        {
            shell.keeper.look(moment);
            let is_noted = shell.keeper.renew(lease);
            if mistake == Some(Mistake::RenewedUnconfirmed) {
                return self.confirm(id, (holder, lease), epoch, is_noted, now_us);
            }
            let ask = Ask::Confirm { holder, id: lease, epoch, is_noted };
            return self.ask_beside(id, ask, None, now_us);
        }
        self.keep_by_log(id, holder, lease, now_us)
    }

    fn keep_by_log(&mut self, id: NodeId, holder: usize, lease: LeaseId, asked_us: u64) -> Check {
        let keep = Operation::Lease(LeaseOperation::KeepAlive { ids: vec![lease] });
        self.ask_beside(id, Ask::Keep(holder, lease), Some(keep), asked_us)
    }

    fn confirm(
        &mut self,
        id: NodeId,
        (holder, lease): (usize, LeaseId),
        epoch: LeaseEpoch,
        is_noted: bool,
        asked_us: u64,
    ) -> Check {
        let process = self.node(id).process.as_ref().expect("it steps");
        let map = process.machine.map();
        let (Ok(current), Ok(found)) = (lease::epoch(map), lease::find(map, lease)) else {
            self.rest_holder(&Ask::Revoke(holder));
            return self.doubt_state(id);
        };
        let is_there = found.is_some_and(|found| !found.is_ending);
        if current != epoch || is_there && !is_noted {
            return self.keep_by_log(id, holder, lease, asked_us);
        }
        if is_there {
            self.coverage.rare(Rare::LeaseKeptByLeader);
        }
        self.rest_holder(&Ask::Revoke(holder));
        self.told_of_lease(holder, lease, is_there, asked_us)
    }

    fn told_of_lease(
        &mut self,
        holder: usize,
        id: LeaseId,
        is_there: bool,
        asked_us: u64,
    ) -> Check {
        if is_there {
            return self.checks.leases.kept(id, asked_us, self.now_us);
        }
        self.guests.holders[holder].lease = None;
        self.checks.leases.gone(id, asked_us)
    }

    /// A snapshot took the place of a node's state.
    pub(crate) fn note_replaced(&mut self, id: NodeId) {
        if let Some(shell) = self.guests.shells.get(&id) {
            shell.news.cut();
        }
        if self.guests.watchers.iter().any(|watcher| watcher.is_at(id)) {
            self.coverage.rare(Rare::WatchOverSnapshot);
        }
    }

    /// An operator has what was replaced forgotten, up to a moment ago.
    fn compact(&mut self) -> Check {
        let delay_us = self.guests.rng.u64(1_000_000..15_000_000);
        self.visit(delay_us, Visit::Compact);
        let back = self.guests.rng.u64(..60);
        let upto = Revision(self.checks.story.revision().0.saturating_sub(back));
        let is_over = matches!(self.clients.mode, Mode::Sweep | Mode::Stopped);
        let Some(id) = self.draw_running().filter(|_| upto.0 > 0 && !is_over) else {
            return Ok(());
        };
        let compact = Operation::Compact { revision: upto };
        self.ask_beside(id, Ask::Compact, Some(compact), self.now_us)
    }

    /// How long a lease may be there that nobody keeps, when all is well: its time, that of a
    /// new leader, and that of an attempt to end it of which nobody heard.
    pub(crate) fn lease_bound_us(&self, living: &[NodeId]) -> u64 {
        let ttl_us = self.plan.guests.as_ref().map_or(0, |guests| guests.ttl_ms * 1_000);
        2 * ttl_us + 2 * KEEPER_PATIENCE_US + self.progress_bound_us(living)
    }
}

impl Guests {
    /// What a holder does with its keys: puts one or two of them under its lease or under
    /// none, or puts one and removes another.
    fn change(&mut self, holder: usize, lease: LeaseId) -> Operation {
        let first = self.rng.u8(..KEYS);
        let second = (first + self.rng.u8(1..KEYS)) % KEYS;
        self.holders[holder].written += 1;
        let value = Bytes::from(self.holders[holder].written.to_le_bytes().to_vec());
        let number = u8::try_from(holder).expect("few holders");
        let key = |key: u8| Bytes::from([BESIDE, &[number, key]].concat());
        let put = |at: u8, lease| {
            let (key, value) = (key(at), value.clone());
            TxnOperation::Put { key, value, lease, want_previous: false }
        };
        let success = match self.rng.u8(..8) {
            0..3 => vec![put(first, Some(lease))],
            3..5 => vec![put(first, Some(lease)), put(second, Some(lease))],
            5 => vec![put(first, None)],
            6 => vec![put(first, Some(lease)), put(second, None)],
            _ => {
                let delete = TxnOperation::Delete { key: key(second), want_previous: false };
                vec![put(first, Some(lease)), delete]
            }
        };
        Operation::Txn(Txn { success, ..Txn::default() })
    }
}
