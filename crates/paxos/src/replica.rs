//! One replica: composes the roles and routes messages between them.
//!
//! Has no rules of its own. The rules of safety stand in `acceptor`, `proposer`,
//! `learner` and `read`; those of liveness in `leader` and `catchup`.

use alloc::vec::Vec;

use crate::{
    Ballot, Bug, Configurations, Effects, Envelope, Input, Message, NodeId, Options, RecordBody,
    Recovered, Room, Slot, Standing, Time, Value,
    acceptor::{Acceptor, Ground},
    catchup::Catchup,
    invariants,
    leader::{Liveness, Stand},
    learner::Learner,
    log::Log,
    outbox::Unsynced,
    pacing::Pacing,
    proposer::{Leading, Proposer},
    read::{Questions, Rounds},
    tail::Tail,
};

mod election;
mod learning;
mod reading;
mod reconfiguring;
mod room;
mod view;
mod voting;

/// Where a command has to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// This node leads.
    Here,
    /// To the leader.
    Leader(NodeId),
    /// The leader cannot be reached from here, but this peer reaches it.
    Through(NodeId),
    /// No live leader is known.
    Nowhere,
}

/// Whether the journal's watermark is behind the applied state: it is written along
/// with other records. The journal holds every applied slot all the same. The state
/// was durable only after the records that it was applied from, and a slot that was
/// known as chosen got no record since, so what the journal holds there are the
/// chosen values. What a snapshot brought is covered by its `StartAfter`, see
/// [`Recovered::start_after`].
///
/// # Panics
/// When it does not hold them: then it lost records that were durable, and with them
/// what this node promised. It must not vote any more.
fn is_watermark_behind(recovered: &Recovered, applied: Slot) -> bool {
    if applied <= recovered.chosen_upto {
        return false;
    }
    let missing = applied.0 - recovered.chosen_upto.0;
    let held = recovered.open.iter().filter(|open| open.slot <= applied).count() as u64;
    assert!(held == missing, "the journal lost records of slots that are applied");
    true
}

/// What others said of a node that they hold for no member.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Dismissal {
    /// The configuration by which it is none.
    number: u64,
    /// Who said so.
    witnesses: Vec<NodeId>,
    /// How many must, before the node may go.
    needed: usize,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    pub(crate) node: NodeId,
    /// Who votes in which slot, as far as the log's chosen prefix says.
    pub(crate) configurations: Configurations,
    /// When the prefix reaches the slot before this one, others vote.
    next_reign: Slot,
    /// Everybody to talk to, in order of their ids; a node's place here is how
    /// `liveness` and `loading` know it.
    everybody: Vec<NodeId>,
    /// Those of them that are no members as far as this node knows.
    guests: Vec<NodeId>,
    /// Who said that this node is a member no more.
    dismissal: Option<Dismissal>,
    options: Options,
    pub(crate) log: Log,
    pub(crate) acceptor: Acceptor,
    pub(crate) proposer: Proposer,
    learner: Learner,
    liveness: Liveness,
    rounds: Rounds,
    questions: Questions,
    catchup: Catchup,
    unsynced: Unsynced,
    tail: Tail,
    /// How much room the disk has.
    room: Room,
    disks: room::Disks,
    pacing: Pacing,
    pub(crate) applied: Slot,
    pub(crate) durable: Slot,
    /// What the state machine's hash was, and where.
    state: (Slot, u64),
    /// The highest ballot heard of.
    highest_seen: Ballot,
    /// What the other nodes were last told of whom this node follows.
    told: Option<Ballot>,
    /// A peer that reaches a leader which this node does not hear.
    through: Option<NodeId>,
    /// Up to where the leader has told the others what is chosen.
    announced: Slot,
    /// A hand-over that began then.
    handing_over: Option<Time>,
    /// When a node of a higher priority was last asked to take the office.
    preferred_at: Time,
    /// When a node with more room on its disk was last asked to take the office.
    cramped_at: Option<Time>,
    /// Who was asked to take the office last: another goes first next time.
    handed_to: Option<NodeId>,
    /// When this node will stand if nothing changes.
    stand_at: Option<Time>,
    stood_at: Time,
    elections: u64,
    /// For whom the journal is reading, and the newest nonce of each.
    loading: Vec<Option<u64>>,
    /// The journal's watermark is behind: the first record brings it up.
    watermark_behind: bool,
    /// A chunk of catch-up arrived: ask for the next at once.
    eager: bool,
}

