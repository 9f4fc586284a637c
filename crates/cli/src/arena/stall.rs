//! A disk that stands still: syncs of a node neither return nor fail. `strace` holds them, since
//! a file system that is frozen would hold a process that cannot be killed then.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::failure::Failure;

/// Longer than any fault lasts.
const HELD: &str = "inject=fdatasync,fsync:delay_enter=600000000";
/// To get hold of all threads of a process takes milliseconds, on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Whether syncs can be held here.
pub(crate) fn holder_is_there() -> bool {
    let mut version = Command::new("strace");
    version.arg("-V").stdin(Stdio::null());
    version.output().is_ok_and(|output| output.status.success())
}

/// A node whose syncs are held, until this is dropped. Who holds them ends with the node.
#[derive(Debug)]
pub(super) struct Stalled(Child);

impl Stalled {
    pub(super) fn begin(pid: u32) -> Result<Stalled, Failure> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", HELD]);
        strace.args(["-p", &pid.to_string()]);
        strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = strace.spawn().map_err(|error| Failure::failed(format!("strace: {error}")))?;
        let mut stalled = Stalled(child);
        let begin = Instant::now();
        while !all_are_held(pid) {
            let ended = stalled.0.try_wait().ok().flatten();
            if let Some(status) = ended.map(|status| status.to_string()) {
                let text = format!("strace ended with {status}: may it trace processes here?");
                return Err(Failure::failed(text));
            }
            if begin.elapsed() > PATIENCE {
                let text = format!("strace does not hold process {pid} after {PATIENCE:?}");
                return Err(Failure::failed(text));
            }
            thread::sleep(POLL);
        }
        Ok(stalled)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // It lets go of what it holds. If it has ended, so has the node.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

/// Whether every thread of a process has a tracer.
fn all_are_held(pid: u32) -> bool {
    let tasks = Path::new("/proc").join(pid.to_string()).join("task");
    let Ok(tasks) = std::fs::read_dir(tasks) else { return false };
    tasks.flatten().all(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_none_or(|tracer| tracer.trim() != "0")
    })
}
