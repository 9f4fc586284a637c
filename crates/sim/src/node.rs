//! One node: what survives a crash, and the process while it lives.

use std::collections::VecDeque;
use std::sync::Arc;

use synod_host::{Applied, Event, Host, Waiter};
use synod_kv::{MapError, ServerId, StateMachine, Taken};
use synod_paxos::{Ballot, Configuration, NodeId, Position, Slot, Standing, Value};
use synod_wire::command;

use crate::checkers::agreement::Agreement;
use crate::checkers::promises::Ground;
use crate::clock::Clock;
use crate::copies::{Copy, Heard};
use crate::disk::Disk;
use crate::drift::Drift;
use crate::exchange::Waiting;
use crate::happening::Happening;
use crate::mistakes::Mistake;
use crate::releases::{Release, read_batch};
use crate::schedule::Schedule;
use crate::snapshot::{Checkpoint, Task, Transfer};
use crate::store::{Durable, Store, Unflushed};

/// What can still become of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It comes back from every crash.
    Sound,
    /// Something of it is damaged: it runs until it notices. Perhaps it can mend it then;
    /// nothing rests on that.
    Damaged,
    /// Its disk is gone. Another store may run under its name.
    Lost,
    /// It is no member yet, and was never started.
    Waits,
    /// It stays down from the healing on, to show that a quorum suffices.
    Left,
}

/// What a node thinks of its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// Nothing.
    None,
    /// The next start reads all of it.
    Suspect,
    /// It is damaged: another takes its place.
    Damaged,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) life: u64,
    pub(crate) fate: Fate,
    /// The random id of its data folder.
    pub(crate) store_id: u64,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) state: Durable,
    /// Which of the folder's lives this is, as the folder says. Copies count alike.
    pub(crate) incarnation: u64,
    /// What it says of itself: what it began with.
    pub(crate) told: Ballot,
    pub(crate) position: Position,
    /// An older copy of its folder that somebody keeps.
    pub(crate) copy: Option<Box<Copy>>,
    /// It runs on a copy.
    pub(crate) is_copy: bool,
    pub(crate) drift: Drift,
    /// What a mark on its disk says of its state: that it is damaged, or is to be read as a whole by
    /// the next start.
    pub(crate) doubt: Doubt,
    /// Its journal was mended since it was read last.
    pub(crate) is_mended: bool,
    /// It waits for a peer's state, and takes part in nothing.
    pub(crate) is_rebuilding: bool,
    /// What it does meanwhile, if nodes that wait give each other slots.
    pub(crate) waiting: Option<Box<Waiting>>,
    /// How often nobody gave it a state in place of its damaged one, and whether the next start
    /// goes on with that.
    pub(crate) unreplaced: u32,
    pub(crate) goes_on: bool,
    /// The mistake of its files' model.
    pub(crate) mistake: Option<Mistake>,
    /// The configuration in which it joined, unless it was there in the beginning.
    pub(crate) joined_in: Option<Configuration>,
    /// What its next process will be, and what it was to be before that was changed.
    pub(crate) release: Release,
    pub(crate) release_before: Release,
    pub(crate) process: Option<Process>,
}

impl Node {
    pub(crate) fn new(
        id: NodeId,
        clock: Clock,
        segment_groups: usize,
        mistake: Option<Mistake>,
    ) -> Self {
        Node {
            id,
            life: 0,
            fate: Fate::Sound,
            store_id: 0,
            clock,
            disk: Disk::new(segment_groups),
            state: Durable::default(),
            incarnation: 0,
            told: Ballot::ZERO,
            position: Position::ZERO,
            copy: None,
            is_copy: false,
            drift: Drift::None,
            doubt: Doubt::None,
            is_mended: false,
            is_rebuilding: false,
            waiting: None,
            unreplaced: 0,
            goes_on: false,
            mistake,
            joined_in: None,
            release: Release::OLDER,
            release_before: Release::OLDER,
            process: None,
        }
    }

    /// The process, if it is the one that lives this life.
    pub(crate) fn process(&mut self, life: u64) -> Option<&mut Process> {
        if self.life == life { self.process.as_mut() } else { None }
    }

    /// Whether a process runs and takes part.
    pub(crate) fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.paused)
    }

    /// Whether this node still is the member that its name says.
    pub(crate) fn is_member(&self) -> bool {
        self.store_id == 0 && !self.is_copy
    }
}

/// A node's disk, and what is known to be chosen.
pub(crate) struct Backed<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) agreement: &'a Agreement,
}