impl Replica {
    /// A replica as its journal and its state machine left it. Every slot up to
    /// `applied` is in the state machine, which must include every slot up to
    /// `recovered.chosen_upto` that the journal still holds. `configurations` are those
    /// of the state machine: as of the slot `applied`.
    ///
    /// # Panics
    /// When the state machine is behind the journal, or the journal lacks values that
    /// the state machine has applied.
    #[must_use]
    pub fn new(
        node: NodeId,
        mut configurations: Configurations,
        options: Options,
        recovered: Recovered,
        applied: Slot,
        durable: Slot,
        now: Time,
    ) -> Replica {
        assert!(applied >= recovered.chosen_upto, "the journal's chosen prefix is applied first");
        let watermark_behind = is_watermark_behind(&recovered, applied);
        let planted = options.planted;
        let forgets = planted.is(Bug::PromiseForgotten);
        let promised = if forgets { Ballot::ZERO } else { recovered.promised };
        let mut log = Log::new(recovered.truncated_upto, applied);
        for open in recovered.open {
            match open.standing {
                _ if open.slot <= applied => {}
                Standing::Chosen => log.learn(open.slot, open.value),
                Standing::Accepted(_) if planted.is(Bug::AcceptancesForgotten) => {}
                Standing::Accepted(ballot) => log.accept(open.slot, ballot, open.value),
            }
        }
        configurations.plant(planted);
        let everybody = configurations.everybody(applied);
        let recorded_upto = recovered.chosen_upto;
        let life = options.incarnation << 32;
        let liveness = Liveness::new(node, &everybody, &options, now);
        let mut replica = Replica {
            node,
            acceptor: Acceptor::new(promised, 0, life, planted),
            proposer: Proposer::Idle,
            learner: Learner::new(planted),
            liveness,
            rounds: Rounds::default(),
            questions: Questions::new(options.incarnation),
            catchup: Catchup::new(options.incarnation),
            unsynced: Unsynced::new(recovered.position, recorded_upto),
            tail: Tail::default(),
            room: Room::Enough,
            disks: room::Disks::default(),
            pacing: Pacing::default(),
            applied,
            durable,
            state: (Slot::ZERO, 0),
            highest_seen: promised,
            told: None,
            through: None,
            announced: Slot::ZERO,
            handing_over: None,
            preferred_at: Time::ZERO,
            cramped_at: None,
            handed_to: None,
            stand_at: Some(now),
            stood_at: Time::ZERO,
            elections: 0,
            loading: alloc::vec![None; everybody.len()],
            watermark_behind,
            eager: false,
            log,
            configurations,
            next_reign: Slot(u64::MAX),
            everybody,
            guests: Vec::new(),
            dismissal: None,
            options,
        };
        replica.note_reigns();
        replica
    }

    /// Takes one input. The effects gather until [`Replica::flush`].
    pub fn step(&mut self, now: Time, input: Input, effects: &mut Effects) {
        if core::mem::take(&mut self.watermark_behind) {
            let record = self.acceptor.record(RecordBody::Promise, &self.log);
            self.unsynced.persist(now, record, effects);
        }
        match input {
            Input::Received { from, message } => self.receive(now, from, message, effects),
            Input::Tick => {}
            Input::Propose { value, commands } => {
                self.propose_new(now, value, commands, effects);
            }
            Input::Read(token) => self.receive_read(token, effects),
            Input::Persisted(position) => self.unsynced.persisted(position),
            Input::Applied { upto, durable, state } => {
                assert!(upto <= self.log.chosen_upto(), "applied what is not chosen");
                self.applied = self.applied.max(upto);
                // Less than before when the state came to be doubted.
                self.durable = durable.min(self.applied).max(self.log.truncated_upto());
                self.state = state;
                // What the journal's newest watermark does not cover cannot be read back.
                let readable = self.applied.min(self.unsynced.recorded_upto());
                self.log.evict(readable, self.options.cache_bytes_max);
            }
            Input::Installed { slot, state, configurations } => {
                self.install(now, slot, state, configurations, effects);
            }
            Input::SnapshotFailed { from } => self.receive_snapshot_failure(now, from),
            Input::SnapshotSent { slot } => self.tail.sent(now, slot),
            Input::Segment(segment) => self.tail.push(now, segment),
            Input::Room(room) => {
                self.room = room;
                self.tail.set_disk_low(room != Room::Enough);
            }
            Input::Loaded { load, values } => self.receive_loaded(load, values, effects),
            Input::PeerDied(peer) => self.receive_death(now, peer),
            Input::Connected(peer) => self.receive_connection(now, peer),
            Input::HandOver { to } => self.hand_over(now, to, effects),
        }
        self.advance(effects);
    }

