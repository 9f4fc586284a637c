//! The messages between replicas. Each names its phase in the papers.

use alloc::vec::Vec;

use crate::{Ballot, NodeId, Position, Room, Slot, Value};

/// Everything that one replica's core says to another's.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// Phase 1a.
    Prepare(Prepare),
    /// Phase 1b.
    Promise(Promise),
    /// Phase 2a.
    Accept(Accept),
    /// Phase 2b.
    Accepted(Accepted),
    /// The refusal of a 1a or 2a.
    Reject(Reject),
    /// The leader tells what is chosen when no Accept is there to carry it.
    Watermark(Watermark),
    /// The answer to a read round.
    ReadEcho(ReadEcho),
    /// A follower asks the leader for a read index.
    ReadIndex(ReadIndex),
    /// The leader's answer to [`ReadIndex`].
    ReadIndexAnswer(ReadIndexAnswer),
    /// Liveness only; between all pairs.
    Heartbeat(Heartbeat),
    /// Catch-up: asks a peer for chosen values.
    Fetch(Fetch),
    /// Catch-up: chosen values.
    Chosen(Chosen),
    /// The leader asks `to` to stand at once.
    Handover(Handover),
}

/// Phase 1a: "a proposer chooses a new proposal number n and sends a request to
/// each acceptor", for every slot from `from` on.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Prepare {
    /// The candidate's new ballot.
    pub ballot: Ballot,
    /// The first slot that the candidate does not know as chosen.
    pub from: Slot,
}

/// Phase 1b: a promise never again to accept a ballot below `ballot`, "and the
/// proposal with the highest number less than n that it has accepted", per slot.
/// One page of it; the promise counts when all pages are there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Promise {
    /// The ballot that is promised: the Prepare's.
    pub ballot: Ballot,
    /// The Prepare's `from`.
    pub from: Slot,
    /// The acceptor knows every slot up to here as chosen. Those are fetched as
    /// values, so `accepted` starts above it.
    pub chosen_upto: Slot,
    /// Differs between two answers of one acceptor to the same Prepare, so that
    /// their pages are never mixed.
    pub answer: u64,
    /// Number of this page, from 0.
    pub page: u32,
    /// How many pages this promise has.
    pub pages: u32,
    /// Acceptances above `chosen_upto`, in slot order.
    pub accepted: Vec<AcceptedSlot>,
}

/// What an acceptor holds in one slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AcceptedSlot {
    /// The slot.
    pub slot: Slot,
    /// In which ballot it was accepted, or that it is known as chosen.
    pub standing: Standing,
    /// The value.
    pub value: Value,
}

/// How firmly a value stands in an acceptor's slot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Standing {
    /// Accepted in this ballot.
    Accepted(Ballot),
    /// Known as chosen: beats every ballot.
    Chosen,
}

/// Phase 2a.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// The slot.
    pub slot: Slot,
    /// What the leader proposes in it.
    pub value: Value,
    /// The leader's claim: every slot up to here is chosen.
    pub chosen_upto: Slot,
    /// The newest read round of this leader.
    pub read_round: u64,
}

/// Phase 2b, for every slot of `first..=last`: each of them was accepted in
/// `ballot` (or is known as chosen) and is durable.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Accepted {
    /// The Accepts' ballot.
    pub ballot: Ballot,
    /// First slot of the range.
    pub first: Slot,
    /// Last slot of the range, inclusive.
    pub last: Slot,
    /// The newest read round that this acceptor saw in `ballot`.
    pub read_round: u64,
}

/// The refusal of a Prepare or an Accept.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Reject {
    /// The ballot that was refused.
    pub ballot: Ballot,
    /// Why.
    pub reason: RejectReason,
}

/// Why a Prepare or an Accept was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RejectReason {
    /// The acceptor has promised this higher ballot.
    Promised(Ballot),
    /// The Prepare's `from` lies at or below this truncation point: the
    /// candidate must catch up first. Nothing was promised.
    TooFarBehind(Slot),
    /// The Accept lies at or below what this acceptor truncated: everything up
    /// to here is chosen.
    Truncated(Slot),
    /// The Accept lies beyond the acceptor's window, whose last slot is this.
    BeyondWindow(Slot),
    /// The candidate votes in no slot that is still open, as of the configuration with
    /// this number. Nothing was promised.
    NoVoter(u64),
    /// The sender is no member as of the configuration with this number, which governs.
    /// Answers a heartbeat too.
    NoMember {
        /// The number.
        number: u64,
        /// When so many voters have said it, none of them will ever need the sender:
        /// every quorum of them holds what it knew durably.
        witnesses: u32,
    },
}

