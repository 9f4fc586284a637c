//! What one node says to another.

use bytes::Bytes;
use synod_paxos::Message;

use crate::SnapshotMessage;

/// A message between two nodes, once they have shaken hands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// From one consensus core to the other.
    Paxos(Message),
    /// Commands for the leader.
    Forward(Forward),
    /// Files of a state. They pass by the host.
    Snapshot(SnapshotMessage),
}

/// Commands on their way to the leader, in the order of their origin. Each is
/// encoded as it will stand in a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forward {
    /// A peer may pass them on once when its neighbour cannot reach the leader.
    pub may_relay: bool,
    /// Encoded commands, server ids included.
    pub commands: Vec<Bytes>,
}
