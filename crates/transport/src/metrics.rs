//! Counters.

use synod_paxos::NodeId;

/// What went between this node and one peer since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerMetrics {
    /// The peer.
    pub node: NodeId,
    /// Our control lane to it stands.
    pub connected: bool,
    /// Messages handed to the kernel.
    pub frames_sent: u64,
    /// Their bytes, headers included.
    pub bytes_sent: u64,
    /// Writes into which they were gathered.
    pub writes: u64,
    /// Messages received.
    pub frames_received: u64,
    /// Their bytes, headers included.
    pub bytes_received: u64,
    /// Messages dropped because the lane's queue was full.
    pub frames_dropped_full: u64,
    /// Messages dropped because the lane was not connected.
    pub frames_dropped_unconnected: u64,
    /// Messages dropped because they are longer than a frame may be.
    pub frames_dropped_oversize: u64,
    /// Connections of ours that finished the handshake, both lanes.
    pub connects: u64,
    /// Dials that did not.
    pub dials_failed: u64,
    /// Handshakes that one of the two refused.
    pub handshakes_refused: u64,
    /// How often there was evidence that the peer died.
    pub deaths: u64,
    /// The version that the two speak; 0 before the first handshake.
    pub version: u32,
}

impl PeerMetrics {
    pub(crate) fn new(node: NodeId) -> Self {
        PeerMetrics {
            node,
            connected: false,
            frames_sent: 0,
            bytes_sent: 0,
            writes: 0,
            frames_received: 0,
            bytes_received: 0,
            frames_dropped_full: 0,
            frames_dropped_unconnected: 0,
            frames_dropped_oversize: 0,
            connects: 0,
            dials_failed: 0,
            handshakes_refused: 0,
            deaths: 0,
            version: 0,
        }
    }
}

/// What came to the listener since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TransportMetrics {
    /// Connections accepted.
    pub accepted: u64,
    /// Of them, those that said nothing understandable in time.
    pub handshakes_failed: u64,
    /// Of them, those that were refused with a reason.
    pub handshakes_refused: u64,
    /// Of them, those that were closed because too many others waited as well.
    pub handshakes_evicted: u64,
    /// Times that the listener itself failed, for want of file descriptors.
    pub accepts_failed: u64,
    /// Messages dropped because their addressee is no peer (any more).
    pub frames_dropped_no_peer: u64,
}
