//! The host: routes what happened to the core and what the core wants to the
//! outside, in the only order that is safe.

mod sending;

use std::sync::Arc;

use synod_paxos::{
    Ballot, Bug, ChangeRefusal, Configuration, Configurations, Effects, Input, Load, Message,
    NodeId, Options, Recovered, Replica, Route, Slot, SnapshotWanted, Status, Time, Value,
};
use synod_wire::{Forward, PeerMessage};

use crate::Limits;
use crate::agreement::{Agreement, Disagreement};
use crate::applying::Applying;
use crate::batcher::Batcher;
use crate::boundary::{Action, Applied, Event};
use crate::cluster_clock::ClusterClock;
use crate::commands::{Commands, Target};
use crate::outbox::Outbox;
use crate::reads::Reads;

/// How often one step looks again who leads. Twice is enough unless a bug lets
/// the core change its mind without end.
const VIEWS_PER_STEP_MAX: usize = 4;

/// What a host needs to know from its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostSettings {
    /// This node.
    pub node: NodeId,
    /// Which of this node's lives this is; higher than every one before.
    pub incarnation: u64,
    /// The members and their quorums, as of the last slot that the state machine has
    /// applied.
    pub configurations: Configurations,
    /// The core's times and limits. Its incarnation is replaced by the one above.
    pub options: Options,
    /// The host's own limits.
    pub limits: Limits,
}

/// What waits in a host at this moment, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Queues {
    /// Own clients' writes that were never sent.
    pub writes_unsent: usize,
    /// Own clients' writes that were sent and are not applied.
    pub writes_sent: usize,
    /// Own clients' reads.
    pub reads_waiting: usize,
    /// Commands that this leader has not cut into a value yet.
    pub commands_queued: usize,
    /// Their bytes.
    pub commands_queued_bytes: usize,
    /// Messages that wait for the journal.
    pub messages_held: usize,
}

/// Who leads, as far as it matters for commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct View {
    /// The ballot that this node leads in.
    leading: Option<Ballot>,
    route: Route,
}

/// One replica's core and everything that keeps its order.
///
/// The owner calls [`Host::receive`] for each event of a drained batch and then
/// [`Host::finish`] once: values are cut, commands sent and chosen slots applied
/// for the whole batch together.
#[derive(Debug)]
pub struct Host {
    node: NodeId,
    limits: Limits,
    replica: Replica,
    /// Kept between steps for its capacity; empty outside of one.
    effects: Effects,
    outbox: Outbox,
    commands: Commands,
    batcher: Batcher,
    reads: Reads,
    clock: ClusterClock,
    /// When a leader that has no commands lets the log's time pass all the same, in cluster
    /// time and by this node's clock.
    tick_ms: Option<u64>,
    tick_at: Option<Time>,

    /// Who led when this was last looked at.
    viewed: View,
    /// The state machine has applied every slot up to here.
    applied: Slot,
    /// Chosen values that are not handed to it yet.
    applying: Applying,

    /// Whether the state here is that of the others.
    agreement: Agreement,
    /// The configurations that were told to the outside last.
    talks_to: Vec<Arc<Configuration>>,

    /// Gathered since the last [`Host::finish`].
    forwards: Vec<(NodeId, Forward)>,
    loads: Vec<Load>,
    truncate: Option<Slot>,
    snapshot: Option<SnapshotWanted>,
    /// Actions about requests and relayed commands, which need no order.
    others: Vec<Action>,
}

impl Host {
    /// A host as its journal and its state machine left it. `applied` tells the
    /// state machine's slots and cluster time; nothing of this incarnation was
    /// taken yet.
    #[must_use]
    pub fn new(settings: HostSettings, recovered: Recovered, applied: &Applied, now: Time) -> Host {
        let HostSettings { node, incarnation, configurations, mut options, limits } = settings;
        // One source for both: a core that believed to be in an earlier life would be
        // taken for its own past by its peers.
        options.incarnation = incarnation;
        let (planted, copied_upto) = (options.planted, options.state_copied_upto);
        let named = if planted.is(Bug::CommandNumbersFromOneAgain) { 1 } else { incarnation };
        // Half an election timeout without any progress: what was sent last was lost,
        // for example in a connection that was just being made. The pause doubles.
        let retry_us = options.election_timeout_us / 2;
        let ask_again_us = options.heartbeat_us / 2;
        let outbox = Outbox::new(node, recovered.position, planted);
        let batcher = Batcher::new(&limits, options.value_bytes_max);
        let talks_to = configurations.talked_to();
        let newest = Arc::clone(&configurations.newest().configuration);
        let replica = Replica::new(
            node,
            configurations,
            options,
            recovered,
            applied.upto,
            applied.durable,
            now,
        );
        Host {
            node,
            replica,
            effects: Effects::default(),
            outbox,
            commands: Commands::new(node, named, &limits, retry_us, planted),
            batcher,
            reads: Reads::new(limits.reads_waiting_max, ask_again_us, planted),
            clock: ClusterClock::new(applied.cluster_time_ms, now, planted),
            tick_ms: applied.tick_ms,
            tick_at: None,
            viewed: View { leading: None, route: Route::Nowhere },
            applied: applied.upto,
            applying: Applying::new(applied.upto, planted),
            agreement: Agreement::new(node, newest, copied_upto, planted),
            talks_to,
            forwards: Vec::new(),
            loads: Vec::new(),
            truncate: None,
            snapshot: None,
            others: Vec::new(),
            limits,
        }
    }