impl Ground for Backed<'_> {
    fn promised(&self) -> Ballot {
        self.disk.promised()
    }

    /// A slot that the node knows as chosen may be answered for without another
    /// acceptance: no later ballot can carry another value. Then its disk must hold
    /// the chosen value.
    fn has_accepted(&self, slot: Slot, ballot: Ballot) -> bool {
        slot <= self.disk.durably_truncated_upto()
            || self.disk.durably_held(slot).is_some_and(|held| {
                let is_vote = match held.standing {
                    Standing::Chosen => true,
                    Standing::Accepted(accepted) => accepted >= ballot,
                };
                is_vote || self.agreement.chosen(slot) == Some(&held.value)
            })
    }
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) host: Host,
    pub(crate) machine: StateMachine<Store>,
    pub(crate) unflushed: Unflushed,
    pub(crate) waiters: VecDeque<Waiter>,
    /// What the state machine said last.
    pub(crate) applied: Applied,
    /// What the state machine has still to do, in order; it is at the first.
    pub(crate) apply_queue: VecDeque<Task>,
    /// What it heard of each node, and whether it took the last process of it that it met.
    pub(crate) heard: Vec<Heard>,
    /// Those that it reckons with when it writes what all must read.
    pub(crate) talks_to: Vec<NodeId>,
    pub(crate) release: Release,
    /// The snapshot that it fetches.
    pub(crate) transfer: Option<Transfer>,
    /// The snapshot that it keeps for others.
    pub(crate) kept: Option<Checkpoint>,
    /// The slot of the last snapshot that it installed.
    pub(crate) installed: Slot,
    /// Events for the next step.
    pub(crate) inbox: Vec<Event>,
    pub(crate) is_woken: bool,
    pub(crate) tick_us: u64,
    pub(crate) paused: bool,
    /// It met damage in its state, and goes on. Only a mark outlives it.
    pub(crate) doubts: bool,
    /// What happened to it while it was paused.
    pub(crate) deferred: Vec<Happening>,
    /// It dies after so many more actions.
    pub(crate) dies_after: Option<usize>,
    /// It held itself for the leader when it was last looked at.
    pub(crate) leads: bool,
    pub(crate) steps: u64,
}

impl Process {
    /// A process that has just begun.
    pub(crate) fn new(
        host: Host,
        machine: StateMachine<Store>,
        unflushed: Unflushed,
        applied: Applied,
    ) -> Self {
        Process {
            host,
            machine,
            unflushed,
            waiters: VecDeque::new(),
            applied,
            apply_queue: VecDeque::new(),
            heard: Vec::new(),
            talks_to: Vec::new(),
            release: Release::OLDER,
            transfer: None,
            kept: None,
            installed: Slot::ZERO,
            inbox: Vec::new(),
            is_woken: false,
            tick_us: 0,
            paused: false,
            doubts: false,
            deferred: Vec::new(),
            dies_after: None,
            leads: false,
            steps: 0,
        }
    }

    /// It talks to the members of these configurations.
    pub(crate) fn talk_to(&mut self, own: NodeId, configurations: &[Arc<Configuration>]) {
        let members = configurations.iter().flat_map(|one| one.members());
        self.talks_to = members.copied().filter(|id| *id != own).collect();
    }

    /// Pauses or goes on. What happened meanwhile happens now.
    pub(crate) fn resume(&mut self, now_us: u64, schedule: &mut Schedule<Happening>) {
        self.paused = false;
        for what in self.deferred.drain(..) {
            schedule.at(now_us, what);
        }
    }
}

/// A command that the state machine was given, and what it made of it.
#[derive(Debug)]
pub(crate) struct Took {
    pub(crate) id: ServerId,
    pub(crate) command: bytes::Bytes,
    pub(crate) taken: Taken,
}

/// Why a value cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unfit {
    /// Something of the state was read that is damaged.
    Damaged,
    /// The release does not know the form of the value.
    Unreadable,
}

impl From<MapError> for Unfit {
    fn from(_: MapError) -> Unfit {
        Unfit::Damaged
    }
}

/// Applies one value, by a release that knows the versions up to this one.
///
/// # Errors
/// When something is read that is damaged, or is not known.
pub(crate) fn apply_value(
    machine: &mut StateMachine<Store>,
    first: &Configuration,
    slot: u64,
    value: &Value,
    drift: &mut Drift,
    (newest, mistake): (u32, Option<Mistake>),
) -> Result<Vec<Took>, Unfit> {
    if let Value::Configuration(new) = value {
        synod_host::apply_configuration(machine, first, Slot(slot), new)?;
        return Ok(Vec::new());
    }
    let mut commands = Vec::new();
    let mut encoded = Vec::new();
    let mut stamp_ms = 0;
    if let Value::Batch(bytes) = value {
        let batch = read_batch(bytes, newest, mistake).map_err(|_| Unfit::Unreadable)?;
        for entry in batch.entries {
            let decoded = command::decode(entry.command.clone());
            commands.push((entry.id, decoded.expect("a chosen command can be read")));
            encoded.push(entry.command);
        }
        stamp_ms = drift.bend(batch.cluster_time_ms, machine, &commands);
    }
    let taken = machine.apply(slot, stamp_ms, &commands)?;
    let named = commands.into_iter().map(|(id, _)| id).zip(encoded);
    Ok(named.zip(taken).map(|((id, command), taken)| Took { id, command, taken }).collect())
}
