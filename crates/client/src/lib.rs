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
mod claim;
mod client;
mod election;
mod endpoints;
mod error;
mod event_stream;
mod keeper;
mod lease;
mod lock;
mod members;
mod name;
mod options;
mod retry;
mod target;
mod watch;

pub use answer::{Deleted, Entry, Found, Page, Record, Removed, Stored};
pub use backup::Backup;
pub use claim::{ClaimOptions, Holder};
pub use client::Client;
pub use election::{Leadership, Observer};
pub use error::ClientError;
pub use keeper::{LeaseKeeper, LeaseLost};
pub use lease::{Granted, LeaseInfo, LeasePage, Revoked};
pub use lock::LockGuard;
pub use options::{
    Attach, ClientOptions, Consistency, DeleteOptions, ListOptions, PutOptions, ReadOptions,
};
pub use synod_kv::http::{
    AddMemberBody, ChangeMemberBody, EventKind, LeaderHint, MemberBody, MemberRole, MembersBody,
    Problem, ProblemKind, QuorumsBody, StatusBody,
};
pub use synod_kv::{Condition, LeaseId, Revision};
pub use target::percent_encode;
pub use watch::{Changes, Watch, WatchEvent, WatchOptions, WatchStep};
