//! A folder for the data of a benchmark's own cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use synod_bench::names_path;

use crate::cluster::{Description, FILE_NAME};
use crate::failure::Failure;
use crate::interrupt::{before_the_end, stay_for_the_end};
use crate::output::warn;
use crate::small_disk::unmount_below;

/// A killed node may write for a moment yet.
const DELETE_ATTEMPTS: u32 = 40;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

/// A folder in the current one, so on a disk and not in memory, that is deleted
/// in the end, also when the benchmark is interrupted.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    is_kept: bool,
}

impl Scratch {
    /// Makes the folder.
    pub(crate) fn new() -> Result<Self, Failure> {
        let name = format!("synod-bench-{:08x}", fastrand::u32(..));
        let here = std::env::current_dir().context("there is no current folder")?;
        let path = here.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let doomed = path.clone();
        before_the_end(move || {
            kill_nodes(&doomed);
            unmount_below(&doomed);
            delete_or_warn(&doomed);
        })?;
        if synod_bench::in_memory(&path)? {
            warn(&format!("{} is in memory: a sync costs nothing there", path.display()));
        }
        Ok(Self { path, is_kept: false })
    }

    /// Leaves the folder where it is in the end: what a benchmark has found must
    /// be looked into.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        stay_for_the_end();
        unmount_below(&self.path);
        if self.is_kept {
            warn(&format!("data and logs of the nodes are kept in {}", self.path.display()));
        } else {
            delete_or_warn(&self.path);
        }
    }
}

/// Kills the nodes of the clusters in the folder, so that they write no more.
fn kill_nodes(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(description) = Description::read(&entry.path().join(FILE_NAME)) else {
            continue;
        };
        for node in description.nodes {
            // Whoever has the id of a node that ended is not to be killed.
            let pid = node.pid.filter(|pid| names_path(*pid, path));
            let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // If it has ended already there is nothing to kill.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn delete_or_warn(path: &Path) {
    if let Err(error) = delete(path) {
        warn(&format!("synod: cannot delete {}: {error}", path.display()));
    }
}

fn delete(path: &Path) -> std::io::Result<()> {
    for _ in 1..DELETE_ATTEMPTS {
        if !path.exists() || fs::remove_dir_all(path).is_ok() {
            return Ok(());
        }
        thread::sleep(DELETE_PAUSE);
    }
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_value() {
        let scratch = Scratch::new().expect("a folder");
        let path = scratch.path().to_owned();
        fs::write(path.join("data"), "x").expect("a file");
        drop(scratch);
        assert!(!path.exists());

        let mut scratch = Scratch::new().expect("a folder");
        scratch.keep();
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(path.exists());
        fs::remove_dir(path).expect("the folder");
    }
}
