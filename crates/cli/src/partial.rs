//! A file that is there as a whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::failure::Failure;
use crate::interrupt::before_the_end;

/// What is written of a file, beside the place where it comes when it is whole. Dropped before that,
/// or interrupted by a signal, it is removed.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: PathBuf,
}

impl Partial {
    /// Makes `file` with `.part` behind its name. Nobody else writes there then.
    ///
    /// # Errors
    /// When the file itself is there and is not to be replaced, or when somebody is making it.
    pub(crate) fn create(file: &Path, may_replace: bool) -> Result<(Self, File), Failure> {
        if file.exists() && !may_replace {
            return Err(is_there(file));
        }
        let mut path = file.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        let out = made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::usage(format!(
                "{0} is there: somebody is making {1}, or was killed over it. Wait for the end of \
                 that, or remove {0} if nobody does",
                path.display(),
                file.display()
            )),
            _ => anyhow::Error::new(error).context(cannot_write(&path)).into(),
        })?;
        if file.exists() && !may_replace {
            // Whoever was making it came to the end meanwhile.
            let _ = fs::remove_file(&path);
            return Err(is_there(file));
        }
        let partial = Self { path: path.clone(), file: file.to_owned() };
        before_the_end(move || drop(fs::remove_file(path)))?;
        Ok((partial, out))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It is whole, and on the disk: gives it its name.
    pub(crate) fn publish(self) -> Result<(), Failure> {
        let file = &self.file;
        fs::rename(&self.path, file).with_context(|| cannot_write(file))?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|f| f.sync_all());
        // It has its name already, and another may be making the next one.
        std::mem::forget(self);
        Ok(synced.with_context(|| "it is not certain that the file has its name on the disk")?)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The file of before, if there is one, stays as it was.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_there(file: &Path) -> Failure {
    Failure::usage(format!("{} exists: name another file, or say --force", file.display()))
}

pub(crate) fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}
