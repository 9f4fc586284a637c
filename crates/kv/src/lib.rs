//! What a chosen command does to the data: revisions, preconditions, transactions, leases
//! and exactly-once, as a pure function of the state and the command. Also every
//! encoding of keys and records over an ordered byte map, and the bodies of the
//! HTTP interface as types.
//!
//! This crate never knows how a command was chosen, never does IO and never
//! reads a clock: the same commands in the same order give the same answers and
//! the same state, whenever they are committed and whatever the caches hold.
//!
//! [`StateMachine`] writes, [`read`] reads what was committed, [`layout`] says
//! where a record lies.

mod answer;
mod change;
mod codec;
mod command;
mod compaction;
mod gaps;
mod hash;
pub mod http;
mod idempotency;
mod identity;
mod keys;
pub mod layout;
pub mod lease;
mod machine;
mod map;
mod memory;
mod metadata;
mod options;
mod outcome;
pub mod planted;
pub mod read;
mod recent;
mod record;
mod stage;
mod state;
mod transact;
mod txn;
mod walk;
mod write_set;

pub use command::{Command, Condition, IdempotencyKey, Operation};
pub use identity::{LeaseEpoch, LeaseId, Revision, ServerId};
pub use layout::APPLIED_KEY;
pub use lease::{KEEP_ALIVES_MAX, Lease, LeaseCounts, LeaseOperation};
pub use machine::StateMachine;
pub use map::{Cursor, MapError, OrderedMap};
pub use memory::{MemoryCursor, MemoryMap};
pub use options::{IDEMPOTENCY_GRACE_MS, KvOptions};
pub use outcome::{Expiry, KeyRecord, Outcome, Taken};
pub use read::{Counter, Entry, ListQuery, Look, Page};
pub use recent::{Changes, Recent, Tail};
pub use state::{ANOTHER_CLUSTER_STEP, State};
pub use txn::{
    Compare, Relation, TXN_OPERATIONS_MAX, Target, Txn, TxnError, TxnOperation, TxnResult,
};
pub use write_set::{Write, WriteSet};
