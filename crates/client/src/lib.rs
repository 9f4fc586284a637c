//! Talks to a cluster: finds a node that works, prefers the leader, retries what is
//! safe to retry, and says exactly what is known about a write that got no answer.
//!
//! This crate never contains server code, never knows how writes are agreed on, and
//! never repeats a write that could have effect twice: each write gets a name of its
//! own (an `Idempotency-Key`), under which the cluster takes it once.
//!
//! [`Client`] has the calls, [`ClientError`] what can become of them. `attempt` is one
//! HTTP exchange, `retry` decides about the next one, `endpoints` chooses the node, `name`
//! says which writes of this client's session may still be sent, and `moment` is a clock that goes
//! on while the machine sleeps.
//!
//! What lasts longer than a call are [`Watch`]es, which resume by themselves, and
//! [`LeaseKeeper`], [`LockGuard`] and [`Leadership`], which are kept alive in the background, tell
//! when they are lost, and let go of what they hold when they are dropped.
//!
//! ```no_run
//! # async fn f() -> Result<(), synod_client::ClientError> {
//! use synod_client::{Client, ClientOptions, PutOptions, ReadOptions};
//!
//! let nodes = ["http://127.0.0.1:7001", "http://127.0.0.1:7002", "http://127.0.0.1:7003"];
//! let client = Client::new(nodes, ClientOptions::default())?;
//! client.put(b"greeting", "hello", &PutOptions::default()).await?;
//! let found = client.get(b"greeting", &ReadOptions::default()).await?;
//! # Ok(()) }
//! ```
//!
//! `docs/client.md` tells more, and `crates/client/examples` has programs that run.

mod answer;
mod answer_body;
mod attempt;
mod backup;
mod batch;
mod batch_task;
mod claim;
mod claimed;
mod client;
mod compaction;
mod election;
mod endpoints;
mod error;
mod event_stream;
mod json_text;
mod keeper;
mod lease;
mod lock;
mod long_call;
mod members;
mod moment;
mod name;
mod options;
mod range_delete;
mod retry;
mod scan;
mod silence;
mod target;
mod transaction;
mod underway;
mod watch;

pub use answer::{Deleted, Entry, Found, Page, Record, Removed, Stored};
pub use backup::Backup;
pub use batch::{BatchLines, BatchOptions, BatchOutcome, BatchResult, BatchResults};
pub use claim::{ClaimOptions, Holder};
pub use claimed::Claimed;
pub use client::Client;
pub use compaction::Compacted;
pub use election::{Leadership, Observer};
pub use error::ClientError;
pub use json_text::{key_text, value_text};
pub use keeper::{LeaseKeeper, LeaseLost};
pub use lease::{Granted, LeaseInfo, LeasePage, Revoked};
pub use lock::LockGuard;
pub use options::{
    Attach, ClientOptions, Consistency, DeleteOptions, ListOptions, PutOptions, ReadOptions,
    TransactionOptions, WriteOptions,
};
pub use scan::Scan;
pub use synod_kv::http::{
    AddMemberBody, ChangeMemberBody, DamageBody, DamagedPart, Encoding, EventKind, LeaderHint,
    MemberBody, MemberRole, MembersBody, Problem, ProblemKind, QuorumsBody, RoleName, StatusBody,
};
pub use synod_kv::{Condition, LeaseId, Relation, Revision};
pub use target::percent_encode;
pub use transaction::{Compare, Operation, OperationResult, Transacted, Transaction};
pub use watch::{Changes, Watch, WatchEvent, WatchOptions, WatchStep};