/// The leader's claim of what is chosen, sent when no Accept carries it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Watermark {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Every slot up to here is chosen.
    pub chosen_upto: Slot,
    /// The newest read round of this leader, answered at once; 0 when no read
    /// waits.
    pub read_round: u64,
}

/// "I still follow this ballot", as of read round `read_round`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadEcho {
    /// The ballot; it was the sender's promise when this was sent.
    pub ballot: Ballot,
    /// The highest read round seen in it.
    pub read_round: u64,
}

/// A follower's wish to know up to where it must have applied to serve the
/// reads that it holds.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadIndex {
    /// Never used twice by one incarnation of a node.
    pub nonce: u64,
}

/// The leader's answer to [`ReadIndex`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReadIndexAnswer {
    /// The nonce of the question.
    pub nonce: u64,
    /// The read index; none when the asked node cannot serve reads.
    pub index: Option<Slot>,
}

/// What each node tells each other about liveness. It decides nothing about
/// safety, except that `leading` carries the same claim as a [`Watermark`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Heartbeat {
    /// Rises with every heartbeat of this incarnation.
    pub sequence: u64,
    /// The highest heartbeat sequence received from the addressee; 0 for none.
    /// What makes contact two-way, and dates it by the addressee's own clock.
    pub echo: u64,
    /// How long the sender has held the echoed heartbeat, in microseconds: what is
    /// left of the time between the two is the round trip.
    pub echo_held_us: u64,
    /// The sender's promise.
    pub promised: Ballot,
    /// The ballot whose leader the sender hears and holds for live; its own
    /// ballot when it leads and is live itself.
    pub following: Option<Ballot>,
    /// Set when the sender leads: the claim that goes with its ballot.
    pub leading: Option<Watermark>,
    /// Every slot up to here is chosen and can be fetched, from
    /// `available_from` on.
    pub chosen_upto: Slot,
    /// The first slot that the sender can still ship.
    pub available_from: Slot,
    /// The highest slot in which the sender accepted anything, and its ballot:
    /// the order in which candidates go.
    pub last_accepted: (Ballot, Slot),
    /// Up to here the sender's state survives a crash without its journal.
    pub durable_upto: Slot,
    /// The number of the newest configuration that the sender knows.
    pub configuration: u64,
    /// Microseconds since the sender handed its journal the oldest record that
    /// is not durable yet; 0 for none.
    pub disk_age_us: u64,
    /// How much the sender shall lead rather than others.
    pub leader_priority: u8,
    /// How much room the sender's disk has.
    pub room: Room,
    /// Whom the sender hears, two-way and fresh.
    pub hears: Vec<NodeId>,
    /// A slot that the sender has applied and the hash of its state there; equal at
    /// equal slots, or replicas have parted. Slot zero for none. For the host.
    pub state: (Slot, u64),
    /// Up to here the sender's journal is durable: a later life of it that states less in
    /// its handshake has lost something. For the transport.
    pub position: Position,
    /// Up to here the sender's state is the work of another node, which it came from as a
    /// snapshot: that the two agree says nothing about who is right. For the host.
    pub state_copied_upto: Slot,
}

/// Catch-up: asks for the chosen values of `first..=last`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Fetch {
    /// Echoed by the answer; never used twice by one incarnation.
    pub nonce: u64,
    /// First slot wanted.
    pub first: Slot,
    /// Last slot wanted, inclusive.
    pub last: Slot,
}

/// Catch-up: chosen values of consecutive slots from `first` on. Empty when the
/// sender cannot serve the request; its heartbeats say what it can ship.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Chosen {
    /// The nonce of the [`Fetch`].
    pub nonce: u64,
    /// The slot of the first value.
    pub first: Slot,
    /// The values.
    pub values: Vec<Value>,
}

/// The leader gives its office away.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Handover {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// What is chosen, so that the successor need not ask for it.
    pub chosen_upto: Slot,
}
