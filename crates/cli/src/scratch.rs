//! A folder for the data of a benchmark's own cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::{Description, FILE_NAME};
use crate::failure::Failure;

/// What a shell says of a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;
/// A killed node may write for a moment yet.
const DELETE_ATTEMPTS: u32 = 40;
const DELETE_PAUSE: Duration = Duration::from_millis(50);

/// A folder in the current one, so on a disk and not in memory, that is deleted
/// in the end, also when the benchmark is interrupted.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes the folder.
    pub(crate) fn new() -> Result<Self, Failure> {
        let name = format!("synod-bench-{:08x}", fastrand::u32(..));
        let here = std::env::current_dir().context("there is no current folder")?;
        let path = here.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        delete_when_interrupted(path.clone())?;
        Ok(Self { path })
    }

    /// Where it is, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.path) {
            eprintln!("synod: cannot delete {}: {error}", self.path.display());
        }
    }
}

/// From now on SIGINT and SIGTERM end this process in an orderly way.
fn delete_when_interrupted(path: PathBuf) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        kill_nodes(&path);
        if let Err(error) = delete(&path) {
            eprintln!("synod: cannot delete {}: {error}", path.display());
        }
        std::process::exit(EXIT_INTERRUPTED);
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
    Ok(())
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
            let pid = node.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid {
                // If it has ended already there is nothing to kill.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
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
    }
}
