//! What can go wrong, in the words of whoever has to act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use synod_paxos::{Ballot, Position, Slot};
use synod_wire::record::ClusterId;
use thiserror::Error;

/// The number by which Unix systems tell that a disk failed to read or write.
pub(crate) const EIO: i32 = 5;

/// Why a journal was not opened or created. The folder is as it was.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No journal was ever made here.
    #[error(
        "{} holds no journal; a new node needs `init`. A node that lost its disk must not vote: the \
         others go on without it, and `synod member replace` puts a new one in its place",
        .0.display()
    )]
    Missing(PathBuf),
    /// `create` found a journal.
    #[error("{} already holds a journal", .0.display())]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("the journal in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It belongs to another cluster.
    #[error("{} belongs to cluster {found}, not to {expected}", .file.display())]
    WrongCluster {
        /// The segment that says so.
        file: PathBuf,
        /// Its cluster.
        found: ClusterId,
        /// The cluster asked for.
        expected: ClusterId,
    },
    /// Written by a program that is newer than this one.
    #[error(
        "{} has format version {version}, which this program does not know: a newer release wrote \
         it with a raised `write_version`, and only such a release can go on with it",
        .file.display()
    )]
    Version {
        /// The segment that says so.
        file: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Something acknowledged is damaged; the promise in force is known.
    #[error("journal damaged: {0}; {ADVICE_DAMAGED}")]
    Damaged(Damage),
    /// Something is damaged that may have held a higher promise.
    #[error("journal damaged: {0}; {ADVICE_PROMISE}")]
    PromiseNotProvable(Damage),
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
}

const ADVICE_DAMAGED: &str = "what this node accepted is not all there, so it must not vote: keep \
     the folder, and check the disk. The others go on without it; put a new node in its place with \
     `synod member replace`";
const ADVICE_PROMISE: &str = "a promise of this node may be lost, so it must not vote: keep the \
     folder, and check the disk. The others go on without it; put a new node in its place with \
     `synod member replace`";

/// Where a journal is damaged, and what was there if other copies tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment.
    pub file: PathBuf,
    /// The offset in bytes of the first damaged sector.
    pub offset: u64,
    /// What is wrong.
    pub what: &'static str,
    /// The position of the first damaged record.
    pub position: Option<Position>,
    /// Its slot.
    pub slot: Option<Slot>,
    /// Its ballot, if it was an acceptance.
    pub ballot: Option<Ballot>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.what)?;
        if let Some(position) = self.position {
            write!(f, ", record {}", position.0)?;
        }
        if let Some(slot) = self.slot {
            write!(f, ", slot {slot}")?;
        }
        if let Some(ballot) = self.ballot {
            write!(f, ", ballot {ballot}")?;
        }
        Ok(())
    }
}

/// Why an open journal no longer works. The node has to stop: after a failed
/// write or sync nobody knows what is on disk until it is read again.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// A value is larger than a record can be.
    #[error("a value of {bytes} bytes is larger than {} bytes", synod_wire::record::BODY_BYTES_MAX)]
    ValueTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A value read back is not the one that was written.
    #[error("journal damaged: {0}")]
    Damaged(Damage),
    /// An earlier call failed.
    #[error("the journal has failed before: {0}")]
    Failed(String),
}

impl JournalError {
    /// Whether it says of a read that what was written is lost: it is other bytes now, or the disk
    /// cannot read it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            JournalError::Damaged(_) => true,
            JournalError::Io { what: "read", source, .. } => source.raw_os_error() == Some(EIO),
            _ => false,
        }
    }
}

/// A refusal of the operating system, with what was tried on what.
#[derive(Debug)]
pub(crate) struct IoFailure {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Names the operation whose result this is.
pub(crate) trait During<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, IoFailure>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: &'static str, path: &Path) -> Result<T, IoFailure> {
        self.map_err(|source| IoFailure { what, path: path.to_owned(), source })
    }
}

impl From<IoFailure> for OpenError {
    fn from(IoFailure { what, path, source }: IoFailure) -> Self {
        OpenError::Io { what, path, source }
    }
}

impl From<IoFailure> for JournalError {
    fn from(IoFailure { what, path, source }: IoFailure) -> Self {
        JournalError::Io { what, path, source }
    }
}