    /// Ends a batch of steps: does what is due by time, and adds to `effects` what
    /// is said once a batch (what is chosen, read rounds, requests for catch-up).
    /// The host calls it after the last step of a batch and before it carries the
    /// effects out.
    pub fn flush(&mut self, now: Time, effects: &mut Effects) {
        self.liveness.note_silence(now);
        self.forget_reigns();
        self.dismiss_guests();
        self.look_at_disks(now);
        self.keep_office(now, effects);
        self.lead_if_promised(now, effects);
        self.extend_phase_one(now, effects);
        self.propose_adopted(now, effects);
        self.fill_up_to_next_reign(now, effects);
        self.stand_if_due(now, effects);
        self.retransmit(now, effects);
        self.flush_reads(now, effects);
        self.announce(now, effects);
        self.flush_catchup(now, effects);
        self.truncate(now, effects);
        self.flush_heartbeats(now, effects);
        self.advance(effects);
        invariants::check(self);
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let timeout = self.options.election_timeout_us;
        let retransmit = self.retransmit_us();
        let mut deadline = self.liveness.next_heartbeat_at();
        let mut at_most = |time: Option<Time>| {
            if let Some(time) = time {
                deadline = deadline.min(time);
            }
        };
        at_most(self.liveness.silence_at());
        at_most(self.stand_at);
        at_most(self.catchup.due_at(timeout));
        at_most(self.questions.asked_at().map(|at| at.plus_us(timeout)));
        match &self.proposer {
            Proposer::Idle => {}
            Proposer::Preparing(preparing) => {
                let patience = self.liveness.candidate_patience_us();
                at_most(Some(preparing.progress_at.plus_us(patience)));
                at_most(self.prepare_due_at());
            }
            Proposer::Leading(leading) => {
                at_most(leading.repeat_at(retransmit));
                at_most(self.extension_due_at());
                at_most(self.rounds.sent_at().map(|at| at.plus_us(retransmit)));
                at_most(self.handing_over.map(|at| at.plus_us(election::HANDOVER_PATIENCE_US)));
            }
        }
        deadline
    }

    /// Whether a leader should cut a value now, with this many commands and bytes
    /// waiting. Then the host calls `step` with [`Input::Propose`].
    #[must_use]
    pub fn may_propose(&self, now: Time, commands: usize, bytes: usize) -> bool {
        self.leading_with_room().is_some_and(|leading| {
            self.pacing.is_due(now, leading.in_flight(), commands, bytes, &self.options)
        })
    }

    /// When `may_propose` will say yes by the passing of time alone, if commands
    /// wait; none if that needs another event (the window is full, no leader).
    #[must_use]
    pub fn propose_at(&self) -> Option<Time> {
        self.leading_with_room().and_then(|_| self.pacing.due_at(&self.options))
    }

    /// Whether this node leads, and all that was ever proposed is applied here.
    #[must_use]
    pub fn is_idle_leader(&self) -> bool {
        matches!(&self.proposer, Proposer::Leading(leading) if leading.proposed_upto() == self.applied)
    }

    /// The leader's state, if a new value may be proposed as far as limits go.
    fn leading_with_room(&self) -> Option<&Leading> {
        self.leading(|leading| self.has_room(leading))
    }

    fn leading(&self, has_room: impl Fn(&Leading) -> bool) -> Option<&Leading> {
        let Proposer::Leading(leading) = &self.proposer else { return None };
        let window = self.window_slots();
        let applying = self.log.chosen_upto().0 - self.applied.0 < 2 * window;
        let free = self.handing_over.is_none() && !self.must_wait_for_adopted(leading);
        (has_room(leading) && applying && free).then_some(leading)
    }

    /// The same for a change of the members, which full disks do not hinder.
    fn leading_to_change(&self) -> Option<&Leading> {
        self.leading(|leading| self.has_room_for_needed(leading))
    }

    /// Values of Phase 1 go before any new one.
    fn must_wait_for_adopted(&self, leading: &Leading) -> bool {
        leading.has_adopted() && !self.options.planted.is(Bug::NewBeforeReported)
    }

    /// Whether the next slot lies in the window, and in that of this node's own
    /// acceptor: it may still miss slots that were chosen before it led.
    fn has_window(&self, leading: &Leading) -> bool {
        leading.has_room(self.window_slots(), self.options.window_bytes_max)
            && leading.proposed_upto() < self.acceptor.window_end(&self.log)
            && leading.proposed_upto() < self.decided_upto()
            && self.has_memory()
    }

    fn window_slots(&self) -> u64 {
        self.options.window_slots_max.min(self.configurations.newest().configuration.alpha())
    }

    /// Up to here it is certain who votes: "slot s only when every slot up to s - alpha
    /// is chosen", and its value known here.
    fn decided_upto(&self) -> Slot {
        self.log.chosen_upto().plus(self.configurations.newest().configuration.alpha())
    }