    /// The newest version that this node may write into the log and every member reads.
    /// Without a word of it, that is the oldest one.
    pub fn set_log_version(&mut self, version: u32) {
        self.batcher.set_version(version);
    }

    /// Takes one event and carries out all that follows from it at once.
    pub fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.receive(now, event);
        self.finish(now, actions);
    }

    /// Takes one event. What is to be done about it comes with [`Host::finish`].
    pub fn receive(&mut self, now: Time, event: Event) {
        match event {
            Event::Received { from, message: PeerMessage::Paxos(message) } => {
                if let Message::Heartbeat(heartbeat) = &message {
                    let copied_upto = heartbeat.state_copied_upto;
                    self.agreement.receive(from, heartbeat.state, copied_upto);
                }
                self.run(now, Input::Received { from, message });
            }
            Event::Received { from, message: PeerMessage::Forward(forward) } => {
                self.forwards.push((from, forward));
            }
            // Files go around the host: it hears of the state that they make.
            Event::Received { message: PeerMessage::Snapshot(_), .. } => {}
            Event::Persisted(position) => {
                self.run(now, Input::Persisted(position));
                self.outbox.persisted(position);
                self.deliver_looped(now);
            }
            Event::Loaded { load, values } => self.run(now, Input::Loaded { load, values }),
            Event::Applied(applied) => self.receive_applied(now, &applied),
            Event::Installed { applied, configurations } => {
                self.receive_installed(now, &applied, configurations);
            }
            Event::SnapshotFailed { from } => self.run(now, Input::SnapshotFailed { from }),
            Event::SnapshotSent { slot } => self.run(now, Input::SnapshotSent { slot }),
            Event::Segment(segment) => self.run(now, Input::Segment(segment)),
            Event::Room(room) => self.run(now, Input::Room(room)),
            Event::PeerDied(peer) => self.run(now, Input::PeerDied(peer)),
            Event::Connected(peer) => {
                self.commands.connected(peer);
                self.run(now, Input::Connected(peer));
            }
            // Whether the core's time has come is looked at in each step.
            Event::Tick => {}
            Event::Write { request, command, deadline } => {
                if let Err(refusal) = self.commands.receive_write(request, command, deadline) {
                    self.others.push(Action::Refuse { request, refusal });
                }
            }
            Event::Read { request, deadline } => {
                if let Err(refusal) = self.reads.receive_read(request, deadline) {
                    self.others.push(Action::Refuse { request, refusal });
                }
            }
            Event::HandOver { to } => self.run(now, Input::HandOver { to }),
            Event::Change { request, configuration, force } => {
                let outcome = self.change(now, configuration, force);
                self.others.push(Action::ChangeAnswered { request, outcome });
            }
        }
    }

    /// Ends a batch of events: sends and cuts what waits, does what is due by time,
    /// and writes out what is to be done, in the order in which it must be done.
    pub fn finish(&mut self, now: Time, actions: &mut Vec<Action>) {
        self.agreement.stop_if_contradicted();
        self.replica.set_state_copied_upto(self.agreement.copied_upto());
        self.commands.retry_if_due(now, self.replica.route() == Route::Here);
        for _ in 0..VIEWS_PER_STEP_MAX {
            let leader_changed = self.refresh_view(now);
            self.take_forwards();
            // Reads before values, so that their round rides on this step's Accepts.
            if let Some(token) = self.reads.ask(now, leader_changed) {
                self.run(now, Input::Read(token));
            }
            self.send_commands(now);
            self.replica.flush(now, &mut self.effects);
            self.take_effects(now);
            self.deliver_looped(now);
            // Who leads can change by what is due; what waits must not wait longer.
            if self.view() == self.viewed {
                break;
            }
        }
        self.note_members();
        self.commands.expire(now, &mut self.others);
        self.reads.expire(now, &mut self.others);
        self.emit(actions);
    }

    /// When [`Event::Tick`] is due at the latest, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let cut = self.replica.propose_at().and_then(|at| match self.batcher.is_empty() {
            true => self.tick_at().map(|tick| tick.max(at)),
            false => Some(at),
        });
        let own = [cut, self.commands.deadline(), self.reads.deadline()];
        own.into_iter().flatten().fold(self.replica.deadline(), Time::min)
    }

    /// Who leads, as far as this node knows without the help of others.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match self.viewed.route {
            Route::Here => Some(self.node),
            Route::Leader(leader) => Some(leader),
            Route::Through(_) | Route::Nowhere => None,
        }
    }

    /// Whether something here waits for the state machine: reads, or room. If not,
    /// an [`Event::Applied`] may come along with the next event.
    #[must_use]
    pub fn awaits_applied(&self) -> bool {
        const BACKLOG_SLOTS: u64 = 32;
        let backlog = self.applying.chosen().0 - self.applied.0;
        self.reads.waiting() > 0
            || backlog > BACKLOG_SLOTS
            || !self.replica.has_memory()
            || self.commands.sent() > self.limits.writes_in_flight_max / 2
    }

    /// Who votes in which slot, as far as this node knows.
    #[must_use]
    pub fn configurations(&self) -> &Configurations {
        self.replica.configurations()
    }

    /// Whether clients may put more: see [`Replica::has_disk_room`].
    #[must_use]
    pub fn has_disk_room(&self) -> bool {
        self.replica.has_disk_room()
    }

    /// The core's present view.
    #[must_use]
    pub fn status(&self, now: Time) -> Status {
        self.replica.status(now)
    }

    /// The first difference between this node's state and another's, if one was found
    /// since a majority agreed with this node.
    #[must_use]
    pub fn disagreement(&self) -> Option<Disagreement> {
        self.agreement.disagreement()
    }

    /// What most voters say against the state of this node, if they do: [`Host::finish`] will
    /// panic.
    #[must_use]
    pub fn contradiction(&self) -> Option<Disagreement> {
        self.agreement.contradiction()
    }

    /// The last slot up to which a majority of several voters, this one included if it
    /// votes, is known to have had this node's state.
    #[must_use]
    pub fn agreed_upto(&self) -> Slot {
        self.agreement.agreed_upto()
    }

    /// Up to which slot the state was another node's work and was found right in this life.
    #[must_use]
    pub fn state_found_right_upto(&self) -> Slot {
        self.agreement.found_right_upto()
    }

    /// What waits at this moment.
    #[must_use]
    pub fn queues(&self) -> Queues {
        Queues {
            writes_unsent: self.commands.unsent(),
            writes_sent: self.commands.sent(),
            reads_waiting: self.reads.waiting(),
            commands_queued: self.batcher.len(),
            commands_queued_bytes: self.batcher.bytes(),
            messages_held: self.outbox.held_messages(),
        }
    }

    /// Proposes other members, if that is possible and wise.
    fn change(&mut self, now: Time, new: Configuration, force: bool) -> Result<(), ChangeRefusal> {
        self.replica.check_change(now, &new, force)?;
        self.run(now, Input::Propose { value: Value::Configuration(Arc::new(new)), commands: 1 });
        Ok(())
    }

    /// Looks whether the members have changed.
    fn note_members(&mut self) {
        let configurations = self.replica.configurations();
        self.agreement.set_configuration(&configurations.newest().configuration);
        let mut talks_to = configurations.talked_to();
        // The core still talks to a leader that removed itself and has not handed over yet.
        // Only what was replaced names it.
        for node in self.replica.everybody().iter().filter(|node| **node != self.node) {
            let names = |one: &&Arc<Configuration>| one.contains(*node);
            if !talks_to.iter().any(|one| names(&one))
                && let Some(replaced) = self.talks_to.iter().rev().find(names)
            {
                talks_to.insert(0, Arc::clone(replaced));
            }
        }
        if self.talks_to != talks_to {
            self.talks_to = talks_to;
            self.others.push(Action::TalkTo(self.talks_to.clone()));
        }
    }

    /// Steps the core, and again for each message that it addressed to itself.
    fn run(&mut self, now: Time, input: Input) {
        self.replica.step(now, input, &mut self.effects);
        self.take_effects(now);
        self.deliver_looped(now);
    }

    /// A message to this node itself never leaves it: it is the next input.
    fn deliver_looped(&mut self, now: Time) {
        while let Some(message) = self.outbox.next_looped() {
            let input = Input::Received { from: self.node, message };
            self.replica.step(now, input, &mut self.effects);
            self.take_effects(now);
        }
    }

    fn take_effects(&mut self, now: Time) {
        let effects = &mut self.effects;
        self.applying.note_records(self.outbox.handed_out(), &effects.persist);
        self.outbox.take(
            &mut effects.persist,
            &mut effects.send_now,
            &mut effects.send_after_durable,
        );
        for (slot, value) in effects.chosen.drain(..) {
            self.applying.push(slot, value);
        }
        self.loads.append(&mut effects.load);
        self.truncate = self.truncate.max(effects.truncate.take());
        self.snapshot = effects.snapshot.take().or(self.snapshot);
        for outcome in effects.reads.drain(..) {
            self.reads.settle(outcome, self.applied, now);
        }
    }

    fn receive_applied(&mut self, now: Time, applied: &Applied) {
        assert!(
            applied.upto <= self.applying.chosen(),
            "a slot was applied that was never handed out"
        );
        self.applied = self.applied.max(applied.upto);
        self.observe(now, applied);
        self.commands.applied(now, applied.own_sequence, applied.own_gap);
        self.reads.applied(self.applied);
        self.agreement.applied(applied.state);
        let Applied { upto, durable, state, .. } = *applied;
        self.run(now, Input::Applied { upto, durable, state });
    }

    /// A snapshot took the place of the state machine. Chosen values that wait here and
    /// are in it are not handed out any more.
    fn receive_installed(&mut self, now: Time, applied: &Applied, configurations: Configurations) {
        let Applied { upto, durable, state, .. } = *applied;
        assert!(upto > self.applied, "a snapshot turned the state back");
        assert!(durable == upto, "a snapshot is durable as a whole");
        self.applied = upto;
        self.applying.installed(upto);
        self.observe(now, applied);
        self.commands.installed(now, applied.own_sequence, &mut self.others);
        self.reads.applied(upto);
        self.agreement.installed(upto, state);
        self.run(now, Input::Installed { slot: upto, state, configurations });
    }

    /// Reads what time it is in the state, and when there is something to expire.
    fn observe(&mut self, now: Time, applied: &Applied) {
        self.clock.observe(applied.cluster_time_ms, now);
        self.tick_ms = applied.tick_ms;
        self.set_tick_at();
    }

    fn set_tick_at(&mut self) {
        self.tick_at = self.tick_ms.map(|tick_ms| self.clock.when(tick_ms));
    }

    /// When a value without commands is due. What is proposed already tells the time too,
    /// as soon as it is applied; until then nobody knows whether one more is of use.
    fn tick_at(&self) -> Option<Time> {
        self.tick_at.filter(|_| self.replica.is_idle_leader())
    }

    fn view(&self) -> View {
        let route = match self.replica.route() {
            // It led, and nobody has told it of another leader yet.
            Route::Leader(leader) if leader == self.node => Route::Nowhere,
            route => route,
        };
        View { leading: self.replica.leads(), route }
    }

    /// Looks who leads now. Says whether that changed.
    fn refresh_view(&mut self, now: Time) -> bool {
        let view = self.view();
        if view.leading != self.viewed.leading {
            // What was queued under another ballot is sent again by its origins.
            self.batcher.clear();
            self.clock.take_office(now);
            self.set_tick_at();
        }
        self.viewed = view;
        let ballot = match view.route {
            Route::Here => view.leading,
            Route::Leader(_) => self.replica.follows(),
            Route::Through(_) | Route::Nowhere => None,
        };
        self.commands.set_target(Target { route: view.route, ballot })
    }

    fn emit(&mut self, actions: &mut Vec<Action>) {
        self.outbox.emit(actions);
        if let Some((first, values)) = self.applying.take_ready(self.outbox.durable()) {
            // A command is in a chosen value only after it got its sequence, so its
            // waiter travels with that value's Apply or with an earlier one.
            let waiters = self.commands.take_waiters();
            actions.push(Action::Apply { first, values, waiters });
        }
        actions.extend(self.loads.drain(..).map(Action::Load));
        actions.extend(self.truncate.take().map(Action::Truncate));
        if let Some(SnapshotWanted { from, above }) = self.snapshot.take() {
            actions.push(Action::FetchSnapshot { from, above });
        }
        self.reads.emit(actions);
        actions.append(&mut self.others);
    }
}
