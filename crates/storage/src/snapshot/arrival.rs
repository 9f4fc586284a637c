//! A folder that is being filled with a copy of a checkpoint.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use synod_kv::State;

use super::error::During;
use super::file::{self, SnapshotFile};
use super::{SnapshotError, StateFolders, folders};
use crate::{Store, failpoint};

/// A snapshot on its way. Nothing of it counts before [`Arrival::verify`].
#[derive(Debug)]
pub struct Arrival {
    data: PathBuf,
    path: PathBuf,
    slot: u64,
    files: Vec<SnapshotFile>,
    bytes: u64,
    /// What the disk must have left beside what is still to come.
    pub(super) reserve_bytes: u64,
    open: Option<(usize, File)>,
}

/// A snapshot that is here as a whole: each file is what was sent, and durable, and
/// every block of the state fits its checksum.
#[derive(Debug)]
pub struct Verified {
    pub(super) path: PathBuf,
    pub(super) state: State,
}

impl Arrival {
    /// Begins a folder for these files, of a state as of `slot`. What arrived of
    /// another one is removed.
    ///
    /// # Errors
    /// When the list is none that a node would make, or the disk has no room for it
    /// beside the reserve.
    pub fn begin(
        folders: &StateFolders,
        slot: u64,
        files: Vec<SnapshotFile>,
        reserve_bytes: u64,
    ) -> Result<Arrival, SnapshotError> {
        let bytes = file::check(&files)?;
        let (data, path) = (folders.data().to_owned(), folders.arriving());
        if path.exists() {
            fs::remove_dir_all(&path).during("remove", &path)?;
        }
        look_for_room(&data, bytes, reserve_bytes)?;
        DirBuilder::new().mode(0o700).create(&path).during("make", &path)?;
        failpoint::hit(&data, "arrival begun").during("go on with", &path)?;
        Ok(Arrival { data, path, slot, files, bytes, reserve_bytes, open: None })
    }

    /// The slot that the snapshot stands for.
    #[must_use]
    pub fn slot(&self) -> u64 {
        self.slot
    }

    /// The files, in the order in which they were listed.
    #[must_use]
    pub fn files(&self) -> &[SnapshotFile] {
        &self.files
    }

    /// The length of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a part of a file.
    ///
    /// # Errors
    /// When it does not belong into the file, or cannot be written.
    pub fn write(&mut self, file: usize, offset: u64, chunk: &[u8]) -> Result<(), SnapshotError> {
        let Some(SnapshotFile { bytes, .. }) = self.files.get(file) else {
            return Err(SnapshotError::Refused(format!("it has no file {file}")));
        };
        if offset.checked_add(chunk.len() as u64).is_none_or(|end| end > *bytes) {
            return Err(SnapshotError::Refused(format!("file {file} is longer than announced")));
        }
        let path = self.path_of(file);
        self.opened(file, &path)?.write_all_at(chunk, offset).during("write", &path)
    }

    /// Ends a file: makes it durable and compares it with the checksum of the sender's.
    /// It is read back for that, so that what counts is what was written.
    ///
    /// Others write to the disk meanwhile, so the room for the files that come after it is
    /// looked at again.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] when it is another one; it may be written once more.
    /// [`SnapshotError::NoRoom`] when the others do not fit any more.
    /// [`SnapshotError::Sync`] when it may not be on the disk: the node must stop.
    pub fn finish_file(&mut self, file: usize, checksum: u32) -> Result<(), SnapshotError> {
        let path = self.path_of(file);
        self.opened(file, &path)?.sync_all().syncing(&path)?;
        self.open = None;
        let length = fs::metadata(&path).during("look at", &path)?.len();
        if length != self.files[file].bytes
            || file::checksum(&path).during("read", &path)? != checksum
        {
            let name = &self.files[file].name;
            return Err(SnapshotError::Damaged(format!("{name} is not what was sent")));
        }
        let left_bytes = self.files[file + 1..].iter().map(|file| file.bytes).sum();
        if left_bytes > 0 {
            look_for_room(&self.data, left_bytes, self.reserve_bytes)?;
        }
        failpoint::hit(&self.data, "file received").during("go on with", &path)
    }

    /// Checks the whole, every block of it. `go_on` is asked now and then.
    ///
    /// # Errors
    /// When it is not the state that it should be, or `go_on` said no. [`SnapshotError::Sync`]
    /// when it may not be on the disk: the node must stop.
    pub fn verify(self, go_on: impl Fn() -> bool) -> Result<Verified, SnapshotError> {
        let damaged = |reason: String| SnapshotError::Damaged(reason);
        file::sync_folder(&self.path).syncing(&self.path)?;
        let store =
            Store::open_read_only(&self.path).map_err(|error| damaged(error.to_string()))?;
        store.verify(go_on).map_err(|error| damaged(error.to_string()))?;
        let state = State::load(&store).map_err(|error| damaged(error.to_string()))?;
        drop(store);
        if state.applied_slot != self.slot {
            let found = state.applied_slot;
            return Err(damaged(format!("it is of slot {found}, announced was {}", self.slot)));
        }
        failpoint::hit(&self.data, "arrival verified").during("go on with", &self.path)?;
        Ok(Verified { path: self.path, state })
    }

    /// The file for writing. One is open at a time: they come one after the other.
    fn opened(&mut self, file: usize, path: &Path) -> Result<&File, SnapshotError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            self.open = Some((file, options.open(path).during("open", path)?));
        }
        Ok(&self.open.as_ref().expect("just opened").1)
    }

    fn path_of(&self, file: usize) -> PathBuf {
        self.path.join(&self.files[file].name)
    }
}

/// Whether so many bytes more leave the disk its reserve.
fn look_for_room(data: &Path, wanted_bytes: u64, reserve_bytes: u64) -> Result<(), SnapshotError> {
    let free_bytes = folders::free_bytes(data)?;
    match free_bytes.saturating_sub(reserve_bytes) < wanted_bytes {
        true => Err(SnapshotError::NoRoom { wanted_bytes, free_bytes, reserve_bytes }),
        false => Ok(()),
    }
}

impl Verified {
    /// It is not wanted any more: removes it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(self) -> Result<(), SnapshotError> {
        fs::remove_dir_all(&self.path).during("remove", &self.path)
    }

    /// Looks at all of it again, after somebody has written to it.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn again(self) -> Result<Verified, SnapshotError> {
        let damaged = |reason: String| SnapshotError::Damaged(reason);
        let store =
            Store::open_read_only(&self.path).map_err(|error| damaged(error.to_string()))?;
        store.verify(|| true).map_err(|error| damaged(error.to_string()))?;
        let state = State::load(&store).map_err(|error| damaged(error.to_string()))?;
        Ok(Verified { path: self.path, state })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far the state machine is in it.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }
}
