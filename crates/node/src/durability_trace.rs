//! What this node's messages rest on: a line for each message that asserts something
//! durable, written before the message goes on its way.
//!
//! ```text
//! node=2 promise to=1 ballot=3.1 page=0 position=17
//! node=2 accepted to=1 ballot=3.1 slots=5..7 position=19
//! node=1 acknowledgement slot=7 revision=9
//! ```
//!
//! Each line is one write(2), so whoever records the system calls of a node sees it
//! among its syncs and sends, in the order in which all of them happened
//! (docs/durability.md). A vote of this node for itself never leaves, and has no line.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use synod_kv::{Outcome, Taken};
use synod_paxos::{Message, NodeId, Position, Slot};
use synod_wire::PeerMessage;

/// The file. Nodes may share it, and threads do.
#[derive(Debug)]
pub(crate) struct DurabilityTrace {
    file: File,
    node: NodeId,
    has_failed: AtomicBool,
}

impl DurabilityTrace {
    /// Opens the file, or makes it. Lines are appended.
    pub(crate) fn open(path: &Path, node: NodeId) -> io::Result<DurabilityTrace> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(DurabilityTrace { file, node, has_failed: AtomicBool::new(false) })
    }

    /// A message is about to be given to the transport.
    pub(crate) fn sending(&self, to: NodeId, message: &PeerMessage, rests_on: Option<Position>) {
        let PeerMessage::Paxos(message) = message else { return };
        let (node, to) = (self.node.0, to.0);
        // One that says that it rests on nothing is for the reader to find.
        let position =
            rests_on.map_or_else(|| "none".to_owned(), |position| position.0.to_string());
        match message {
            Message::Promise(promise) => {
                let (ballot, page) = (promise.ballot, promise.page);
                self.write(&format!(
                    "node={node} promise to={to} ballot={ballot} page={page} position={position}\n"
                ));
            }
            Message::Accepted(accepted) => {
                let (ballot, first, last) = (accepted.ballot, accepted.first, accepted.last);
                self.write(&format!(
                    "node={node} accepted to={to} ballot={ballot} slots={first}..{last} \
                     position={position}\n"
                ));
            }
            _ => {}
        }
    }

    /// The client of a write that was applied in `slot` is about to be answered.
    pub(crate) fn acknowledging(&self, slot: Slot, taken: &Taken) {
        // Only these changed something.
        let Taken::Applied { outcome, .. } = taken else { return };
        let (Outcome::Stored { revision, .. }
        | Outcome::Deleted { revision, .. }
        | Outcome::RangeDeleted { revision, .. }
        | Outcome::Txn { revision, .. }
        | Outcome::LeaseEnded { revision, .. }) = outcome
        else {
            return;
        };
        let (node, revision) = (self.node.0, revision.0);
        self.write(&format!("node={node} acknowledgement slot={slot} revision={revision}\n"));
    }

    /// A line that is missing makes the proof fail, which is all that it should do.
    fn write(&self, line: &str) {
        let written = (&self.file).write_all(line.as_bytes());
        if let Err(error) = written
            && !self.has_failed.swap(true, Relaxed)
        {
            tracing::error!(%error, "the trace of durability is not complete");
        }
    }
}
