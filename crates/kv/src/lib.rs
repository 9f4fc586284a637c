//! What a chosen command does to the data: revisions, preconditions and
//! exactly-once, as a pure function of the state and the command. Also every
//! encoding of keys and records over an ordered byte map.
//!
//! This crate never knows how a command was chosen, never does IO and never
//! reads a clock: the same commands in the same order give the same bytes.

mod command;
mod identity;
mod map;
mod outcome;

pub use command::{Command, Condition, IdempotencyKey, Operation};
pub use identity::{Revision, ServerId};
pub use map::{MapError, OrderedMap, Write};
pub use outcome::{KeyRecord, Outcome, Taken};
