//! Why a store could not be opened.

use std::io;
use std::path::{Path, PathBuf};

/// The number by which Unix systems tell that a disk failed to read or write.
const EIO: i32 = 5;

/// Opening failed. Each message stands for itself: what, where, and what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process, or another part of this one, has the folder open.
    #[error("the state folder {} is in use by a running node", .0.display())]
    InUse(PathBuf),
    /// The folder cannot be made, entered, read or written.
    #[error("cannot use the state folder {}: {reason}", .path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// Files are missing or have wrong contents.
    #[error("the state in {} is damaged: {reason}", .path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    /// Sorts an error of a read that is not RocksDB's. What the disk cannot read is lost.
    pub(crate) fn of_read(path: &Path, error: &io::Error) -> Self {
        let (path, reason) = (path.to_owned(), error.to_string());
        match error.raw_os_error() {
            Some(EIO) => StoreError::Damaged { path, reason },
            _ => StoreError::Unusable { path, reason },
        }
    }

    /// Sorts an error of RocksDB's open. All that there is to tell them apart is
    /// the message.
    pub(crate) fn of_open(path: &Path, error: rocksdb::Error) -> Self {
        let kind = error.kind();
        let path = path.to_owned();
        let reason = error.into_string();
        let is_lock = reason.contains("/LOCK: ") || reason.starts_with("IO error: lock ");
        let is_denied =
            ["Permission denied", "Read-only file system", "No space left", "Too many open files"]
                .iter()
                .any(|text| reason.contains(text));
        match kind {
            _ if is_denied => StoreError::Unusable { path, reason },
            rocksdb::ErrorKind::IOError if is_lock => StoreError::InUse(path),
            // What another release of RocksDB wrote is an invalid argument: no damage.
            rocksdb::ErrorKind::Corruption => StoreError::Damaged { path, reason },
            // A file that the others speak of is not there, or the disk can't read it.
            _ if ["No such file", "Input/output error"]
                .iter()
                .any(|text| reason.contains(text)) =>
            {
                StoreError::Damaged { path, reason }
            }
            _ => StoreError::Unusable { path, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, Options};

    use super::*;
    use crate::{Store, StoreOptions};

    #[test]
    fn what_the_disk_cannot_read_is_damaged_and_what_is_denied_is_not() {
        let path = Path::new("state");
        let of = |number| StoreError::of_read(path, &io::Error::from_raw_os_error(number));
        assert!(matches!(of(EIO), StoreError::Damaged { .. }));
        for number in [1, 2, 13, 24, 28] {
            assert!(matches!(of(number), StoreError::Unusable { .. }), "{number}");
        }
    }

    /// As a later release may write it, for all that this one knows.
    #[test]
    fn a_state_that_cannot_be_opened_this_way_is_not_called_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        drop(Store::open(&path, &StoreOptions::default()).expect("opens"));
        let mut db = DB::open_default(&path).expect("opens");
        db.create_cf("later", &Options::default()).expect("made");
        drop(db);
        let refused = Store::open(&path, &StoreOptions::default()).map(drop);
        let Err(StoreError::Unusable { reason, .. }) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("olumn families not opened"), "{reason}");
    }
}
