//! Why a snapshot could not be made, taken or installed.

use std::io;
use std::path::{Path, PathBuf};

use synod_kv::MapError;

use crate::StoreError;

/// What went wrong with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The list of files is none that a node would make.
    #[error("the snapshot is refused: {0}")]
    Refused(String),
    /// What arrived is not what was sent, or was damaged before.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
    /// The disk has too little room.
    #[error(
        "the snapshot takes {wanted_bytes} bytes, and the disk has {free_bytes} free of which \
         {reserve_bytes} are kept in reserve: make room"
    )]
    NoRoom {
        /// The size of the snapshot.
        wanted_bytes: u64,
        /// What may be written.
        free_bytes: u64,
        /// What must be left.
        reserve_bytes: u64,
    },
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// What was written may not be on the disk, and a second try would not tell: the process has to
    /// stop.
    #[error("cannot sync {}: {source}", path.display())]
    Sync {
        /// Of which file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The state could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state could not be read.
    #[error("{0}")]
    Map(#[from] MapError),
}

/// Names what was tried on what.
pub(crate) trait During<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, SnapshotError>;
    fn syncing(self, path: &Path) -> Result<T, SnapshotError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Io { what, path: path.to_owned(), source })
    }

    fn syncing(self, path: &Path) -> Result<T, SnapshotError> {
        self.map_err(|source| SnapshotError::Sync { path: path.to_owned(), source })
    }
}
