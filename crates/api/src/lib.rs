//! The store over HTTP/1.1: what clients send is checked here, bounded here, and
//! answered here, with errors that a person can act on.
//!
//! This crate never knows how a write is agreed on, never touches the storage
//! engine, and never takes a byte from a client that no limit covers. What it needs
//! from the replica is the trait [`Replica`].
//!
//! [`serve`] is the accept loop. `connection` carries one client, `router` finds the
//! handler, and there is a file for each kind of call: `key`, `listing`,
//! `range_delete`, `txn`, `batch`, `compaction`, `watch`, `lease`, `lock`, `cluster`,
//! `members`, `node`. `openapi` describes all of them.

mod activity;
mod admission;
mod backup;
mod batch;
mod batch_lines;
mod call;
mod claim;
mod cluster;
mod compaction;
mod connection;
mod context;
mod counters;
mod document;
mod key;
mod lease;
mod leased_put;
mod limits;
mod lines;
mod listing;
mod lock;
mod members;
mod membership;
mod node;
mod openapi;
mod operation;
mod precondition;
mod problem;
mod range_delete;
mod refusal;
mod release;
mod replica;
mod request_body;
mod response;
mod router;
mod server;
mod target;
mod txn;
mod txn_name;
mod watch;
mod withdrawal;

pub use limits::Limits;
pub use members::{is_client_url, is_peer_address};
pub use membership::{MemberChange, Wanted};
#[doc(hidden)]
pub use openapi::openapi;
pub use replica::{BackupParts, ChangeRefused, Leader, Refused, Replica};
#[doc(hidden)]
pub use router::{Route, routes};
pub use server::serve;
#[doc(hidden)]
pub use server::serve_by;
