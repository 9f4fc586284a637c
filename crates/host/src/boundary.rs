//! What goes into a host and what comes out of it: messages only, so that a node
//! with threads and a simulation without any run the same host.

use std::sync::Arc;

use bytes::Bytes;
use synod_paxos::{
    ChangeRefusal, Configuration, Configurations, Load, NodeId, Position, Record, Room, Segment,
    Slot, Time, Value,
};
use synod_wire::PeerMessage;

/// Names a client's request within this life of the node. Chosen by the caller,
/// never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// One thing that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A peer's message.
    Received {
        /// The sender, as its handshake proved it.
        from: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// The journal: everything up to here is durable.
    Persisted(Position),
    /// The journal: the values of a [`Load`].
    Loaded {
        /// The load.
        load: Load,
        /// Values of consecutive slots from `load.first` on.
        values: Vec<Value>,
    },
    /// The state machine has applied.
    Applied(Applied),
    /// The state was replaced by a snapshot, after an [`Action::FetchSnapshot`]. It was
    /// switched to durably and bears a mark of its slot, which goes when the journal has
    /// durably recorded the `StartAfter` of that slot; see
    /// [`synod_paxos::Recovered::start_after`] for a crash before that.
    ///
    /// The apply side switches between two [`Action::Apply`] and only forwards: a
    /// snapshot at or below what it has applied is thrown away, and reported as
    /// [`Event::SnapshotFailed`]. Applies that the host handed out before it heard of
    /// the switch may come after it: see there. The host hears of the switch before it
    /// hears of anything applied after it.
    Installed {
        /// How far the new state is, all of it durable.
        applied: Applied,
        /// Who votes above that, see [`crate::configurations_of`].
        configurations: Configurations,
    },
    /// The snapshot that was to be fetched from this peer does not come, or is of no
    /// use any more.
    SnapshotFailed {
        /// The peer.
        from: NodeId,
    },
    /// A snapshot of this slot is being sent to a peer, and gets on.
    SnapshotSent {
        /// The snapshot's slot.
        slot: Slot,
    },
    /// The journal has filled a segment and begun another; at the start, one for each
    /// segment that it holds except the newest, oldest first.
    Segment(Segment),
    /// The room on the disk has changed.
    Room(Room),
    /// The transport has evidence that the peer's process is gone.
    PeerDied(NodeId),
    /// A connection to the peer was made, one of several perhaps: what was sent to it
    /// before may be lost.
    Connected(NodeId),
    /// Time passed; due at the latest at [`crate::Host::deadline`].
    Tick,
    /// A client's write.
    Write {
        /// Its name.
        request: RequestId,
        /// The command, encoded without a server id.
        command: Bytes,
        /// Not sent by then, it is refused as not applied.
        deadline: Time,
    },
    /// A client's linearizable read.
    Read {
        /// Its name.
        request: RequestId,
        /// Not confirmed by then, it is refused.
        deadline: Time,
    },
    /// Another node shall lead: this one shuts down, or somebody asked for it.
    HandOver {
        /// The successor, if it must be this one.
        to: Option<NodeId>,
    },
    /// An operator wants other members: answered by [`Action::ChangeAnswered`].
    Change {
        /// Its name.
        request: RequestId,
        /// The new configuration, numbered.
        configuration: Configuration,
        /// Whether what is merely risky is done all the same.
        force: bool,
    },
}

/// How far the state machine is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Every slot up to here is applied.
    pub upto: Slot,
    /// Up to here the state survives a crash without the journal; zero when it is doubted.
    pub durable: Slot,
    /// Cluster time of the last applied value, in milliseconds.
    pub cluster_time_ms: u64,
    /// The cluster time in milliseconds from which on a value without commands is of use,
    /// since something is to expire; none for never.
    pub tick_ms: Option<u64>,
    /// The highest sequence of this node's present incarnation that was taken.
    pub own_sequence: u64,
    /// A command of this node's present incarnation met a gap: send again.
    pub own_gap: bool,
    /// The last slot at which the state's hash is compared with the other nodes', and
    /// that hash; slot zero for none.
    pub state: (Slot, u64),
}

/// One thing to do. The caller carries out the actions of a step in their order.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are messages")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Append to the journal, then report [`Event::Persisted`] with `upto`.
    Persist {
        /// The position of the last of the records.
        upto: Position,
        /// The records.
        records: Vec<Record>,
    },
    /// Hand to the transport, which may lose it.
    Send {
        /// The addressee, never this node.
        to: NodeId,
        /// The message.
        message: PeerMessage,
        /// The journal position that must be durable before the message leaves, if
        /// it asserts something durable. Told for the record only: the position was
        /// reached before this action was handed out.
        rests_on: Option<Position>,
    },
    /// Apply to the state machine, wake the waiters as their commands are taken,
    /// then report [`Event::Applied`].
    ///
    /// Each slot is the one after the last applied. After a snapshot was installed there
    /// may come, once, slots that it holds already: they are skipped. A waiter whose
    /// sequence the snapshot brought is told that its outcome is unknown, whether it
    /// came before the snapshot or with such an Apply.
    Apply {
        /// The slot of the first value.
        first: Slot,
        /// Values of consecutive slots.
        values: Vec<Value>,
        /// Requests whose commands got a sequence since the last Apply.
        waiters: Vec<Waiter>,
    },
    /// Read chosen values back from the journal, then report [`Event::Loaded`].
    Load(Load),
    /// The journal may drop everything up to here.
    Truncate(Slot),
    /// Fetch the state of a peer and switch to it, then report [`Event::Installed`]; or
    /// [`Event::SnapshotFailed`]. There is no second one before that answer.
    FetchSnapshot {
        /// The peer.
        from: NodeId,
        /// Only a snapshot of a slot above this one is of use. A peer that kept one from
        /// before makes a new one, unless that is above this slot and its own journal
        /// still holds every slot that follows.
        above: Slot,
    },
    /// A read is safe: the state machine has applied what it must see.
    ReadReady {
        /// The read.
        request: RequestId,
    },
    /// A change of the members was proposed, or was not and why. A proposed one governs
    /// when the core's status says so, or never if another leader came first.
    ChangeAnswered {
        /// The request.
        request: RequestId,
        /// Why it was not proposed.
        outcome: Result<(), ChangeRefusal>,
    },
    /// Who is to be talked to has changed: the members of these configurations, the oldest
    /// first. One that was replaced is among them as long as the core talks to a node that no
    /// newer one names.
    TalkTo(Vec<Arc<Configuration>>),
    /// The request ends without an answer of the state machine.
    Refuse {
        /// The request.
        request: RequestId,
        /// Why, and what that says about its effect.
        refusal: Refusal,
    },
}

/// Who waits for which of this node's commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// The sequence of the command in this node's present incarnation.
    pub sequence: u64,
    /// Who waits.
    pub request: RequestId,
}

/// Why a request was refused by the host. Unless it says that nobody knows, it was
/// never sent, so it has had no effect and will have none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Too many requests wait already, or this node had no room to send or to serve
    /// it before the deadline.
    Overloaded,
    /// No leader was found before the deadline.
    NoLeader,
    /// It was taken, in a slot that a snapshot skipped: nobody knows its outcome.
    Unknown,
}
