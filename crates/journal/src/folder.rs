//! The folder: its lock, and the names in it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use crate::OpenError;
use crate::error::{During, IoFailure};

const LOCK_NAME: &str = "LOCK";
const SUFFIX: &str = ".seg";
/// Of a segment that is no part of the journal any more, and is kept for what it still shows.
const KEPT_SUFFIX: &str = ".kept";
/// A segment that is written as a whole, before it has its name.
const NEW_NAME: &str = "new";
const DIGITS: usize = 16;

/// Segment numbers have at most 16 decimal digits, and fit into the index.
pub(crate) const SEGMENT_NUMBER_MAX: u64 = u32::MAX as u64;

/// An open folder that no other process can open.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    directory: File,
    _lock: Option<File>,
    /// Once it is set no segment is opened to be read any more, nor read on in parts.
    stop: Option<Arc<AtomicBool>>,
    /// Whether segments that are kept aside count.
    with_kept: bool,
}

impl Folder {
    /// Makes the folder if need be, and opens it.
    pub(crate) fn create(path: &Path) -> Result<Folder, OpenError> {
        let is_missing = |level: &&Path| !level.as_os_str().is_empty() && !level.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        for level in missing.into_iter().rev() {
            DirBuilder::new().mode(0o700).create(level).during("create folder", level)?;
            sync_name(level)?;
        }
        // Also of a folder that was there: a crash may have come before its sync.
        sync_name(path)?;
        Folder::open(path)
    }

