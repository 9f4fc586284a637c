//! What chaos needs of whoever runs the cluster, beyond what the failover benchmark does.

use std::fmt;

use super::quorums::Quorums;
use crate::failover::{ClusterControl, ControlError};
use crate::{NodeAddress, NodeId};

/// What an operator tells the cluster, with the commands that there are for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Another node leads.
    Transfer,
    /// A node learns, and does not vote yet. Makes its folder.
    Add(NodeId),
    /// A node votes.
    Promote(NodeId),
    /// A node is a member no more.
    Remove(NodeId),
    /// A new node takes the place of an old one. Makes its folder, and waits until the node
    /// that is started there has caught up.
    Replace {
        /// The one that goes.
        old: NodeId,
        /// The one that comes.
        new: NodeId,
    },
    /// So many nodes make a quorum, also if then none may fail any more.
    SetQuorums(Quorums),
    /// This node makes a backup.
    Backup(NodeId),
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whether it did what it should.
    pub is_done: bool,
    /// What it said, for people.
    pub words: String,
}

/// Which program a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The one that runs the test.
    Own,
    /// The other one.
    Other,
}

impl Release {
    /// The one of the two that it is not.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Release::Own => Release::Other,
            Release::Other => Release::Own,
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::Own => "this release",
            Release::Other => "the other release",
        })
    }
}

/// The processes and the folders of a cluster whose members change and whose disks decay.
/// A node whose files were touched may end if it says why.
pub trait ChaosControl: ClusterControl {
    /// Prepares a node that never was: settings and ports, no folder yet.
    ///
    /// # Errors
    /// When that is not possible.
    fn prepare(&mut self) -> Result<NodeId, ControlError>;

    /// Begins to carry out an order. One is carried out at a time.
    ///
    /// # Errors
    /// When the command cannot be started.
    fn order(&mut self, order: Order) -> Result<(), ControlError>;

    /// How the order ended, once, when it has.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn told(&mut self) -> Result<Option<Told>, ControlError>;

    /// Gives the order up that is being carried out.
    fn recall(&mut self);

    /// Whether the folder of a node that was prepared is made and nobody holds it.
    fn is_made(&mut self, node: NodeId) -> bool;

    /// From now on this node may be removed, and then ends and says so.
    fn may_leave(&mut self, node: NodeId);

    /// Whether it has ended so.
    ///
    /// # Errors
    /// When it is not known which nodes have ended.
    fn has_left(&mut self, node: NodeId) -> Result<bool, ControlError>;

    /// Forgets a node that does not run and never will.
    ///
    /// # Errors
    /// When it runs.
    fn forget(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Flips bytes of a dead node's journal and state; says how many and where.
    ///
    /// # Errors
    /// When its files cannot be read or written.
    fn flip(&mut self, node: NodeId, seed: u64) -> Result<String, ControlError>;

    /// Puts an empty folder in the place of a dead node's, under the same id.
    ///
    /// # Errors
    /// When that is not possible.
    fn wipe(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Makes the state of a dead node another one with checksums that are right: its running hash, and
    /// the value of this key if one is named.
    ///
    /// # Errors
    /// When it has no state on its disk, or not that key in it.
    fn drift(&mut self, node: NodeId, key: Option<&str>) -> Result<(), ControlError>;

    /// The words with which a node ended whose state drifted, if it did because most voters have
    /// another one.
    ///
    /// # Errors
    /// When it is not known which nodes have ended.
    fn contradicted(&mut self, node: NodeId) -> Result<Option<String>, ControlError>;

    /// Has a node that ended so take over a peer's state at its next start.
    ///
    /// # Errors
    /// When it did not end so.
    fn take_over(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// How much of a node's state is another node's work.
    ///
    /// # Errors
    /// When its folder cannot be read.
    fn copied(&mut self, node: NodeId) -> Result<Copied, ControlError>;

    /// Copies a dead node's folder.
    ///
    /// # Errors
    /// When that is not possible.
    fn keep_copy(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Puts the copy in the place of a dead node's folder.
    ///
    /// # Errors
    /// When there is none.
    fn put_back(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// The words with which a node whose files were touched ended and asked for another in its
    /// place, or with which its peers refuse it.
    ///
    /// # Errors
    /// When it is not known which nodes have ended.
    fn sentence(&mut self, node: NodeId) -> Result<Option<Sentence>, ControlError>;

    /// Which release a node is, or was when it ran last.
    ///
    /// # Errors
    /// When there is no such node.
    fn release(&mut self, node: NodeId) -> Result<Release, ControlError>;

    /// Has a node be this release from its next start on.
    ///
    /// # Errors
    /// When there is no such node, or no other release.
    fn use_release(&mut self, node: NodeId, release: Release) -> Result<(), ControlError>;

    /// Asks a node to end in order, which it may until it is started again.
    ///
    /// # Errors
    /// When it is not running or cannot be asked.
    fn ask_to_end(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// Whether a node does not run.
    ///
    /// # Errors
    /// When it is not known which nodes have ended.
    fn has_ended(&mut self, node: NodeId) -> Result<bool, ControlError>;

    /// Starts a second process of a node, on the copy of its folder and with ports of its own.
    ///
    /// # Errors
    /// When there is no copy, or the process cannot be started.
    fn start_twin(&mut self, node: NodeId) -> Result<(), ControlError>;

    /// What that process said, if it has ended.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn twin_said(&mut self) -> Result<Option<String>, ControlError>;

    /// Ends that process, if it runs, and deletes its folder.
    ///
    /// # Errors
    /// When that is not possible.
    fn end_twin(&mut self) -> Result<(), ControlError>;

    /// Makes another cluster of one node, of the copy of this node's folder, and starts it. It is ended
    /// like one that was restored, and the copy is gone then.
    ///
    /// # Errors
    /// When that is not possible, or what is told of the folder does not fit what was made.
    fn recover(&mut self, node: NodeId) -> Result<Restored, ControlError>;

    /// Makes another cluster, with an id of its own, of the backup that was made last, and starts
    /// it. One such cluster runs at a time.
    ///
    /// # Errors
    /// When that is not possible.
    fn restore(&mut self) -> Result<Restored, ControlError>;

    /// Ends that cluster, and deletes its folder.
    ///
    /// # Errors
    /// When its folder cannot be deleted.
    fn end_restored(&mut self) -> Result<(), ControlError>;
}

/// A cluster that was made of a backup, or of one node, and what is said of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The node that made the backup, or of whose folder it is.
    pub giver: NodeId,
    /// Every slot up to here is in it.
    pub slot: u64,
    /// The store's revision.
    pub revision: u64,
    /// The revision at which the new cluster begins.
    pub begins_at: u64,
    /// The nodes of the new cluster.
    pub nodes: Vec<NodeAddress>,
}

/// How much of a node's state came from another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Every slot up to here; zero if it is all its own work.
    pub upto: u64,
    /// Whether its voice counts when states are compared: nothing came from another node, or it was
    /// found right since.
    pub is_found_right: bool,
}

/// Why a node must not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// What is said of it.
    pub words: String,
    /// Whether its process has ended.
    pub has_ended: bool,
    /// Whether the command is named that puts another node in its place.
    pub names_way_out: bool,
}
