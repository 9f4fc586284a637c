//! The data folder: who may enter it, who holds it, and files that are there as a
//! whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use synod_storage::failpoint;
use synod_storage::snapshot::StateFolders;

pub(crate) const LOCK_FILE: &str = "LOCK";
/// Says why a process must not be started again by itself.
pub(crate) const MARKER_FILE: &str = "VIOLATION";
/// Says that the node is a member no more.
pub(crate) const REMOVED_FILE: &str = "REMOVED";
pub(crate) const JOURNAL: &str = "journal";

/// A data folder that this process alone uses. The lock ends with the value, or
/// with the process, however it ends.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Why a data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Other users may enter it.
    #[error(
        "{} can be entered by other users (mode {mode:03o}); make it private with: chmod 700 {}",
        path.display(),
        path.display()
    )]
    NotPrivate {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is a file, or the like.
    #[error("{} is not a folder", .0.display())]
    NotAFolder(PathBuf),
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
}

impl Folder {
    /// Takes a folder, which is made if it does not exist. Its name is durable when
    /// this returned, and so are those of the folders made above it: what is in it
    /// must not be lost with it.
    pub(crate) fn create(path: &Path) -> Result<Folder, FolderError> {
        let is_missing = |level: &&Path| !level.as_os_str().is_empty() && !level.exists();
        let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
        for level in missing.into_iter().rev() {
            let made = DirBuilder::new().mode(0o700).create(level);
            made.map_err(|source| failed("create the folder", level, source))?;
            sync_name(level)?;
        }
        // Also of a folder that was there: a crash may have come before its sync.
        sync_name(path)?;
        Folder::open(path)
    }

    /// Takes a folder that exists.
    pub(crate) fn open(path: &Path) -> Result<Folder, FolderError> {
        let metadata =
            fs::metadata(path).map_err(|source| failed("open the data folder", path, source))?;
        if !metadata.is_dir() {
            return Err(FolderError::NotAFolder(path.to_owned()));
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(FolderError::NotPrivate { path: path.to_owned(), mode });
        }
        let lock_path = path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let lock = options.open(&lock_path).map_err(|source| failed("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(failed("lock", &lock_path, source)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// The states in it, one of which is the state.
    pub(crate) fn states(&self) -> StateFolders {
        StateFolders::new(&self.path)
    }

    /// What is in the folder beside its lock and a journal without identity, which
    /// an `init` that was interrupted leaves behind.
    pub(crate) fn strangers(&self) -> Result<Vec<String>, FolderError> {
        strangers(&self.path)
    }

    /// Reads a small file of the folder; none when there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
        read(&self.path, name)
    }

    /// Whether there is such a file. That the disk does not say is no "no".
    pub(crate) fn has(&self, name: &str) -> Result<bool, FolderError> {
        exists(&self.path.join(name))
    }

    /// Removes a small file of the folder. A crash may bring it back.
    pub(crate) fn remove(&self, name: &str) -> Result<(), FolderError> {
        let path = self.path.join(name);
        fs::remove_file(&path).map_err(|source| failed("remove", &path, source))
    }

    /// A test may end the node behind this step.
    pub(crate) fn step(&self, step: &str) -> Result<(), FolderError> {
        let path = &self.path;
        failpoint::hit(path, step).map_err(|source| failed("go on in", path, source))
    }

    /// Replaces a small file of the folder, durably: after a crash it has the old
    /// or the new content, and the new one once this returned.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> Result<(), FolderError> {
        replace(&self.path, name, content)
    }
}

/// [`Folder::strangers`] for whoever has only the path.
pub(crate) fn strangers(path: &Path) -> Result<Vec<String>, FolderError> {
    let entries =
        fs::read_dir(path).map_err(|source| failed("read the data folder", path, source))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| failed("read", path, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name == LOCK_FILE || name == JOURNAL || name.ends_with(".new");
        if !is_ours && name != "lost+found" {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// [`Folder::read`] for whoever has only the path.
pub(crate) fn read(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
    let path = folder.join(name);
    match fs::read(&path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", &path, source)),
    }
}

/// Whether there is such a file or folder.
pub(crate) fn exists(path: &Path) -> Result<bool, FolderError> {
    path.try_exists().map_err(|source| failed("look for", path, source))
}

/// [`Folder::replace`] for whoever has only the path.
pub(crate) fn replace(folder: &Path, name: &str, content: &[u8]) -> Result<(), FolderError> {
    let path = folder.join(name);
    let new = folder.join(format!("{name}.new"));
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    let write = || {
        let mut file = options.open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        // The new name is durable only when its folder is.
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| failed("write", &path, source))
}

/// Removes a small file of a folder, durably; none need be there.
pub(crate) fn remove(folder: &Path, name: &str) -> Result<(), FolderError> {
    let path = folder.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.map_err(|source| failed("remove", &path, source))?,
    }
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| failed("sync", folder, source))
}

/// Makes the name of a folder durable: that is up to the folder that it stands in.
fn sync_name(path: &Path) -> Result<(), FolderError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|parent| parent.sync_all());
    synced.map_err(|source| failed("sync", parent, source))
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> FolderError {
    FolderError::Io { what, path: path.to_owned(), source }
}
