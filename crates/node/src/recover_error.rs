//! Why no new cluster is made of a survivor.

use std::io;
use std::path::PathBuf;

use synod_journal::{JournalError, OpenError};
use synod_kv::MapError;
use synod_paxos::{ConfigurationError, Slot};
use synod_storage::StoreError;
use synod_storage::snapshot::SnapshotError;

use crate::apply_thread::ApplyError;
use crate::folder::FolderError;
use crate::identity_error::{IdentityError, InitError};

/// Why nothing was recovered. The survivor's folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The node runs.
    #[error("{} is in use: the node runs, and is to be stopped first", .0.display())]
    InUse(PathBuf),
    /// There is no node.
    #[error("{} holds no node: name the data_dir of a node that is left", .0.display())]
    NoNode(PathBuf),
    /// The node never served.
    #[error("{} was made and never started, so there is nothing to recover", .0.display())]
    NeverStarted(PathBuf),
    /// The state ends before the journal begins.
    #[error(
        "the state ends at slot {applied}, but the journal holds nothing up to slot {truncated}: \
         what lies between is not in this folder. Recover from another node that is left, or \
         restore a backup"
    )]
    StateLost {
        /// The last slot in the state.
        applied: Slot,
        /// The last slot that the journal dropped.
        truncated: Slot,
    },
    /// The new folder would lie in the survivor's.
    #[error("{} lies in the survivor's folder, which is left as it is: name another one", .0.display())]
    Within(PathBuf),
    /// No such node can be.
    #[error("node {node} cannot be the only member: {reason:?}")]
    Impossible {
        /// The node.
        node: u32,
        /// Why.
        reason: ConfigurationError,
    },
    /// The survivor's folder can't be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The folder, or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The survivor's identity can't be read.
    #[error("{0}")]
    Identity(String),
    /// The journal can't be read.
    #[error("{0}")]
    Journal(#[from] OpenError),
    /// A value in the journal can't be read.
    #[error("{0}")]
    Value(#[from] JournalError),
    /// The state can't be opened.
    #[error("{0}; recover from another node that is left, or restore a backup")]
    Store(#[from] StoreError),
    /// The state can't be read or written.
    #[error("{0}")]
    State(#[from] MapError),
    /// The state is damaged, or can't be copied.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A value can't be applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The new folder can't be made.
    #[error(transparent)]
    Target(#[from] InitError),
}

impl From<FolderError> for RecoverError {
    fn from(error: FolderError) -> Self {
        RecoverError::Target(error.into())
    }
}

impl From<IdentityError> for RecoverError {
    fn from(error: IdentityError) -> Self {
        RecoverError::Target(error.into())
    }
}
