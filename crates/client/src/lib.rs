//! Talks to a cluster: finds a node that works, prefers the leader, retries what is
//! safe to retry, and says exactly what is known about a write that got no answer.
//!
//! This crate never contains server code, never knows how writes are agreed on, and
//! never repeats a write that could have effect twice: each write gets a name of its
//! own (an `Idempotency-Key`), under which the cluster takes it once.
//!
//! [`Client`] has the calls, [`ClientError`] what can become of them. `attempt` is one
//! HTTP exchange, `retry` decides about the next one, `endpoints` chooses the node.

mod answer;
mod answer_body;
mod attempt;
mod backup;
mod batch;
mod batch_task;
mod client;
mod compaction;
mod endpoints;
mod error;
mod long_call;
mod members;
mod name;
mod options;
mod retry;
mod scan;
mod target;
mod transaction;

pub use answer::{Deleted, Entry, Found, Page, Record, Removed, Stored};
pub use backup::Backup;
pub use batch::{BatchLines, BatchOptions, BatchOutcome, BatchResult, BatchResults};
pub use client::Client;
pub use compaction::Compacted;
pub use error::ClientError;
pub use options::{
    ClientOptions, Consistency, DeleteOptions, ListOptions, PutOptions, ReadOptions,
};
pub use scan::Scan;
pub use synod_kv::http::{
    AddMemberBody, ChangeMemberBody, LeaderHint, MemberBody, MemberRole, MembersBody, Problem,
    ProblemKind, QuorumsBody, StatusBody,
};
pub use synod_kv::{Condition, Relation, Revision};
pub use target::percent_encode;
pub use transaction::{
    Compare, Operation, OperationResult, Transacted, Transaction, TransactionOptions,
};
