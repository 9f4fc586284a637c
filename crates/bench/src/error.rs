//! Why a benchmark could not be run. A benchmark that ran and found something
//! bad is a result, not an error.

use std::path::PathBuf;

use crate::NodeId;
use crate::failover::ControlError;

/// Why a benchmark gave no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// An option is outside what can be measured.
    #[error("{option} {reason}")]
    Option {
        /// The option as the command line calls it.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A cluster file does not say what it has to.
    #[error("{path} is not a cluster file: {reason}")]
    ClusterFile {
        /// Which file.
        path: PathBuf,
        /// What is missing or malformed.
        reason: String,
    },
    /// A node's address is not `http://HOST:PORT`.
    #[error("node {node}: {url:?} is not an address of the form http://HOST:PORT")]
    Address {
        /// The node with the address.
        node: NodeId,
        /// The address as given.
        url: String,
    },
    /// No node said within the time given that it leads.
    #[error("no node said within {waited_s} s that it leads the cluster")]
    NoLeader {
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// A node did not become ready in time.
    #[error("node {node} was not ready within {waited_s} s")]
    NotReady {
        /// Which node.
        node: NodeId,
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// Not one operation succeeded, so there is nothing to report.
    #[error("not one operation was acknowledged ({errors})")]
    NothingAcknowledged {
        /// The errors seen instead, by kind.
        errors: String,
    },
    /// The load went well and then came to a halt.
    #[error("no write was acknowledged for {waited_s} s")]
    Stalled {
        /// How long was waited, in seconds.
        waited_s: u64,
    },
    /// The generator kept as many acknowledgements as it may.
    #[error("more than {limit} acknowledgements: ask for fewer kills or a shorter run")]
    TooManyAcknowledgements {
        /// How many are kept at most.
        limit: usize,
    },
    /// The cluster could not be controlled.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The operating system refused something the generator needs.
    #[error("the load generator could not start: {0}")]
    Generator(#[from] std::io::Error),
    /// The peer of a comparison could not be run.
    #[error("{0}")]
    Peer(String),
}

impl BenchError {
    pub(crate) fn option(option: &'static str, reason: impl Into<String>) -> Self {
        Self::Option { option, reason: reason.into() }
    }
}