    /// Whether this node may take more values in: what its disk has not synced and
    /// what its state machine has not applied stay bounded.
    #[must_use]
    pub fn has_memory(&self) -> bool {
        self.unsynced.bytes() <= self.options.unsynced_bytes_max
            && self.log.bytes() <= self.options.log_bytes_max()
    }

    /// Up to this slot the state came from another node and was not found right yet: only
    /// for the others to know.
    pub fn set_state_copied_upto(&mut self, slot: Slot) {
        self.options.state_copied_upto = slot;
    }

    fn receive(&mut self, now: Time, from: NodeId, message: Message, effects: &mut Effects) {
        let Some(index) = self.place_of(from) else {
            return self.receive_from_stranger(now, from, message, effects);
        };
        match message {
            Message::Prepare(m) => self.receive_prepare(now, from, &m, effects),
            Message::Promise(m) => self.receive_promise(now, from, m, effects),
            Message::Accept(m) => self.receive_accept(now, from, m, effects),
            Message::Accepted(m) => self.receive_accepted(now, from, index, &m, effects),
            Message::Reject(m) => self.receive_reject(now, from, index, &m, effects),
            Message::Watermark(m) => self.receive_watermark(now, from, &m, effects),
            Message::ReadEcho(m) => self.receive_read_echo(from, &m, effects),
            Message::ReadIndex(m) => self.receive_read_index(from, &m, effects),
            Message::ReadIndexAnswer(m) => self.receive_read_index_answer(&m, effects),
            Message::Heartbeat(m) => self.receive_heartbeat(now, from, index, m, effects),
            Message::Fetch(m) => self.receive_fetch(from, index, &m, effects),
            Message::Chosen(m) => self.receive_chosen(now, from, m, effects),
            Message::Handover(m) => self.receive_handover(now, from, &m, effects),
        }
    }

    fn place_of(&self, node: NodeId) -> Option<usize> {
        self.everybody.binary_search(&node).ok()
    }

    /// Everybody else to talk to, by place and id.
    fn others(&self) -> impl Iterator<Item = (usize, NodeId)> + '_ {
        let me = self.node;
        let everybody = self.everybody.iter().copied().enumerate();
        everybody.filter(move |(_, node)| *node != me)
    }

    fn send_to_others(&self, message: &Message, effects: &mut Effects) {
        for (_, to) in self.others() {
            effects.send_now.push(Envelope { to, message: message.clone() });
        }
    }

    /// Hands over to the applying side what has become chosen without a gap, and takes
    /// note of what it says about the members.
    fn advance(&mut self, effects: &mut Effects) {
        while let Some((slot, value)) = self.log.advance() {
            if let Value::Configuration(new) = &value {
                self.configurations.receive_chosen(slot, new).then(|| self.note_reigns());
            }
            effects.chosen.push((slot, value));
            if slot.next() >= self.next_reign {
                self.note_reigns();
            }
        }
    }

    fn retransmit_us(&self) -> u64 {
        let slowest = self.others().map(|(index, _)| self.liveness.peer(index).round_trip_us).max();
        let limit = self.options.election_timeout_us / 2;
        self.options.retransmit_min_us.max(4 * slowest.unwrap_or(0)).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AcceptedSlot, Configuration};

    /// A replica whose state has applied five slots, three of which its journal knows as
    /// chosen, and which holds these slots above them.
    fn with_journal(held: &[u64]) -> Replica {
        let standing = Standing::Accepted(Ballot::ZERO.next(NodeId(2)));
        let open = held.iter().map(|slot| AcceptedSlot {
            slot: Slot(*slot),
            standing,
            value: Value::Noop,
        });
        let recovered = Recovered {
            promised: Ballot::ZERO.next(NodeId(2)),
            chosen_upto: Slot(3),
            open: open.collect(),
            ..Recovered::empty()
        };
        let three = Configuration::majority([1, 2, 3].map(NodeId).to_vec(), 16).expect("valid");
        let configurations = Configurations::new(three);
        let (applied, now) = (Slot(5), Time(1_000_000));
        let options = Options::default();
        Replica::new(NodeId(1), configurations, options, recovered, applied, applied, now)
    }

    #[test]
    fn a_state_ahead_of_the_watermark_brings_it_up_with_the_first_record() {
        let mut replica = with_journal(&[4, 5, 6]);
        let mut effects = Effects::default();
        replica.step(Time(1_000_000), Input::Tick, &mut effects);
        let record = &effects.persist[0];
        assert_eq!((&record.body, record.chosen_upto), (&RecordBody::Promise, Slot(5)));
        assert_eq!(effects.persist.len(), 1);
    }

    /// The journal was durable before the state: it has lost what this node promised.
    #[test]
    #[should_panic(expected = "the journal lost records")]
    fn a_journal_without_an_applied_slot_is_refused() {
        with_journal(&[5, 6]);
    }
}
