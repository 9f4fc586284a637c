//! What may happen in the world.

use synod_host::{Event, RequestId};
use synod_paxos::NodeId;

use crate::fault::Fault;
use crate::guests::Visit;
use crate::releases::Parcel;
use crate::snapshot::Checkpoint;

/// What may happen.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message arrives.
    Deliver { from: NodeId, to: NodeId, connection: u32, parcel: Parcel },
    /// A process hears of something.
    Hear { node: NodeId, life: u64, event: Event },
    /// A process looks at its inbox and its clock.
    Wake { node: NodeId, life: u64 },
    /// A process has something due.
    Tick { node: NodeId, life: u64 },
    /// A sync ends.
    Synced { node: NodeId, life: u64 },
    /// The state machine has got through its next values.
    Apply { node: NodeId, life: u64 },
    /// The state is flushed.
    Flush { node: NodeId, life: u64 },
    /// The next part of a snapshot is due.
    Transfer { node: NodeId, life: u64 },
    /// A flush ends.
    Flushed { node: NodeId, life: u64, slot: u64 },
    /// A machine starts its process.
    Start { node: NodeId },
    /// A node without a state asks a peer for its.
    AskForState { node: NodeId },
    /// A peer's state has come, of this life of it.
    StateCame { node: NodeId, from: NodeId, life: u64, checkpoint: Checkpoint },
    /// A process dies, if it is this one.
    Dies { node: NodeId, life: u64 },
    /// A process dies, if it is this one, and the next one begins so much later.
    StartsAnew { node: NodeId, life: u64, down_us: u64 },
    /// What was copied of a node comes in its place.
    CopyStarts { node: NodeId },
    /// An operator switches that off.
    CopyStops { node: NodeId },
    /// A node that waits at its start looks for slots that it has lost.
    LookForSlots { node: NodeId, life: u64 },
    /// The disk reads again what it could not read.
    FoundAgain { node: NodeId },
    /// A node takes the checkpoint of a backup, in this life of it.
    BackupTaken { node: NodeId, life: u64, request: RequestId },
    /// It has sent all of it.
    BackupSent { node: NodeId, life: u64, request: RequestId },
    /// A node reads everything that it has.
    Scrub { node: NodeId },
    /// A paused process goes on.
    Resume { node: NodeId, life: u64 },
    /// A pair gets a connection.
    Connected { one: NodeId, other: NodeId },
    /// A node hears that a peer's process is gone.
    PeerDied { node: NodeId, peer: NodeId },
    /// A client has nothing to do.
    Client { client: usize },
    /// A client's patience ends.
    GiveUp { request: RequestId },
    /// A fault strikes.
    Nemesis { fault: Fault },
    /// A cut changes: to its next state, or to none.
    Cut { episode: u64 },
    /// The disk has room again.
    DiskFreed { node: NodeId },
    /// A guest's turn.
    Guest(Visit),
}
