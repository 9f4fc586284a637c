//! The owner thread: the host, the peers' sockets, and nobody else.
//!
//! It drains everything that is queued, takes one step over all of it, and hands
//! out the work. It never waits for a disk, a lock held across work, or a full
//! queue: a heartbeat must always be able to leave.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use synod_api::Refused;
use synod_host::{Action, Applied, Event, Host, Refusal, RequestId, Waiter};
use synod_paxos::{NodeId, Position, Record, RecordBody, Slot};
use synod_transport::{Incoming, IncomingEvent, Transport};
use synod_wire::PeerMessage;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};

use crate::apply_thread::ApplyTask;
use crate::clock::Clock;
use crate::difference;
use crate::fatal::Fatal;
use crate::journal_thread::JournalTask;
use crate::membership::{Membership, dismissal};
use crate::report::Report;
use crate::request::{Answer, ReadReply, Request, WriteReply};
use crate::shared::{Left, Shared, Snapshot, count};
use crate::snapshot::SnapshotTask;
use crate::upkeep::UpkeepTask;
use crate::workers::Workers;

/// Events of one source that one step takes; what is left is the next step's.
const EVENTS_PER_STEP_MAX: usize = 8_192;
/// How often the view for operators is made anew, at the least and at the most.
const SNAPSHOT_EVERY: Duration = Duration::from_millis(100);
/// How long the owner looks for an answer before it sleeps.
const LINGER: Duration = Duration::from_micros(100);
/// A group up to here is about what one client writes.
const SMALL_GROUP_BYTES: usize = 2 << 10;
/// How long the last messages may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// Where the owner hears from others.
#[derive(Debug)]
pub(crate) struct Ears {
    pub(crate) reports: UnboundedReceiver<Report>,
    pub(crate) requests: Receiver<Request>,
    pub(crate) incoming: Incoming,
}

/// The host as recovery left it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) host: Host,
    /// How far the state machine is.
    pub(crate) applied: Applied,
    pub(crate) membership: Membership,
    /// The newest version that this node may write.
    pub(crate) written: u32,
}

/// The owner.
pub(crate) struct Owner {
    host: Host,
    clock: Clock,
    transport: Transport,
    ears: Ears,
    workers: Workers,
    shared: Arc<Shared>,
    membership: Membership,
    fatal: Fatal,
    waiting: Waiting,
    /// What the state machine said last, to be repeated with a new durable slot.
    applied: Applied,
    /// Where the journal will be durable when it says that it starts after this slot.
    starting: Option<(Position, Slot)>,
    /// The newest version that this node may write.
    written: u32,
    inbox: Inbox,
    actions: Vec<Action>,
    answers: Vec<Answer>,
    snapshot_at: Instant,
    /// Up to here it was kept that what came from a peer was found right.
    found_right_upto: Slot,
    is_stopping: bool,
    /// The journal was last given a group that is soon written.
    is_lone: bool,
}

/// Who waits for an answer.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    writes: HashMap<RequestId, WriteReply>,
    reads: HashMap<RequestId, ReadReply>,
}

/// What was drained for one step. Kept for its capacity.
#[derive(Debug, Default)]
struct Inbox {
    /// How far the state machine is.
    state: Left,
    reports: Vec<Report>,
    peers: Vec<IncomingEvent>,
    requests: Vec<Request>,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.state.is_empty()
            && self.reports.is_empty()
            && self.peers.is_empty()
            && self.requests.is_empty()
    }
}

impl Owner {
    pub(crate) fn new(
        core: Core,
        clock: Clock,
        transport: Transport,
        ears: Ears,
        workers: Workers,
        (shared, fatal): (Arc<Shared>, Fatal),
    ) -> Self {
        let Core { host, applied, membership, written } = core;
        Owner {
            found_right_upto: Slot::ZERO,
            host,
            clock,
            transport,
            ears,
            workers,
            shared,
            membership,
            fatal,
            waiting: Waiting::default(),
            applied,
            starting: None,
            written,
            inbox: Inbox::default(),
            actions: Vec::new(),
            answers: Vec::new(),
            snapshot_at: Instant::now(),
            is_stopping: false,
            is_lone: false,
        }
    }

