//! Every byte between nodes and on disk: messages of peers in checksummed frames,
//! their handshake, the commands of clients, the batches of commands that the log
//! holds, and the records of the journal.
//!
//! All numbers are little-endian. What a peer's message always has stands in a block that
//! states its length: an older reader skips the fields that a newer writer appended
//! to it, and a reader that expects more than the block has refuses it. Everything
//! that may be kept (a batch, the first byte of a command) names its own version.
//! Byte strings are cut out of what was received, never copied.
//!
//! This crate never opens a socket or a file, never reads a clock, and never
//! decides what a message means, but for one thing: whether what a handshake says of a node
//! fits what that node said before ([`Member`]). Any bytes may be given to a decoder: it answers
//! with a [`DecodeError`] and takes no memory that the bytes did not bring along.

mod about;
pub mod backup;
pub mod batch;
pub mod command;
pub mod configuration;
mod error;
pub mod frame;
pub mod handshake;
mod member;
mod message;
mod next;
mod peer;
mod reader;
pub mod record;
pub mod snapshot;
mod transaction;
pub mod version;

pub use about::{ABOUT_BYTES_MAX, About, AboutMember, CLIENT_URL_BYTES_MAX, PEER_BYTES_MAX};
pub use error::DecodeError;
pub use handshake::{Facts, Handshake, Hello, Lane, Refusal, RefusalReason, Welcome};
pub use member::{Admitted, Member};
pub use peer::{Forward, PeerMessage};
pub use snapshot::{SnapshotGone, SnapshotMessage};
pub use version::Versions;
