//! Guests of the cluster beside the clients, and what they ask its nodes. Who holds leases stands
//! in [`crate::holders`], who keeps their time in [`crate::keepers`], who watches in
//! [`crate::watchers`].

use std::collections::BTreeMap;
use std::time::Instant;

use fastrand::Rng;
use synod_host::timekeeper::{Expired, Proposal};
use synod_host::{Event, RequestId};
use synod_kv::{
    Command, LeaseEpoch, LeaseId, MapError, Operation, Outcome, Revision, StateMachine,
};
use synod_paxos::NodeId;
use synod_wire::command;

use crate::checkers::{Check, leases};
use crate::client::Mode;
use crate::coverage::Rare;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::holders::Holder;
use crate::keepers::Shell;
use crate::node::Took;
use crate::plan::Plan;
use crate::store::Store;
use crate::watchers::Watcher;
use crate::words;
use crate::world::World;

/// Requests of guests are numbered from here on, those of clients stay below.
const REQUESTS_FROM: u64 = 1 << 48;
/// How long a holder waits, and how long whoever keeps the time.
const PATIENCE_US: u64 = 2_000_000;
const KEEPER_PATIENCE_US: u64 = 5_000_000;

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

/// All guests.
#[derive(Debug)]
pub(crate) struct Guests {
    pub(crate) rng: Rng,
    /// The keeper wants moments, and there is no other way to get the first. Only
    /// what lies between two of them matters.
    pub(crate) base: Instant,
    last_request: u64,
    asked: BTreeMap<RequestId, Asked>,
    pub(crate) holders: Vec<Holder>,
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

    /// A node has applied a slot with this command; before the commit.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(crate) fn applied(
        &mut self,
        id: NodeId,
        machine: &StateMachine<Store>,
        took: &Took,
    ) -> Result<(), MapError> {
        let Some(shell) = self.shells.get(&id) else { return Ok(()) };
        let command = command::decode(took.command.clone()).expect("a chosen command can be read");
        shell.news.tell(machine.applied_slot(), &command, &took.taken, |id| machine.lease(id))
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