    /// Opens an existing folder and locks it until this is dropped.
    pub(crate) fn open(path: &Path) -> Result<Folder, OpenError> {
        let directory = open_folder(path)?;
        let lock_path = path.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(&lock_path).during("open", &lock_path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { _lock: Some(lock), ..Folder::of(path, directory) }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                Err(OpenError::Io { what: "lock", path: lock_path, source })
            }
        }
    }

    /// Opens an existing folder in which nothing may be changed, as it may lie on a disk
    /// that can't be written any more. Without a file to lock nobody has it open.
    pub(crate) fn open_to_read(path: &Path) -> Result<Folder, OpenError> {
        let directory = open_folder(path)?;
        let lock_path = path.join(LOCK_NAME);
        let lock = match File::open(&lock_path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            lock => Some(lock.during("open", &lock_path)?),
        };
        match lock.as_ref().map_or(Ok(()), File::try_lock_shared) {
            Ok(()) => Ok(Folder { _lock: lock, ..Folder::of(path, directory) }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                Err(OpenError::Io { what: "lock", path: lock_path, source })
            }
        }
    }

    /// The same for whoever may be told to stop, which then fails as a disk would.
    pub(crate) fn until(self, stop: Arc<AtomicBool>) -> Folder {
        Folder { stop: Some(stop), ..self }
    }

    /// Opens an existing folder that another part of this process may have open, to read
    /// what does not change any more.
    pub(crate) fn open_beside(path: &Path) -> Result<Folder, OpenError> {
        Ok(Folder::of(path, open_folder(path)?))
    }

    fn of(path: &Path, directory: File) -> Folder {
        Folder { path: path.to_owned(), directory, _lock: None, stop: None, with_kept: false }
    }

    /// The same with the segments that are kept aside, which come before all others.
    pub(crate) fn with_kept(self) -> Folder {
        Folder { with_kept: true, ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of the segment whose file this is.
    pub(crate) fn number_of(file: &Path) -> Option<u64> {
        file.file_name().and_then(|name| segment_number(name.to_str()?))
    }

    /// The file of segment `number`.
    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        let (path, kept) = (segment_path(&self.path, number), self.kept_path(number));
        if self.with_kept && !path.exists() && kept.exists() { kept } else { path }
    }

    fn kept_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:0DIGITS$}{KEPT_SUFFIX}"))
    }

    /// Makes creations and removals in the folder durable.
    pub(crate) fn sync(&self) -> Result<(), IoFailure> {
        self.directory.sync_all().during("sync folder", &self.path)
    }

    /// The numbers of all segments, ascending.
    pub(crate) fn segment_numbers(&self) -> Result<Vec<u64>, IoFailure> {
        let mut numbers = self.numbers(SUFFIX)?;
        if self.with_kept {
            numbers.extend(self.numbers(KEPT_SUFFIX)?);
        }
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The segments that are kept aside and the bytes of each, oldest first.
    pub(crate) fn kept(&self) -> Result<Vec<(u64, u64)>, IoFailure> {
        let mut numbers = self.numbers(KEPT_SUFFIX)?;
        numbers.sort_unstable();
        let bytes = |number| {
            let path = self.kept_path(number);
            Ok((number, std::fs::metadata(&path).during("inspect", &path)?.len()))
        };
        numbers.into_iter().map(bytes).collect()
    }

    /// The numbers of all files whose names end like this.
    fn numbers(&self, suffix: &str) -> Result<Vec<u64>, IoFailure> {
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&self.path).during("list", &self.path)? {
            let name = entry.during("list", &self.path)?.file_name();
            numbers.extend(name.to_str().and_then(|name| number_in(name, suffix)));
        }
        Ok(numbers)
    }

    /// Opens segment `number` for reading.
    pub(crate) fn open_segment(&self, number: u64) -> Result<File, IoFailure> {
        let path = self.segment_path(number);
        self.go_on(&path)?;
        File::open(&path).during("open", &path)
    }

    /// Asks whether to go on with reading `file`.
    pub(crate) fn go_on(&self, file: &Path) -> Result<(), IoFailure> {
        match self.stop.as_ref().is_some_and(|stop| stop.load(Relaxed)) {
            true => Err(io::Error::other("told to stop")).during("go on with", file),
            false => Ok(()),
        }
    }

    /// Opens segment `number` for writing in place.
    pub(crate) fn open_segment_for_writing(&self, number: u64) -> Result<File, IoFailure> {
        let path = self.segment_path(number);
        OpenOptions::new().read(true).write(true).open(&path).during("open", &path)
    }

    /// Makes segment `number` of these bytes, as a whole or not at all, durably. A file that was made
    /// ready for it goes.
    pub(crate) fn put_segment(&self, number: u64, bytes: &[u8]) -> Result<(), IoFailure> {
        let (path, new) = (self.segment_path(number), self.path.join(NEW_NAME));
        // On a full disk its room is what there is.
        remove_if_there(&path)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.during("write", &new)?;
        std::fs::rename(&new, &path).during("rename to", &path)?;
        self.sync()
    }

    /// Removes what a crash left of a segment that was to be put.
    pub(crate) fn remove_unfinished(&self) -> Result<(), IoFailure> {
        remove_if_there(&self.path.join(NEW_NAME))
    }

    /// Removes segment `number`.
    pub(crate) fn remove_segment(&self, number: u64) -> Result<(), IoFailure> {
        let path = self.segment_path(number);
        std::fs::remove_file(&path).during("remove", &path)
    }

    /// Has segment `number` be no part of the journal any more, and keeps it aside.
    pub(crate) fn keep_segment(&self, number: u64) -> Result<(), IoFailure> {
        let path = self.segment_path(number);
        std::fs::rename(&path, self.kept_path(number)).during("rename", &path)
    }

    /// Gives segment `number` the name of one that is kept aside as well.
    pub(crate) fn link_kept(&self, number: u64) -> Result<(), IoFailure> {
        let path = self.segment_path(number);
        match std::fs::hard_link(&path, self.kept_path(number)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked.during("link", &path),
        }
    }

    /// Removes segment `number` that is kept aside.
    pub(crate) fn remove_kept(&self, number: u64) -> Result<(), IoFailure> {
        let path = self.kept_path(number);
        std::fs::remove_file(&path).during("remove", &path)
    }
}

fn open_folder(path: &Path) -> Result<File, OpenError> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(OpenError::Missing(path.to_owned()))
        }
        opened => Ok(opened.during("open folder", path)?),
    }
}

fn remove_if_there(path: &Path) -> Result<(), IoFailure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.during("remove", path),
    }
}

/// Makes the name of a folder durable: that is up to the folder that it stands in.
fn sync_name(path: &Path) -> Result<(), IoFailure> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.during("sync folder", parent)
}

/// The file of segment `number` in `folder`.
pub(crate) fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:0DIGITS$}{SUFFIX}"))
}

/// The number in a segment's file name. Other names are not ours.
fn segment_number(name: &str) -> Option<u64> {
    number_in(name, SUFFIX)
}

fn number_in(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|number| (1..=SEGMENT_NUMBER_MAX).contains(number))
}
