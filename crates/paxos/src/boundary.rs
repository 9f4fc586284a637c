//! What goes into the core and what comes out of it.
//!
//! The host calls [`crate::Replica::step`] with one [`Input`] after another and
//! collects [`Effects`]. The rule that makes Paxos safe is in the types: a message
//! that asserts something durable stands in `send_after_durable` and nowhere else.

use alloc::vec::Vec;

use crate::{Ballot, Configurations, Message, NodeId, Position, Slot, Value};

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A peer's message; also this node's own, which the host loops back.
    Received {
        /// The sender.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// Time passed. Due at the latest at [`crate::Replica::deadline`].
    Tick,
    /// The host offers a value. Only after [`crate::Replica::may_propose`].
    Propose {
        /// The value.
        value: Value,
        /// How many commands it holds.
        commands: usize,
    },
    /// A client wants to read; answered by a [`ReadOutcome`] with this token.
    Read(ReadToken),
    /// Every record up to this position is durable.
    Persisted(Position),
    /// The state machine has applied every slot up to `upto`, and up to `durable`
    /// its state survives a crash without the journal; zero when it is doubted, so that
    /// nothing more of the journal is dropped.
    Applied {
        /// Applied up to here.
        upto: Slot,
        /// Durable up to here.
        durable: Slot,
        /// A slot among them and the hash of the state there, which the others are
        /// told; slot zero for none.
        state: (Slot, u64),
    },
    /// The state machine was replaced by a snapshot: it holds everything up to `slot`
    /// and survives a crash with it. Answers a [`SnapshotWanted`].
    Installed {
        /// The snapshot's slot, above everything applied before.
        slot: Slot,
        /// As in [`Input::Applied`].
        state: (Slot, u64),
        /// Who votes in the slots above it, as the state knows.
        configurations: Configurations,
    },
    /// The snapshot that was wanted from this peer does not come, or came too late to
    /// be of use. Answers a [`SnapshotWanted`].
    SnapshotFailed {
        /// The peer.
        from: NodeId,
    },
    /// The host sends a snapshot of this slot to a peer, and something of it left for the
    /// first time since it said so last. The peer will need what follows.
    SnapshotSent {
        /// The snapshot's slot.
        slot: Slot,
    },
    /// The journal has filled a segment and begun another. At the start there is one
    /// of these for each segment that it holds, the newest left out.
    Segment(Segment),
    /// The room on the disk has changed.
    Room(Room),
    /// The answer to a [`Load`].
    Loaded {
        /// The load.
        load: Load,
        /// The values of consecutive slots from `load.first` on; fewer than asked
        /// for when `bytes_max` was reached, none when they are gone.
        values: Vec<Value>,
    },
    /// The transport has evidence that the peer's process is gone.
    PeerDied(NodeId),
    /// A connection to the peer was made: what was sent to it before may be lost.
    Connected(NodeId),
    /// The operator, or this node's shutdown, wants another leader: this one, or
    /// whoever is fit for it.
    HandOver {
        /// The successor, if it must be this one.
        to: Option<NodeId>,
    },
}

/// How much room a disk has. No promise or acceptance rests on it: a node that takes no
/// more values is like one whose messages are lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Room {
    /// More than the reserve.
    #[default]
    Enough,
    /// Less than the reserve: nothing is kept for others, another node shall lead, and
    /// clients are to put nothing more as soon as this is so for too many nodes.
    Low,
    /// So little that a write could fail, which would stop the node: it takes no more
    /// values, except for what cannot be chosen without it and is under way.
    Out,
}

/// Names a read of the host. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadToken(pub u64);

/// What the host has to do after a step, in this order: persist, send.
#[derive(Default, Debug)]
pub struct Effects {
    /// To be appended to the journal, in order. The first one gets the position
    /// after the last one handed out, and so on.
    pub persist: Vec<Record>,
    /// May leave at once.
    pub send_now: Vec<Envelope>,
    /// May leave only when every record handed out up to now, those in `persist`
    /// included, is durable.
    pub send_after_durable: Vec<Envelope>,
    /// Newly chosen, in slot order without a gap: to be applied.
    pub chosen: Vec<(Slot, Value)>,
    /// To be read from the journal.
    pub load: Vec<Load>,
    /// Reads that are settled.
    pub reads: Vec<ReadOutcome>,
    /// The journal may drop everything up to here.
    pub truncate: Option<Slot>,
    /// The state of a peer is needed: no log holds what this node misses.
    pub snapshot: Option<SnapshotWanted>,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.persist.is_empty()
            && self.send_now.is_empty()
            && self.send_after_durable.is_empty()
            && self.chosen.is_empty()
            && self.load.is_empty()
            && self.reads.is_empty()
            && self.truncate.is_none()
            && self.snapshot.is_none()
    }
}

/// A message and its addressee, which may be this node itself.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Envelope {
    /// The addressee.
    pub to: NodeId,
    /// The message.
    pub message: Message,
}

/// One record of the journal. Each repeats what is in force with it, so that the
/// last record alone tells the promise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    /// The promise in force after this record.
    pub promised: Ballot,
    /// Every slot up to here is chosen as it stands in this journal (or lies at
    /// or below the truncation point).
    pub chosen_upto: Slot,
    /// What is recorded.
    pub body: RecordBody,
}

