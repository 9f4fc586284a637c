//! What the transport has to know before it starts.

use std::time::Duration;

use synod_paxos::{Ballot, NodeId, Position};
use synod_wire::Versions;

/// This node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own {
    /// The cluster that it belongs to.
    pub cluster: u128,
    /// Its id.
    pub node: NodeId,
    /// The random id of its data folder.
    pub store: u128,
    /// Which of the folder's lives this is.
    pub incarnation: u64,
    /// A hash over the members and quorums that its cluster began with. Who states another one
    /// is refused.
    pub founded: u64,
}

/// Where a peer is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// The peer's id.
    pub node: NodeId,
    /// `host:port`, looked up anew at each dial. It may lead through a proxy; that
    /// the right node answers is what the handshake is for.
    pub address: String,
    /// Another one, dialled in turn with the first until the peer has answered at that.
    pub spare: Option<String>,
}

/// The store id that a peer had at first contact and has to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pin {
    /// The peer's id.
    pub node: NodeId,
    /// Its store id.
    pub store: u128,
}

/// Who may be told that it is a member no more: every node that is no peer and whose id
/// was in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Removed {
    /// The configuration that says so. This node durably knows that it governs.
    pub number: u64,
    /// When so many of its voters have said so, nobody will ever need the removed node.
    pub witnesses: u32,
    /// The highest id that was ever in use.
    pub ids_used_upto: NodeId,
}

/// What the transport has to know before it starts.
#[derive(Clone, Debug)]
pub struct TransportSettings {
    /// This node.
    pub own: Own,
    /// What it speaks.
    pub versions: Versions,
    /// The promise that this life began with, durable. Each handshake states it: whoever met an
    /// earlier life compares it with what that one told, however late the two meet.
    pub promised: Ballot,
    /// The journal position that this life began with, likewise. Heartbeats tell how it grows.
    pub position: Position,
    /// Every other member.
    pub peers: Vec<PeerAddress>,
    /// What was reported as [`crate::IncomingEvent::Pinned`] in earlier lives, or what the
    /// configuration says.
    pub pins: Vec<Pin>,
    /// Bounds and times.
    pub limits: Limits,
}

/// Bounds and times of the transport. None of them matters for safety.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes that wait on a control lane; beyond, the oldest message is dropped. As
    /// many again may be on their way into the socket.
    pub control_queue_bytes_max: usize,
    /// Messages that wait on a control lane.
    pub control_queue_frames_max: usize,
    /// Bytes that wait on a bulk lane; beyond, the newest message is dropped. As
    /// many again may be on their way into the socket.
    pub bulk_queue_bytes_max: usize,
    /// Messages that wait on a bulk lane.
    pub bulk_queue_frames_max: usize,
    /// A message with values goes over the bulk lane if it is longer than this.
    pub control_message_bytes_max: usize,
    /// Bytes of received messages that wait for the owner. At the half of it bulk
    /// lanes are no longer read, at the whole control lanes neither.
    pub inbox_bytes_max: usize,
    /// Connections that were accepted and have not shaken hands; beyond, the oldest
    /// one is closed.
    pub handshakes_max: usize,
    /// Time for a handshake, for both sides.
    pub handshake_timeout_ms: u64,
    /// Time for looking up an address and opening a connection.
    pub connect_timeout_ms: u64,
    /// A control connection whose bytes nobody acknowledges for this long is
    /// closed, because TCP itself would try for a quarter of an hour.
    pub control_unacknowledged_ms_max: u64,
    /// The same for a bulk connection.
    pub bulk_unacknowledged_ms_max: u64,
    /// The longest pause between two dials.
    pub retry_ms_max: u64,
    /// The pause after a handshake that was refused: it will be again, until
    /// somebody changes something.
    pub refused_retry_ms: u64,
    /// The least time between two warnings of the same reason about a peer.
    pub warning_interval_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            control_queue_bytes_max: 4 << 20,
            control_queue_frames_max: 65_536,
            bulk_queue_bytes_max: 64 << 20,
            bulk_queue_frames_max: 4_096,
            control_message_bytes_max: 64 << 10,
            inbox_bytes_max: 64 << 20,
            handshakes_max: 64,
            handshake_timeout_ms: 2_000,
            connect_timeout_ms: 500,
            control_unacknowledged_ms_max: 2_000,
            bulk_unacknowledged_ms_max: 10_000,
            retry_ms_max: 500,
            refused_retry_ms: 1_000,
            warning_interval_ms: 60_000,
        }
    }
}

impl Limits {
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}
