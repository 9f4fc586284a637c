//! Everything there is, and what happens next.

use bytes::Bytes;
use fastrand::Rng;
use synod_host::{Action, Event};
use synod_kv::{Outcome, ServerId};
use synod_paxos::{Configuration, Message, NodeId, RecordBody, Slot};
use synod_wire::PeerMessage;

use crate::backup::Backups;
use crate::checkers::agreement::Agreement;
use crate::checkers::durability::Durability;
use crate::checkers::exactly_once::ExactlyOnce;
use crate::checkers::leases::Leases;
use crate::checkers::liveness::Liveness;
use crate::checkers::memory::Memory;
use crate::checkers::promises::Promises;
use crate::checkers::state_hash::StateHash;
use crate::checkers::story::Story;
use crate::checkers::versions::Versions;
use crate::checkers::{Check, Violation};
use crate::client::Clients;
use crate::clock::Clock;
use crate::coverage::{Coverage, Rare};
use crate::disk::Tail;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::guests::{self, Guests};
use crate::happening::Happening;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::node::{Fate, Node};
use crate::plan::Plan;
use crate::recovery::Recoveries;
use crate::schedule::Schedule;
use crate::squeeze::Squeeze;
use crate::store::Durable;
use crate::trace::Trace;
use crate::words;

/// Memory is compared with its limits once in so many steps of a node.
const STEPS_PER_MEMORY_CHECK: u64 = 16;

/// All that is checked while it runs.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) agreement: Agreement,
    pub(crate) promises: Promises,
    pub(crate) state_hash: StateHash,
    pub(crate) exactly_once: ExactlyOnce,
    pub(crate) durability: Durability,
    pub(crate) memory: Memory,
    pub(crate) versions: Versions,
    pub(crate) story: Story,
    pub(crate) leases: Leases,
    pub(crate) liveness: Option<Liveness>,
}

impl Checks {
    /// A node took a command in a slot.
    pub(crate) fn taken(
        &mut self,
        id: ServerId,
        slot: u64,
        command: &Bytes,
        outcome: &Outcome,
        now_us: u64,
    ) -> Check {
        self.exactly_once.taken(id, slot, command, outcome, now_us)?;
        let keys = match outcome {
            Outcome::LeaseEnded { id, .. } => self.story.keys_of(*id).len() as u64,
            _ => 0,
        };
        match self.story.taken(id, command, outcome) {
            Some(command) => self.leases.taken((slot, now_us), &command.operation, outcome, keys),
            None => Ok(()),
        }
    }
}

/// The world.
#[derive(Debug)]
pub(crate) struct World<'t> {
    pub(crate) plan: Plan,
    /// Who voted in the beginning.
    pub(crate) first: Configuration,
    pub(crate) now_us: u64,
    pub(crate) schedule: Schedule<Happening>,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) clients: Clients,
    pub(crate) guests: Guests,
    pub(crate) nemesis: Nemesis,
    pub(crate) squeeze: Squeeze,
    pub(crate) backups: Backups,
    pub(crate) recoveries: Recoveries,
    pub(crate) checks: Checks,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace<'t>,
    actions: Vec<Action>,
}

impl<'t> World<'t> {
    pub(crate) fn new(plan: Plan, trace: Trace<'t>) -> Result<Self, Violation> {
        World::beginning_with(plan, trace, &Durable::default())
    }

