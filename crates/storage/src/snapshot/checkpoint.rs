//! The state as of one slot, in a folder of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use synod_kv::State;

use super::SnapshotError;
use super::error::During;
use super::file::{self, SnapshotFile};
use crate::{Store, StoreError};

/// The state as of one slot. It shares its files with the state that it was made of,
/// and keeps them when that one drops them.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    pub(super) state: State,
    files: Vec<SnapshotFile>,
    /// Of the files that were asked for.
    checksums: BTreeMap<usize, u32>,
}

impl Store {
    /// Flushes what is in memory and gathers all files in `path`, a folder that does not
    /// exist yet and is on the same disk. It is there as a whole or not at all; beside
    /// it `path.tmp` may be left by a crash. Whatever is written meanwhile is in it up
    /// to some slot, which it tells.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn checkpoint(&self, path: &Path) -> Result<Checkpoint, SnapshotError> {
        let maker = rocksdb::checkpoint::Checkpoint::new(self.database());
        let made = maker.and_then(|maker| maker.create_checkpoint(path));
        made.map_err(|error| StoreError::Unusable {
            path: path.to_owned(),
            reason: error.into_string(),
        })?;
        Checkpoint::open(path)
    }
}

impl Checkpoint {
    /// Opens what [`Store::checkpoint`] made.
    pub(super) fn open(path: &Path) -> Result<Checkpoint, SnapshotError> {
        let state = State::load(&Store::open_read_only(path)?)?;
        let mut files = Vec::new();
        for entry in fs::read_dir(path).during("read", path)? {
            let entry = entry.during("read", path)?;
            let bytes = entry.metadata().during("look at", &entry.path())?.len();
            // Beside its data RocksDB leaves an empty log of writes and its own log.
            if let Ok(name) = entry.file_name().into_string()
                && file::is_name(&name)
            {
                files.push(SnapshotFile { name, bytes });
            }
        }
        files.sort();
        file::check(&files)?;
        Ok(Checkpoint { path: path.to_owned(), state, files, checksums: BTreeMap::new() })
    }

    /// How far the state machine was.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Its files in the order of their names.
    #[must_use]
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// The length of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// At most `bytes_max` bytes of a file from `offset` on; none for a file or a place
    /// that does not exist.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, file: usize, offset: u64, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        let Some(SnapshotFile { name, bytes }) = self.files.get(file) else { return Ok(None) };
        if offset > *bytes {
            return Ok(None);
        }
        let count = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(bytes_max);
        let mut chunk = vec![0; count];
        File::open(self.path.join(name))?.read_exact_at(&mut chunk, offset)?;
        Ok(Some(chunk))
    }

    /// The CRC-32C of a whole file. It is read once, when it is first asked for.
    ///
    /// # Errors
    /// When the file cannot be read.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn checksum(&mut self, file: usize) -> io::Result<u32> {
        if let Some(checksum) = self.checksums.get(&file) {
            return Ok(*checksum);
        }
        let checksum = file::checksum(&self.path.join(&self.files[file].name))?;
        self.checksums.insert(file, checksum);
        Ok(checksum)
    }

    /// Removes the folder.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(self) -> Result<(), SnapshotError> {
        fs::remove_dir_all(&self.path).during("remove", &self.path)
    }
}
