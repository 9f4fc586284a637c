//! A command that does not outlive the process that runs it.
//!
//! The kernel is asked to kill it, by itself before it becomes the command: a `synod lock` that is
//! killed must not leave its command behind, for the lock goes to the next one then.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, exit};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use crate::arguments::Follow;
use crate::failure::Failure;
use crate::output::warn;

/// This program, also when another one took its place meanwhile.
const OURSELVES: &str = "/proc/self/exe";
/// What a shell says of a command that there is not, or that can't be run.
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_RUN: i32 = 126;

/// What runs `program` as a process that is killed when this one ends. To be started by a thread
/// that lives as long as this process.
pub(crate) fn follower(program: &OsString, arguments: &[OsString]) -> Command {
    let mut command = Command::new(OURSELVES);
    command.args(["follow", &std::process::id().to_string(), "--"]).arg(program).args(arguments);
    command
}

/// Becomes the command.
pub(crate) fn run(arguments: &Follow) -> Result<(), Failure> {
    die_with(arguments.parent)?;
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(Failure::usage("there is no command"));
    };
    let error = Command::new(program).args(rest).exec();
    warn(&format!("synod: cannot run {}: {error}", program.to_string_lossy()));
    let is_missing = error.kind() == io::ErrorKind::NotFound;
    exit(if is_missing { EXIT_NOT_FOUND } else { EXIT_NOT_RUN })
}

/// Has the kernel kill this process when its parent ends: it must not live on unseen when that
/// is killed. A paused process would not act on anything softer.
pub(crate) fn die_with(parent: i32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::failed(format!("cannot follow the parent process: {error}")))?;
    // The parent may have ended before the call above.
    if getppid().map(Pid::as_raw_nonzero).map(std::num::NonZero::get) == Some(parent) {
        Ok(())
    } else {
        Err(Failure::failed("the process that started this one has ended"))
    }
}
