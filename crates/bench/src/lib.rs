//! Measures clusters from outside: a load generator, the failover benchmark,
//! the comparison with a peer, and the report page with its plots.
//!
//! A cluster is only ever seen through its client port, its `/metrics`, its
//! processes' ids and a [`failover::ClusterControl`]: what is measured is
//! what a user would get. This crate never contains server code and never
//! knows how the servers agree.
//!
//! The entry points are [`throughput::run`], [`failover::run`] and
//! [`compare::run`]. Each blocks until it is done and gives a result that
//! serialises to JSON and prints as a table; [`report`] writes it as a page.

pub mod chaos;
pub mod compare;
pub mod failover;
pub mod report;
pub mod throughput;

mod address;
mod connection;
mod disk;
mod error;
mod etcd;
mod keys;
mod latency;
mod leader;
mod pacer;
mod probe;
mod process;
mod progress;
mod request_error;
mod session;
mod synod;
mod table;

pub use address::{ClusterFile, NodeAddress, NodeId};
pub use connection::Protocol;
pub use disk::in_memory;
pub use error::BenchError;
pub use keys::Distribution;
pub use latency::Latency;
pub use leader::{Ballot, Leader};
pub use process::names_path;
pub use progress::Progress;
pub use request_error::{Effect, ErrorKind, RequestError};
pub use session::Placement;