    /// A world in which every node has this state before its first start.
    pub(crate) fn beginning_with(
        plan: Plan,
        trace: Trace<'t>,
        state: &Durable,
    ) -> Result<Self, Violation> {
        let mut rng = plan.rng(0x3014);
        let ids: Vec<NodeId> = (1..=plan.members).map(NodeId).collect();
        let mut clock = || Clock::new(0, rng.u64(1_000_000..1_000_000_000));
        let (mistake, segment_groups) =
            (crate::planted::model(plan.bug), plan.sizes.segment_groups);
        let new = |id: &NodeId| Node {
            state: state.clone(),
            ..Node::new(*id, clock(), segment_groups, mistake)
        };
        let nodes: Vec<Node> = ids.iter().map(new).collect();
        let (alpha, page_bytes_max) = (plan.sizes.alpha, plan.sizes.page_bytes_max);
        let first = crate::lifecycle::configuration(&plan)?;
        let checks = Checks {
            agreement: Agreement::new(first.clone()),
            promises: Promises::new(ids.len()),
            state_hash: StateHash::default(),
            exactly_once: ExactlyOnce::default(),
            durability: Durability::default(),
            memory: Memory::new(crate::lifecycle::limits(&plan), alpha, page_bytes_max),
            versions: Versions::default(),
            story: Story::default(),
            leases: guests::checker(&plan),
            liveness: None,
        };
        let mut world = World {
            now_us: 0,
            schedule: Schedule::new(),
            network: Network::new(&plan),
            clients: Clients::new(&plan),
            guests: Guests::new(&plan),
            nemesis: Nemesis::new(&plan),
            squeeze: Squeeze::new(&plan),
            backups: Backups::default(),
            recoveries: Recoveries::new(&plan),
            coverage: Coverage::default(),
            actions: Vec::new(),
            rng,
            nodes,
            checks,
            trace,
            first,
            plan,
        };
        world.checks.agreement.begin_after(Slot(state.slot));
        let mut release = crate::releases::in_the_beginning(&world.plan);
        world.nodes.iter_mut().for_each(|node| node.release = release());
        let joiners = world.plan.joiners as usize;
        for joiner in world.nodes.iter_mut().rev().take(joiners) {
            joiner.fate = Fate::Waits;
        }
        for id in ids {
            world.start(id)?;
        }
        for client in 0..world.plan.load.clients {
            world.schedule.at(1_000, Happening::Client { client });
        }
        world.invite();
        world.unleash();
        Ok(world)
    }

