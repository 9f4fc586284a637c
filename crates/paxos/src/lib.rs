//! Multi-Paxos.
//!
//! This crate decides one value per slot, and who may propose. It is written to
//! be read beside the papers: "The Part-Time Parliament" (Lamport 1998), "Paxos
//! Made Simple" (Lamport 2001) and "Paxos Made Moderately Complex" (van Renesse
//! and Altinbuken 2015).
//!
//! This crate never reads a clock, touches a file or a socket, starts a thread,
//! draws from the system's randomness or iterates over a map of random order.

#![no_std]
extern crate alloc;

mod acceptor;
mod ballot;
mod boundary;
mod catchup;
mod configuration;
mod invariants;
mod kept;
mod leader;
mod learner;
mod log;
mod message;
mod options;
mod outbox;
mod pacing;
mod planted;
mod preparing;
mod proposer;
mod quorum;
mod read;
mod reconfiguration;
mod replica;
mod shown;
pub mod single_decree;
mod slot;
mod tail;
mod time;
mod value;

pub use ballot::{Ballot, NodeId};
pub use boundary::{
    ChangeRefusal, Effects, Envelope, Input, Load, PeerStatus, ReadOutcome, ReadToken, Record,
    RecordBody, Recovered, Role, Room, Segment, SnapshotWanted, Status,
};
pub use configuration::{Configuration, ConfigurationError};
pub use kept::{KeptSlots, StateLost};
pub use message::{
    Accept, Accepted, AcceptedSlot, Chosen, Fetch, Handover, Heartbeat, Message, Prepare, Promise,
    ReadEcho, ReadIndex, ReadIndexAnswer, Reject, RejectReason, Standing, Watermark,
};
pub use options::Options;
pub use planted::{Bug, Planted};
pub use reconfiguration::{Configurations, Reign};
pub use replica::{Replica, Route};
pub use shown::ShownSlots;
pub use slot::{Position, Slot};
pub use time::Time;
pub use value::Value;