    /// Works until it is told to stop, then closes the connections.
    pub(crate) async fn run(mut self) {
        self.publish(None);
        while !self.is_stopping {
            self.drain();
            if self.inbox.is_empty() {
                self.linger().await;
            }
            if self.inbox.is_empty() {
                self.wait().await;
                self.drain();
            } else {
                // The last step's messages leave, and what came meanwhile joins.
                tokio::task::yield_now().await;
                self.drain();
            }
            self.step();
        }
        // The connections close last: a peer takes a closed one for our death.
        self.transport.close(CLOSE_TIMEOUT).await;
    }

    /// Looks for what comes next without sleeping, for a moment after a small group
    /// went to the journal: to fall asleep and be woken costs a lone write more
    /// than its journal takes. Under load groups are large, and nobody lingers.
    async fn linger(&mut self) {
        if !std::mem::take(&mut self.is_lone) {
            return;
        }
        let until = Instant::now() + LINGER;
        while self.inbox.is_empty() && Instant::now() < until {
            // First the threads that wait for this core, then the sockets.
            std::thread::yield_now();
            tokio::task::yield_now().await;
            self.drain();
        }
    }

    /// Sleeps until there is something to do.
    async fn wait(&mut self) {
        let deadline = tokio::time::Instant::from_std(self.clock.instant(self.host.deadline()));
        let Ears { reports, requests, incoming } = &mut self.ears;
        tokio::select! {
            biased;
            report = reports.recv() => self.inbox.reports.extend(report),
            () = incoming.recv_batch(&mut self.inbox.peers) => {}
            Some(request) = requests.recv() => self.inbox.requests.push(request),
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    /// Takes what is queued, without waiting.
    fn drain(&mut self) {
        if self.inbox.state.is_empty() {
            self.inbox.state = self.shared.state.take_report();
        }
        let Ears { reports, requests, incoming } = &mut self.ears;
        while self.inbox.reports.len() < EVENTS_PER_STEP_MAX
            && let Ok(report) = reports.try_recv()
        {
            self.inbox.reports.push(report);
        }
        if self.inbox.peers.len() < EVENTS_PER_STEP_MAX {
            incoming.try_recv_batch(&mut self.inbox.peers);
        }
        while self.inbox.requests.len() < EVENTS_PER_STEP_MAX
            && let Ok(request) = requests.try_recv()
        {
            self.inbox.requests.push(request);
        }
    }

    /// One step over everything drained.
    fn step(&mut self) {
        let now = self.clock.now();
        let mut inbox = std::mem::take(&mut self.inbox);
        let Left { installed, applied } = std::mem::take(&mut inbox.state);
        if let Some((applied, configurations)) = installed {
            self.applied = applied.clone();
            self.host.receive(now, Event::Installed { applied, configurations });
        }
        if let Some(mut applied) = applied {
            // It may be less by now.
            applied.durable = self.shared.state.spare();
            self.applied = applied.clone();
            self.applied.own_gap = false;
            self.host.receive(now, Event::Applied(applied));
        }
        for report in inbox.reports.drain(..) {
            if let Some(event) = self.receive_report(report) {
                self.host.receive(now, event);
            }
        }
        for event in inbox.peers.drain(..) {
            if let Some(event) = self.receive_peer(event) {
                self.host.receive(now, event);
            }
        }
        for request in inbox.requests.drain(..) {
            if let Some(event) = self.receive_request(request) {
                self.host.receive(now, event);
            }
        }
        self.inbox = inbox;
        let mut actions = std::mem::take(&mut self.actions);
        self.host.finish(now, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action);
        }
        self.actions = actions;
        self.membership.settle(self.host.configurations());
        self.workers.answers.send(&mut self.answers);
        self.shared.state.await_report(self.host.awaits_applied());
        count(&self.shared.owner.steps, 1);
        let leader = self.host.leader();
        if leader != self.shared.owner.leader() || Instant::now() >= self.snapshot_at {
            self.publish(leader);
        }
    }

    fn receive_report(&mut self, report: Report) -> Option<Event> {
        match report {
            Report::Persisted(position) => {
                if let Some((_, slot)) = self.starting.take_if(|(upto, _)| *upto <= position) {
                    let _ = self.workers.upkeep.send(UpkeepTask::Unmark { slot });
                }
                Some(Event::Persisted(position))
            }
            Report::Loaded { load, values } => Some(Event::Loaded { load, values }),
            Report::Applied => None, // It was taken at the beginning of the step.

            Report::Spare => {
                self.applied.durable = self.shared.state.spare();
                Some(Event::Applied(self.applied.clone()))
            }
            Report::Segment(segment) => Some(Event::Segment(segment)),
            Report::SnapshotFailed { from } => Some(Event::SnapshotFailed { from }),
            Report::SnapshotSent { slot } => Some(Event::SnapshotSent { slot }),
            Report::SendSnapshot { to, message } => {
                self.transport.send(to, &PeerMessage::Snapshot(message));
                None
            }
            Report::Room(room) => Some(Event::Room(room)),
            Report::HandOver => Some(Event::HandOver { to: None }),
            Report::Stop => {
                self.is_stopping = true;
                None
            }
        }
    }

    fn receive_peer(&mut self, event: IncomingEvent) -> Option<Event> {
        match event {
            IncomingEvent::Message { from, message: PeerMessage::Snapshot(message) } => {
                // It blocks on a disk, so it is not done here.
                let _ = self.workers.snapshot.try_send(SnapshotTask::Received { from, message });
                None
            }
            IncomingEvent::Message { from, message } => Some(Event::Received { from, message }),
            IncomingEvent::PeerDied(peer) => {
                tracing::info!(%peer, "the peer's process is gone");
                Some(Event::PeerDied(peer))
            }
            IncomingEvent::Connected { node: peer, lane } => {
                tracing::debug!(%peer, ?lane, "connected");
                Some(Event::Connected(peer))
            }
            IncomingEvent::Disconnected(peer) => {
                tracing::debug!(%peer, "disconnected");
                None
            }
            IncomingEvent::Dismissed { by, number, witnesses } => {
                Some(Event::Received { from: by, message: dismissal(number, witnesses) })
            }
            IncomingEvent::Barred { by, text, for_good } => {
                self.fatal.report_barred(&format!("{by} says: {text}"), for_good);
                None
            }
            IncomingEvent::Pinned { node, store } => {
                self.membership.met(node, store, &self.shared);
                // To a disk, so not from here.
                let _ = self.workers.upkeep.send(UpkeepTask::Pin { node, store });
                None
            }
        }
    }

    fn receive_request(&mut self, request: Request) -> Option<Event> {
        self.waiting.last += 1;
        let name = RequestId(self.waiting.last);
        Some(match request {
            Request::Write { command, deadline, reply } => {
                count(&self.shared.owner.writes, 1);
                self.waiting.writes.insert(name, reply);
                Event::Write { request: name, command, deadline }
            }
            Request::HandOver { to } => Event::HandOver { to },
            Request::Change { change, reply } => {
                let status = self.host.status(self.clock.now());
                let configuration =
                    self.membership.receive_change(name, &change, &status, reply)?;
                Event::Change { request: name, configuration, force: change.force }
            }
            Request::Read { deadline, reply } => {
                count(&self.shared.owner.reads, 1);
                self.waiting.reads.insert(name, reply);
                Event::Read { request: name, deadline }
            }
        })
    }

    fn carry_out(&mut self, action: Action) {
        // A worker that is gone has reported why; the node is ending.
        match action {
            Action::Persist { upto, records } => {
                self.is_lone = is_small(&records);
                let starts = records.iter().filter_map(|record| match record.body {
                    RecordBody::StartAfter { slot } => Some((upto, slot)),
                    _ => None,
                });
                self.starting = starts.last().or(self.starting);
                let _ = self.workers.journal.send(JournalTask::Append { upto, records });
            }
            Action::Send { to, message, rests_on } => {
                if let Some(trace) = self.shared.trace.get() {
                    trace.sending(to, &message, rests_on);
                }
                self.transport.send(to, &message);
            }
            Action::Apply { first, values, waiters } => {
                let waiters = self.waiting.take_writers(&waiters);
                count(&self.shared.state.backlog_values, values.len());
                let _ = self.workers.apply.send(ApplyTask::Apply { first, values, waiters });
            }
            Action::Load(load) => {
                let _ = self.workers.journal.send(JournalTask::Load(load));
            }
            Action::Truncate(upto) => {
                let _ = self.workers.journal.send(JournalTask::Truncate(upto));
            }
            Action::FetchSnapshot { from, above } => {
                let task = SnapshotTask::Fetch { from, above };
                if self.workers.snapshot.try_send(task).is_err() {
                    self.inbox.reports.push(Report::SnapshotFailed { from });
                }
            }
            Action::TalkTo(members) => {
                self.membership.talk_to(members, &mut self.transport, &self.shared);
                // A new member may know less than the others.
                self.settle_log_version();
            }
            Action::ChangeAnswered { request, outcome } => {
                self.membership.receive_answer(request, outcome);
            }
            Action::ReadReady { request } => {
                if let Some(reply) = self.waiting.reads.remove(&request) {
                    self.answers.push(Answer::Read(reply, Ok(())));
                }
            }
            Action::Refuse { request, refusal } => {
                self.answers.extend(self.waiting.refuse(request, refusal));
            }
        }
    }

    /// Lets values be cut in the newest version that may be written and every member reads.
    fn settle_log_version(&mut self) -> u32 {
        let version = self.written.min(self.transport.known_to_all());
        self.host.set_log_version(version);
        version
    }

    /// Lets the other threads see how things are.
    fn publish(&mut self, leader: Option<NodeId>) {
        if leader != self.shared.owner.leader() {
            match leader {
                Some(leader) => tracing::info!(%leader, "following a leader"),
                None => tracing::info!("no leader is known"),
            }
        }
        difference::tell(&self.host, &self.shared.owner, &self.workers.upkeep);
        difference::tell_found_right(&self.host, &mut self.found_right_upto, &self.workers.upkeep);
        self.shared.owner.set_leader(leader);
        self.shared.owner.no_disk_room.store(!self.host.has_disk_room(), Relaxed);
        self.snapshot_at = Instant::now() + SNAPSHOT_EVERY;
        let log_version = self.settle_log_version();
        let status = self.host.status(self.clock.now());
        let durable = self.shared.state.durable();
        self.membership.say_farewell(&status, durable, &mut self.transport);
        if let Some(number) = status.removed {
            self.fatal.report_removed(number);
        }
        self.shared.owner.set_snapshot(Snapshot {
            status,
            queues: self.host.queues(),
            transport: self.transport.metrics(),
            peers: self.transport.peer_metrics(),
            log_version,
        });
    }
}

impl Waiting {
    fn take_writers(&mut self, waiters: &[Waiter]) -> Vec<(u64, WriteReply)> {
        let reply = |waiter: &Waiter| {
            self.writes.remove(&waiter.request).map(|reply| (waiter.sequence, reply))
        };
        waiters.iter().filter_map(reply).collect()
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) -> Option<Answer> {
        let refused = match refusal {
            Refusal::Overloaded => Refused::Overloaded,
            Refusal::NoLeader => Refused::NoLeader,
            Refusal::Unknown => Refused::Lost,
        };
        if let Some(reply) = self.writes.remove(&request) {
            return Some(Answer::Write(reply, Err(refused)));
        }
        let reply = self.reads.remove(&request)?;
        Some(Answer::Read(reply, Err(refused)))
    }
}

/// Whether records are few and short.
fn is_small(records: &[Record]) -> bool {
    let bytes = |record: &Record| match &record.body {
        RecordBody::Accepted { value, .. } | RecordBody::Chosen { value, .. } => value.size_bytes(),
        RecordBody::Promise | RecordBody::StartAfter { .. } => 0,
    };
    records.iter().map(bytes).sum::<usize>() <= SMALL_GROUP_BYTES
}
