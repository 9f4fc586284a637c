//! The durable log of an acceptor.
//!
//! An acceptor may say "I promised" and "I accepted" only when that survives a
//! crash. This crate writes the records of the consensus core to disk in groups,
//! one fdatasync each, and brings them back after a restart. It knows three answers
//! to what it finds then: everything is there; the group that was being written
//! when the machine stopped is torn, was never acknowledged, and is dropped; or
//! something that was acknowledged is damaged, and the node must not start, because
//! an acceptor that forgets breaks the safety of the whole cluster.
//!
//! This crate never decides anything of the protocol, never retries a failed write
//! or sync, never repairs by guessing, and is not async.
//!
//! # On disk
//!
//! A folder with `LOCK` and segments `NNNNNNNNNNNNNNNN.seg`, numbered in decimal from
//! 1. [`synod_wire::record`] documents every byte of them. How they come to be:
//!
//! - A segment is filled with zeros and synced, its name included, before its header
//!   is written. So a steady append changes neither the file's length nor its extents,
//!   and fdatasync writes data only. The next segment is made ready by a helper
//!   thread while the present one fills.
//! - A group is one contiguous write, then one fdatasync. The next group starts only
//!   after that, so its existence *seals* the one before: what lies before a seal was
//!   acknowledged. [`Journal::seal`] writes an empty group when nothing else comes.
//! - A segment's header is durable before its first group; the one before gets its
//!   footer next.
//! - An open goes on in the newest segment, whose header gets the next incarnation:
//!   one sector that is written over, as a whole or not at all. If the last group is
//!   torn it begins a new segment instead, whose header says where the one before
//!   ended: what a crash tore there is dropped for good.
//! - Segments are dropped from the oldest on. Before that a group says durably which
//!   segment is the oldest one needed, so that a lost one is told from a dropped one.
//!   Beside a state that is doubted they become `NNNNNNNNNNNNNNNN.kept` instead: no part of the
//!   journal any more, but read for what they show ([`Shown`]).
//!
//! # Recovery
//!
//! Groups are read in order. Up to the last seal every sector must be as written.
//! After it there may be one more group. If that is complete it counts, since it may
//! have been acknowledged. If not, it is a torn tail provided that each sector of the
//! rest is whole or still zero, and it is dropped as one, since it was never
//! acknowledged. Otherwise the folder is refused: [`OpenError::Damaged`] when what is
//! intact still proves the promise in force, else [`OpenError::PromiseNotProvable`].
//!
//! Damage of a segment that another one follows can be mended when the state machine durably
//! holds all slots that it and those before it had ([`Journal::mend`]): they are dropped, as
//! they would have been some day. What acceptors owe others is what comes after. What damaged
//! segments still show as chosen, slot by slot, can be read ([`Shown`]): nothing else of them counts.
//!
//! What this cannot see: a folder that was set back to an older state as a whole (the
//! peers' handshake looks for that), and a last group that was acknowledged and then
//! turned back into zeros before it was sealed. Of the latter, the node sees what its
//! state machine holds already, and refuses to start.

mod active;
mod counters;
mod error;
mod folder;
mod index;
mod journal;
mod opened;
mod options;
mod prepare;
mod read;
mod recovery;
mod remains;
mod scan;
mod segments;
mod shown;

pub use counters::Counters;
pub use error::{Damage, JournalError, OpenError};
pub use journal::Journal;
pub use opened::{Behind, Inspected, Mended, Opened};
pub use options::JournalOptions;
pub use remains::Remains;
pub use shown::Shown;
pub use synod_wire::record::ClusterId;
