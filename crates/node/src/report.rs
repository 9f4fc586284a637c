//! What the other threads of a node tell its owner.

use synod_paxos::{Load, NodeId, Position, Room, Segment, Slot, Value};
use synod_wire::SnapshotMessage;

/// What the other threads of the node tell the owner. The queue is bounded by the
/// work that the owner gave them.
#[derive(Debug)]
pub(crate) enum Report {
    /// The journal is durable up to here.
    Persisted(Position),
    /// The journal's answer to a load.
    Loaded { load: Load, values: Vec<Value> },
    /// The journal has filled this segment.
    Segment(Segment),
    /// No state came from this peer.
    SnapshotFailed { from: NodeId },
    /// A part of a snapshot of this slot leaves for the first time.
    SnapshotSent { slot: Slot },
    /// To be sent.
    SendSnapshot { to: NodeId, message: SnapshotMessage },
    /// The room on the disk fell below the reserve, or is above it again.
    Room(Room),
    /// The state machine has left a report.
    Applied,
    /// The state needs the journal from another slot on than before.
    Spare,
    /// Somebody else shall lead.
    HandOver,
    /// The node ends.
    Stop,
}
