//! One node of a local cluster as a child process.

use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use super::layout::Place;
use super::spawner::Spawner;
use crate::failure::{Failure, REMOVED_CODE};

/// A node's place and, while it runs, its process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    place: Place,
    binary: PathBuf,
    spawner: Spawner,
    child: Option<Child>,
    started: Instant,
}

impl NodeProcess {
    pub(crate) fn new(place: Place, binary: PathBuf, spawner: Spawner) -> Self {
        Self { place, binary, spawner, child: None, started: Instant::now() }
    }

    /// Where the node lives.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The process id, while it is our child and was not seen dead.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// When the process was started last.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Has it be another program from its next start on.
    pub(crate) fn use_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// The command that starts this node by hand.
    pub(crate) fn command_line(&self) -> String {
        format!(
            "{} serve --config {}",
            quoted(&from_here(&self.binary).display().to_string()),
            quoted(&from_here(&self.place.settings_path()).display().to_string())
        )
    }

    /// Starts the node. It dies with this process.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        assert!(self.child.is_none(), "node {} runs already", self.place.id);
        let log_path = self.place.log_path();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .with_context(|| format!("cannot open {}", log_path.display()))?;
        let error_log = log.try_clone().context("cannot share the log file")?;
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.place.settings_path())
            .arg("--stop-with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(error_log)
            // Ctrl-C in the terminal is for the runner, which stops the nodes in
            // its own way.
            .process_group(0);
        let child = self
            .spawner
            .spawn(command)
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        self.child = Some(child);
        self.started = Instant::now();
        Ok(())
    }

    /// Takes notice of the end of the process: says how it ended, once.
    pub(crate) fn reap(&mut self) -> Result<Option<Ending>, Failure> {
        let Some(child) = self.child.as_mut() else {
            return Ok(None);
        };
        let Some(status) = child.try_wait().context("cannot wait for a node")? else {
            return Ok(None);
        };
        let pid = child.id();
        self.child = None;
        Ok(Some(Ending { pid, status }))
    }

    /// Sends a signal, if the process runs.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let Some(child) = &self.child else {
            return Ok(());
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child without a process id")?;
        // It is not reaped yet, so the id is still its own.
        kill_process(pid, signal)
            .with_context(|| format!("cannot signal node {}", self.place.id))?;
        Ok(())
    }

    /// Waits for the end of a process that was sent SIGKILL, or sends it now.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("cannot kill a node")?;
            child.wait().context("cannot wait for a node")?;
        }
        Ok(())
    }
}

/// How a node's process ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) pid: u32,
    status: ExitStatus,
}

impl Ending {
    /// Whether it ended as it should when it is asked to.
    pub(crate) fn was_in_order(&self) -> bool {
        self.status.success()
    }

    /// Whether it failed with a message, as a start that is refused.
    pub(crate) fn was_refused(&self) -> bool {
        self.status.code() == Some(1)
    }

    /// Whether the node is of no use any more because it was removed from its cluster.
    pub(crate) fn was_removed(&self) -> bool {
        self.status.code() == Some(i32::from(REMOVED_CODE))
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("unknown reason"),
        }
    }
}

/// A path as it is shorter to type: from the current folder if it lies in it.
pub(crate) fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    match here.and_then(|here| path.strip_prefix(here).map(Path::to_owned).ok()) {
        // A shell looks for a bare word elsewhere.
        Some(short) if short.components().count() == 1 => Path::new(".").join(short),
        Some(short) if short.components().count() > 1 => short,
        _ => path.to_owned(),
    }
}

/// Quotes a word for the shell where it needs it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_the_current_folder_are_shown_from_there() {
        let here = std::env::current_dir().expect("a current folder");
        assert_eq!(from_here(&here.join("a/b")), Path::new("a/b"));
        assert_eq!(from_here(&here.join("synod")), Path::new("./synod"));
        assert_eq!(from_here(Path::new("/elsewhere/b")), Path::new("/elsewhere/b"));
        assert_eq!(from_here(&here), here);
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quoted("/tmp/node-1/synod.toml"), "/tmp/node-1/synod.toml");
        assert_eq!(quoted("/my files/it's"), r"'/my files/it'\''s'");
    }
}
