//! Why a node does not start, or stops.

use std::path::PathBuf;

use synod_journal::OpenError;
use synod_kv::MapError;
use synod_storage::StoreError;
use synod_storage::snapshot::SnapshotError;

use crate::filled::FilledError;
use crate::folder::FolderError;
use crate::identity_error::IdentityError;
use crate::recovery::RecoveryError;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The data folder is not this node's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It stopped because it met what must never be.
    #[error(
        "this node stopped because one of its invariants did not hold, and must not start again \
         by itself. {} says what happened: {}. When that is understood, remove the file. If most \
         voters had another state than this node, put a new node in its place with `synod member \
         replace`; or rename the file to {}, and the next start takes over the state of a peer",
        path.display(), words.trim(), crate::marks::REBUILD
    )]
    Violation {
        /// The file.
        path: PathBuf,
        /// What it says.
        words: String,
    },
    /// The data folder is an older copy of itself.
    #[error(
        "the data folder is older than what this node has told its peers, or was in use twice. \
         What it promised since is missing, so it must never vote again: put a node with a new id \
         in its place with `synod member replace`. {} says: {}", path.display(), words.trim()
    )]
    WentBack {
        /// The file.
        path: PathBuf,
        /// What it says.
        words: String,
    },
    /// A peer refuses this node while it asks for a state.
    #[error("a peer refuses this node: {words}")]
    Barred {
        /// What it says.
        words: String,
        /// No later start can be let in.
        for_good: bool,
    },
    /// The state is lost, and the next start fetches another one.
    #[error(
        "{reason}. What this node promised and accepted is safe in its journal: start it again, \
         and it takes over the state of a peer"
    )]
    Rebuild {
        /// What is wrong with the state.
        reason: String,
    },
    /// The state is lost, and nobody gives another one.
    #[error(
        "the state of this node can't be used, and no other takes its place: {why}. Nothing was \
         removed. See to it that a peer is up and reachable, and start this node again; or \
         put a new node in its place with `synod member replace`. To go on with what can still be \
         read of its own state remove the file {}: reads of what is damaged fail then, and if the \
         state is not to be believed at all, wrong answers are given. If it has no peers, `synod \
         restore` makes a new cluster from a backup",
        crate::marks::REBUILD
    )]
    NoState {
        /// Why not.
        why: String,
    },
    /// The state is lost, and this node has no peers.
    #[error(
        "{reason}. This node knows no peers that could give it another state. If the state was moved \
         or replaced, put it back; else look with `synod recover` what can still be made of the \
         folder, or make a new cluster of a backup with `synod restore`"
    )]
    Alone {
        /// What is wrong with the state.
        reason: String,
    },
    /// It was told to stop before it ran.
    #[error("this node was told to stop while it started")]
    Stopped,
    /// It was removed from its cluster.
    #[error(
        "this node was removed from its cluster, says {}: nobody listens to it any more. An id and \
         its data folder are used once: keep the folder or delete it; a new node, with a new id and \
         an empty folder, joins with `synod member add`",
        .0.display()
    )]
    Removed(PathBuf),
    /// An address can't be listened on.
    #[error("{field}: cannot listen on {address}: {source}{}", hint(source))]
    Listen {
        /// The setting.
        field: &'static str,
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too few files can be open.
    #[error(
        "too few open files: this process may have {limit}, and a node needs {least} at the least: \
         raise `ulimit -n`, or LimitNOFILE of its unit, best to {wanted}"
    )]
    Descriptors {
        /// The limit.
        limit: u64,
        /// With fewer it does not work.
        least: u64,
        /// What all connections would need.
        wanted: u64,
    },
    /// The journal can't be opened.
    #[error("{0}")]
    Journal(#[from] OpenError),
    /// The state can't be opened.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The states in the folder can't be told apart, or put in order.
    #[error("{0}")]
    States(#[from] SnapshotError),
    /// The state can't be read.
    #[error("{0}")]
    State(MapError),
    /// The state can't be rebuilt.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The trace of durability can't be written.
    #[error("--trace-durability: cannot open {}: {source}", path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No thread, or no runtime.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl From<FilledError> for StartError {
    fn from(error: FilledError) -> StartError {
        match error {
            FilledError::Folder(error) => error.into(),
            FilledError::Unclear(error) => error.into(),
        }
    }
}

fn hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return ". Another process has this port: stop it, or set another one";
    }
    ""
}

/// Why a node stopped by itself, or did not stop well.
#[derive(Debug, thiserror::Error)]
#[error("the node stopped: {0}")]
pub struct NodeFailure(pub String);