/// What a record says beyond what is in force.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum RecordBody {
    /// Only the promise changed.
    Promise,
    /// The value was accepted in this ballot.
    Accepted {
        /// The slot.
        slot: Slot,
        /// The ballot, which is at most the promise in force.
        ballot: Ballot,
        /// The value.
        value: Value,
    },
    /// The value was learnt as chosen by catch-up. It beats every acceptance.
    Chosen {
        /// The slot.
        slot: Slot,
        /// The value.
        value: Value,
    },
    /// The log starts after this slot: everything up to it is in the durable
    /// state, and this journal need not hold it. Written when a snapshot was
    /// installed. The acceptances above the slot and the promise stay in force.
    StartAfter {
        /// The slot.
        slot: Slot,
    },
}

/// What a journal brings back after a restart.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Recovered {
    /// The highest promise.
    pub promised: Ballot,
    /// Every slot up to here is chosen.
    pub chosen_upto: Slot,
    /// The journal holds nothing at or below this slot.
    pub truncated_upto: Slot,
    /// What the journal holds above `chosen_upto`, in slot order, one entry a
    /// slot: the chosen value if one was recorded, else the acceptance of the
    /// highest ballot.
    pub open: Vec<crate::AcceptedSlot>,
    /// The position of the last record.
    pub position: Position,
}

impl Recovered {
    /// A journal that was just made.
    #[must_use]
    pub fn empty() -> Self {
        Recovered {
            promised: Ballot::ZERO,
            chosen_upto: Slot::ZERO,
            truncated_upto: Slot::ZERO,
            open: Vec::new(),
            position: Position::ZERO,
        }
    }

    /// The state machine carries the mark of a snapshot of this slot: it was switched
    /// to, and the process died before the journal durably said so. Gives the record
    /// that makes up for it, which the caller appends and syncs before the replica is
    /// made and before the mark goes; none when the journal knows of the snapshot.
    pub fn start_after(&mut self, slot: Slot) -> Option<Record> {
        if slot <= self.truncated_upto {
            return None;
        }
        self.truncated_upto = slot;
        self.chosen_upto = self.chosen_upto.max(slot);
        let chosen_upto = self.chosen_upto;
        self.open.retain(|open| open.slot > chosen_upto);
        self.position = Position(self.position.0 + 1);
        let body = RecordBody::StartAfter { slot };
        Some(Record { promised: self.promised, chosen_upto, body })
    }
}

/// Of which peer this node needs the state. The host answers each of these with one
/// [`Input::Installed`] or [`Input::SnapshotFailed`]; until then there is no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SnapshotWanted {
    /// The peer.
    pub from: NodeId,
    /// Only a snapshot of a slot above this one is of use.
    pub above: Slot,
}

/// What a segment of the journal holds, which is dropped as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Segment {
    /// The highest slot that it or an earlier one ever held.
    pub upto: Slot,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// Chosen values that the core wants back from the journal, to ship them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Load {
    /// For whom.
    pub to: NodeId,
    /// The nonce of that peer's Fetch.
    pub nonce: u64,
    /// First slot.
    pub first: Slot,
    /// Last slot, inclusive.
    pub last: Slot,
    /// Stop after the value with which this is reached.
    pub bytes_max: usize,
}

/// How a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOutcome {
    /// The read.
    pub token: ReadToken,
    /// Serve it from a state that has applied at least this slot. None: no leader
    /// confirmed it; the host may ask again with a new token.
    pub index: Option<Slot>,
}

/// Why a change of the members is not proposed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeRefusal {
    /// This node does not lead, or is about to stop.
    NotLeading,
    /// The number does not follow that of the newest configuration.
    Superseded {
        /// The newest one's number.
        newest: u64,
    },
    /// Another change is on its way, or does not govern yet.
    Pending,
    /// No room for another value now.
    Busy,
    /// Of the voters that the change leaves, too few work now: the cluster would stop.
    NoQuorum {
        /// Those that work, this node included.
        alive: Vec<NodeId>,
        /// How many are needed.
        needed: usize,
    },
    /// This node shall vote and is too far behind: until it has caught up, the cluster
    /// survives fewer failures than it seems to.
    Lags {
        /// The node.
        node: NodeId,
        /// How many slots it is behind; none when nothing was heard of it.
        slots: Option<u64>,
    },
}

/// A replica's part at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Accepts and learns.
    Follower,
    /// Has prepared a ballot and waits for promises.
    Candidate,
    /// Has a quorum's promise.
    Leader,
}

/// A replica's view, for the host and for operators.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// Its promise.
    pub promised: Ballot,
    /// The ballot that it follows (its own when it leads), if its leader is live.
    pub following: Option<Ballot>,
    /// Every slot up to here is known as chosen.
    pub chosen_upto: Slot,
    /// Applied up to here.
    pub applied_upto: Slot,
    /// Durably applied up to here.
    pub durable_upto: Slot,
    /// The journal holds nothing at or below this slot.
    pub truncated_upto: Slot,
    /// The last slot that this leader proposed in; the chosen prefix otherwise.
    pub proposed_upto: Slot,
    /// The highest watermark heard of.
    pub known_chosen: Slot,
    /// Elections that this node started since its start.
    pub elections: u64,
    /// The number of the newest configuration that is known as chosen.
    pub configuration: u64,
    /// The first slot that it governs; `chosen_upto` may not have come so far.
    pub configuration_from: Slot,
    /// Set when this node is a member no more and nobody will ever need it: the number
    /// of the configuration that says so. Nothing that it does has an effect any more.
    pub removed: Option<u64>,
    /// What is known of each other member.
    pub peers: Vec<PeerStatus>,
}

/// What a replica knows of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The peer.
    pub node: NodeId,
    /// Heard within an election timeout, both ways.
    pub reachable: bool,
    /// Its watermark.
    pub chosen_upto: Slot,
    /// The smoothed round trip of heartbeats in microseconds; 0 when unknown.
    pub round_trip_us: u64,
}
