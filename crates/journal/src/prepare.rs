//! Making segments ready before they are needed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use crate::error::{During, IoFailure};
use crate::folder::segment_path;

/// Zeros go to disk in steps of this size, each synced, so that the one large write
/// of a new segment does not stand between the journal and the disk as a whole.
const STEP_BYTES: usize = 1 << 20;

/// Fills the next segment with zeros on a thread of its own, which lives for one
/// segment. The segment has no header yet, so a crash leaves only an unused file.
#[derive(Debug)]
pub(crate) struct Preparer {
    folder: PathBuf,
    running: Option<(u64, JoinHandle<Result<File, IoFailure>>)>,
}

impl Preparer {
    pub(crate) fn new(folder: &Path) -> Preparer {
        Preparer { folder: folder.to_owned(), running: None }
    }

    /// Begins to make segment `number` ready.
    pub(crate) fn start(&mut self, number: u64, bytes: u64) {
        let folder = self.folder.clone();
        let work = std::thread::Builder::new().name("synod-prepare".to_owned());
        // Without a thread the work is done when it is needed.
        let handle = work.spawn(move || prepare(&folder, number, bytes));
        self.running = handle.ok().map(|handle| (number, handle));
    }

    /// The file of segment `number`, all zeros, at least `bytes` long and durable;
    /// waits for it if need be. Also returns its length.
    pub(crate) fn take(&mut self, number: u64, bytes: u64) -> Result<(File, u64), IoFailure> {
        let ready = match self.running.take() {
            Some((running, handle)) if running == number => {
                Some(handle.join().expect("the helper does not panic")?)
            }
            _ => None,
        };
        let path = segment_path(&self.folder, number);
        if let Some(file) = ready {
            let length = file.metadata().during("inspect", &path)?.len();
            if length >= bytes {
                return Ok((file, length));
            }
        }
        Ok((prepare(&self.folder, number, bytes)?, bytes))
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        if let Some((_, handle)) = self.running.take() {
            // Only what is needed is judged; the file is made anew by the next open.
            let _ = handle.join();
        }
    }
}

/// A file of `bytes` zeros that are really on disk, as is its name.
fn prepare(folder: &Path, number: u64, bytes: u64) -> Result<File, IoFailure> {
    let path = segment_path(folder, number);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&path).during("create", &path)?;
    fill(&file, bytes).during("fill with zeros", &path)?;
    file.sync_all().during("sync", &path)?;
    let directory = File::open(folder).and_then(|directory| directory.sync_all());
    directory.during("sync folder", folder)?;
    Ok(file)
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; STEP_BYTES.min(usize::try_from(bytes).unwrap_or(STEP_BYTES))];
    let mut at = 0;
    while at < bytes {
        let step = usize::try_from(bytes - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
        file.write_all_at(&zeros[..step], at)?;
        file.sync_data()?;
        at += step as u64;
    }
    Ok(())
}