    pub(crate) fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize - 1]
    }

    pub(crate) fn at(&mut self, delay_us: u64, what: Happening) {
        self.schedule.at(self.now_us + delay_us, what);
    }

    /// Runs until this moment.
    pub(crate) fn run_until(&mut self, until_us: u64) -> Check {
        while self.now_us < until_us {
            self.step()?;
        }
        Ok(())
    }

    /// The next happening.
    pub(crate) fn step(&mut self) -> Check {
        let (at_us, what) = self.schedule.pop().expect("clients never end");
        self.now_us = at_us;
        match what {
            Happening::Deliver { from, to, connection, parcel } => {
                if connection == self.network.connection(from, to) && self.takes(to, from)? {
                    let message = self.open(to, parcel)?;
                    if self.node(to).waiting.is_some() {
                        return self.hear_waiting(to, from, message);
                    }
                    match &message {
                        PeerMessage::Paxos(Message::Promise(promise)) => {
                            self.hear_promise(to, from, promise.ballot);
                        }
                        PeerMessage::Paxos(Message::Heartbeat(heartbeat)) => {
                            self.hear_position(to, from, heartbeat.position);
                        }
                        _ => {}
                    }
                    self.hear(to, Event::Received { from, message })?;
                }
            }
            Happening::Hear { node, life, event } => {
                if self.node(node).process(life).is_some() {
                    self.hear(node, event)?;
                }
            }
            Happening::Wake { node, life } => {
                if let Some(process) = self.node(node).process(life) {
                    process.is_woken = false;
                    if !process.paused {
                        self.step_node(node)?;
                    }
                }
            }
            Happening::Tick { node, life } => self.tick(node, life)?,
            Happening::Synced { node, life } => self.synced(node, life)?,
            Happening::Apply { node, life } => {
                let Some(process) = self.node(node).process(life) else { return Ok(()) };
                if process.paused {
                    process.deferred.push(Happening::Apply { node, life });
                } else {
                    self.apply(node)?;
                }
            }
            Happening::Transfer { node, life } => {
                let Some(process) = self.node(node).process(life) else { return Ok(()) };
                if process.paused {
                    process.deferred.push(Happening::Transfer { node, life });
                } else {
                    self.transfer(node)?;
                }
            }
            Happening::Flush { node, life } => self.flush(node, life)?,
            Happening::Flushed { node, life, slot } => self.flushed(node, life, slot)?,
            Happening::Start { node } => self.start(node)?,
            Happening::Resume { node, life } => {
                let now_us = self.now_us;
                let node = &mut self.nodes[node.0 as usize - 1];
                if let Some(process) = node.process(life) {
                    process.resume(now_us, &mut self.schedule);
                    let (id, life) = (node.id, node.life);
                    self.at(0, Happening::Wake { node: id, life });
                }
            }
            Happening::Connected { one, other } => self.connected(one, other)?,
            Happening::PeerDied { node, peer } => {
                self.hear(node, Event::PeerDied(peer))?;
            }
            Happening::Client { client } => self.ask(client)?,
            Happening::GiveUp { request } => self.give_up(request),
            Happening::Nemesis { fault } => self.strike(fault)?,
            Happening::Cut { episode } => self.change_cut(episode),
            Happening::DiskFreed { node } => self.node(node).disk.full = false,
            Happening::Guest(visit) => self.receive_guest(visit)?,
            of_files => self.happen_to_files(of_files)?,
        }
        Ok(())
    }

    /// What happens to the files of nodes, and to who reads them.
    fn happen_to_files(&mut self, what: Happening) -> Check {
        match what {
            Happening::AskForState { node } => self.ask_for_state(node)?,
            Happening::StateCame { node, from, life, checkpoint } => {
                self.state_came(node, (from, life), &checkpoint)?;
            }
            Happening::Dies { node, life } => {
                if self.nemesis.is_loose() && self.node(node).process(life).is_some() {
                    self.strike_down(Fault::OldCopy, node)?;
                }
            }
            Happening::StartsAnew { node, life, down_us } => {
                self.start_anew(node, life, down_us)?;
            }
            Happening::CopyStarts { node } => self.start_copy(node)?,
            Happening::CopyStops { node } => self.stop_copy(node)?,
            Happening::Scrub { node } => self.scrub(node)?,
            Happening::BackupTaken { node, life, request } => self.take_backup(node, life, request),
            Happening::BackupSent { node, life, request } => {
                self.end_backup(node, life, request)?
            }
            Happening::LookForSlots { node, life } => self.look_for_slots(node, life)?,
            Happening::FoundAgain { node } => self.find_again(node),
            other => unreachable!("{other:?} happens to no files"),
        }
        Ok(())
    }

    /// An event for a node's process, if it has one.
    pub(crate) fn hear(&mut self, id: NodeId, event: Event) -> Check {
        let batch_us_max = self.plan.pace.batch_us_max;
        let node = self.node(id);
        let life = node.life;
        let Some(process) = node.process.as_mut() else { return Ok(()) };
        process.inbox.push(event);
        if process.paused || process.is_woken {
            return Ok(());
        }
        if batch_us_max == 0 {
            return self.step_node(id);
        }
        process.is_woken = true;
        let delay_us = self.rng.u64(1..=batch_us_max);
        self.at(delay_us, Happening::Wake { node: id, life });
        Ok(())
    }

    fn tick(&mut self, id: NodeId, life: u64) -> Check {
        let now_us = self.now_us;
        let node = self.node(id);
        let clock = node.clock;
        let Some(process) = node.process(life) else { return Ok(()) };
        if process.tick_us != now_us {
            return Ok(()); // Another tick was scheduled earlier.
        }
        process.tick_us = 0;
        if process.paused || process.is_woken {
            return Ok(()); // It looks at its clock when it goes on.
        }
        if process.host.deadline() <= clock.read(now_us) {
            self.step_node(id)
        } else {
            self.tick_later(id);
            Ok(())
        }
    }

    /// Schedules the moment when something is due, if nothing happens before.
    fn tick_later(&mut self, id: NodeId) {
        let now_us = self.now_us;
        let node = self.node(id);
        let (life, clock) = (node.life, node.clock);
        let Some(process) = node.process.as_mut() else { return };
        let due_us = clock.moment(process.host.deadline(), now_us + 20);
        if process.tick_us == 0 || due_us < process.tick_us {
            process.tick_us = due_us;
            self.schedule.at(due_us, Happening::Tick { node: id, life });
        }
    }

    /// A step of a node's host over everything in its inbox.
    pub(crate) fn step_node(&mut self, id: NodeId) -> Check {
        let (now_us, mixes) = (self.now_us, self.plan.mixes_releases());
        let mut actions = std::mem::take(&mut self.actions);
        let node = self.node(id);
        let (life, now) = (node.life, node.clock.read(now_us));
        let mistake = node.mistake;
        let process = node.process.as_mut().expect("checked by the caller");
        let mut inbox = std::mem::take(&mut process.inbox);
        self.trace.note(now_us, words::step(id, &inbox), || words::step_line(id, &inbox));
        let process = self.node(id).process.as_mut().expect("it is there");
        for event in inbox.drain(..) {
            process.host.receive(now, event);
        }
        if process.host.contradiction().is_some() && self.node(id).drift == Drift::Parted {
            return self.stop_drifted(id);
        }
        let process = self.node(id).process.as_mut().expect("it is there");
        if mixes {
            process.settle_log_version(mistake);
        }
        process.host.finish(now, &mut actions);
        process.inbox = inbox;
        process.steps += 1;
        let check_memory = process.steps.is_multiple_of(STEPS_PER_MEMORY_CHECK);
        let queues = check_memory.then(|| process.host.queues());
        self.note_leader(id);
        for action in actions.drain(..) {
            let node = self.node(id);
            let Some(process) = node.process(life) else { break };
            if let Some(left) = &mut process.dies_after {
                if *left == 0 {
                    self.kill(Fault::CrashInStep, id)?;
                    break;
                }
                *left -= 1;
            }
            self.carry_out(id, action)?;
        }
        actions.clear();
        self.actions = actions;
        if let Some(queues) = queues {
            self.checks.memory.queues(id, &queues)?;
            self.checks.memory.under_way(self.schedule.len())?;
        }
        self.tick_later(id);
        Ok(())
    }

    fn note_leader(&mut self, id: NodeId) {
        let process = self.node(id).process.as_mut().expect("it steps");
        let leads = process.host.leader() == Some(id);
        let began = leads && !process.leads;
        process.leads = leads;
        if began {
            let leads = |node: &Node| node.process.as_ref().is_some_and(|process| process.leads);
            if self.nodes.iter().filter(|node| leads(node)).count() > 1 {
                self.coverage.rare(Rare::TwoLeaders);
            }
            self.trace
                .note(self.now_us, [words::LEADS, u64::from(id.0), 0, 0], || format!("{id} leads"));
        }
    }

    fn connected(&mut self, one: NodeId, other: NodeId) -> Check {
        let cut = self.network.is_cut(one, other) || self.network.is_cut(other, one);
        let both = self.node(one).process.is_some() && self.node(other).process.is_some();
        if cut || !both || !self.shake_hands(one, other)? {
            return Ok(());
        }
        self.hear(one, Event::Connected(other))?;
        self.hear(other, Event::Connected(one))
    }

    /// Kills a process, if there is one.
    pub(crate) fn crash(&mut self, id: NodeId, tail: Tail) -> Check {
        let node = &mut self.nodes[id.0 as usize - 1];
        let Some(process) = node.process.take() else { return Ok(()) };
        if node.disk.is_writing() {
            self.coverage.rare(match tail {
                Tail::Lost => Rare::LostTail,
                Tail::Torn => Rare::TornTail,
                Tail::Whole => Rare::WholeTail,
            });
        }
        if process.leads {
            self.coverage.rare(Rare::LeaderKilled);
        }
        let is_member = node.is_member();
        for (_, record) in node.disk.crash(tail) {
            if let RecordBody::Accepted { slot, ballot, value } = &record.body
                && is_member
            {
                self.checks.agreement.accepted(id, *slot, *ballot, value)?;
            }
        }
        self.trace.note(self.now_us, [words::DIES, u64::from(id.0), tail as u64, 0], || {
            format!("{id} dies, its unsynced group is {tail:?}")
        });
        self.disconnect_clients(id);
        for peer in 1..=self.plan.members {
            // The evidence travels fast, when it does.
            if NodeId(peer) != id && self.rng.u8(..10) < 7 {
                let delay_us = self.rng.u64(100..30_000);
                self.at(delay_us, Happening::PeerDied { node: NodeId(peer), peer: id });
            }
        }
        Ok(())
    }
}
