//! The ordered byte map of the state machine, on RocksDB.
//!
//! Nothing here has a log of its own: what was written and not flushed is gone
//! after a crash, and the journal brings it back. Each batch is there as a whole
//! or not at all, and so is all that was written before it, so the state machine
//! finds its applied slot and its data in step. [`Store::persisted`] tells how far
//! the journal is not needed any more.
//!
//! This crate never makes a decision of the protocol, never knows what a record
//! means (which of them no one needs any more says [`synod_kv::layout`]), and
//! never runs anything asynchronous: every call may block on the disk.
//!
//! [`snapshot`] is how a whole state leaves a node as files and comes to another.

mod compaction;
mod cursor;
mod database;
mod error;
pub mod failpoint;
mod manifest;
mod metrics;
mod options;
pub mod snapshot;
mod store;

pub use cursor::StoreCursor;
pub use error::StoreError;
pub use metrics::StoreMetrics;
pub use options::StoreOptions;
pub use store::{Store, Told, told_by};
