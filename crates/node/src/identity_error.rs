//! Why a data folder is not made, or not taken for the node that the settings mean.

use std::path::PathBuf;

use synod_journal::OpenError;
use synod_storage::snapshot::SnapshotError;

use crate::folder::FolderError;
use crate::unfinished::Unfinished;

/// What there is to do when a node does not know any more who it is.
const WAY_OUT: &str = "The file never changes, so a copy of it that was made of this very folder may be \
     put back. Do not write one yourself, nor take another node's: a node under a wrong name can undo \
     what others were told is durable. Without a copy keep the folder; the others go on without this \
     node. Put one with a new id and an empty data_dir in its place: `synod member replace OLD --config \
     FILE`, where OLD is the `node_id` in the settings of this node, and FILE the settings of the new one";

/// Why `init` made nothing.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The folder can't be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A node lives here already.
    #[error(
        "{} already holds node {node} of cluster {cluster:032x}; `synod {command}` never overwrites a \
         node. To start it, use `synod serve`; for a new node, name another folder",
        path.display()
    )]
    Exists {
        /// What was to make a node.
        command: &'static str,
        /// The folder.
        path: PathBuf,
        /// Its node.
        node: u32,
        /// Its cluster.
        cluster: u128,
    },
    /// Another command was making a node.
    #[error(
        "{} holds {unfinished}. To make something else of it, remove the folder first",
        path.display()
    )]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// What was interrupted.
        unfinished: Unfinished,
    },
    /// Something else is there.
    #[error("{} is not empty: it holds {found}", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// Some of what is there.
        found: String,
    },
    /// The identity that is there can't be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal can't be made.
    #[error("cannot make the journal: {0}")]
    Journal(#[from] OpenError),
    /// What an interrupted restore left can't be put aside.
    #[error(transparent)]
    State(#[from] SnapshotError),
    /// The cluster that is to be joined is not the one, or does not know this node.
    #[error("the cluster that answered cannot be joined with these settings: {reason}")]
    Unfit {
        /// What does not fit.
        reason: String,
    },
    /// No random numbers.
    #[error("cannot draw a store id from /dev/urandom: {0}")]
    Random(std::io::Error),
}

/// Why a folder is not the one that the settings mean.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Nothing was ever made here.
    #[error(
        "{} holds no node. For a new cluster, run `synod init` on each of its nodes first; for a new \
         node of a running cluster, `synod member add`. If this node was a member and lost its disk, \
         do not run `init`: a node that forgot its votes must not come back. The others go on \
         without it; put a new node, with a new id, in its place with `synod member replace`",
        .0.display()
    )]
    Missing(PathBuf),
    /// What was to become a node is no node yet.
    #[error("{} holds no node yet, but {unfinished}", path.display())]
    Unfinished {
        /// The folder.
        path: PathBuf,
        /// What was interrupted.
        unfinished: Unfinished,
    },
    /// The file is damaged.
    #[error("{}: the identity of the data folder cannot be read: {reason}. {WAY_OUT}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A later release made the file.
    #[error(
        "{}: it has format {format}, which this release does not know: start the release that \
         wrote it, or a later one", file.display()
    )]
    Later {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u32,
    },
    /// What says whom the node has met is damaged.
    #[error(
        "{}: the folders of the peers that this node has met cannot be read: {reason}. Keep the folder; the \
         others go on without this node: put one with a new id in its place with `synod member replace`",
        file.display()
    )]
    Pins {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// What says how far the node has joined is damaged.
    #[error(
        "{}: it cannot be read: {reason}. No node ever ran here: look with `synod member list` \
         whether the cluster knows this id already, and remove that member then; remove this \
         folder, and begin again with a new id", file.display()
    )]
    Joining {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// It is another node's, or another cluster's, or was made with other members.
    #[error("{} belongs to {found}, but the settings say {expected}", path.display())]
    Mismatch {
        /// The folder.
        path: PathBuf,
        /// What the folder says.
        found: String,
        /// What the settings say.
        expected: String,
    },
    /// Another node made promises in this journal.
    #[error(
        "{} is the journal of {found}, but the data folder is that of {expected}: did two nodes get \
         each other's volume, or an identity.json? What this node promised is in its own journal, \
         and it must not vote without. Give each node its own volume, and start it again. If the own \
         journal is lost put a new node, with a new id, in its place with `synod member replace`",
        path.display()
    )]
    OtherJournal {
        /// The journal.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose data folder it is in.
        expected: String,
    },
    /// The file can't be read.
    #[error(transparent)]
    Folder(#[from] FolderError),
}
