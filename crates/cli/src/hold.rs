//! What is done while a lock or an office is held: a command, or nothing until Ctrl-C.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use synod_client::{ClientError, Leadership, LeaseLost, LockGuard, Revision};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::output::warn;

/// The token that came with what is held, for the command.
const TOKEN: &str = "SYNOD_LOCK_TOKEN";
/// How long a command that has lost its lock may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// What a shell says of a program that a signal ended: this and its number.
const EXIT_SIGNAL: i32 = 128;
/// The same of a command that there is not, or that can't be run.
const EXIT_NOT_FOUND: i32 = 127;
const EXIT_NOT_RUN: i32 = 126;

/// Something that is held.
pub(crate) enum Hold {
    Lock(LockGuard),
    Office(Leadership),
}

impl Hold {
    pub(crate) fn token(&self) -> Revision {
        match self {
            Hold::Lock(lock) => lock.token(),
            Hold::Office(office) => office.token(),
        }
    }

    async fn lost(&self) -> LeaseLost {
        match self {
            Hold::Lock(lock) => lock.lost().await,
            Hold::Office(office) => office.lost().await,
        }
    }

    async fn end(self) -> Result<(), ClientError> {
        match self {
            Hold::Lock(lock) => lock.release().await,
            Hold::Office(office) => office.resign().await,
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Hold::Lock(_) => "lock",
            Hold::Office(_) => "office",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With this code of the command.
    Command(i32),
    /// It was interrupted.
    Interrupted,
}

/// Runs a command while something is held, or waits for an interruption, and lets it go.
///
/// # Errors
/// When it was lost.
pub(crate) async fn run(hold: Hold, command: &[OsString]) -> Result<End, Failure> {
    let ended = match command.split_first() {
        Some((program, arguments)) => with_command(&hold, program, arguments).await,
        None => without_command(&hold).await,
    };
    let noun = hold.noun();
    if let Err(error) = hold.end().await {
        warn(&format!("synod: the {noun} was not let go, and ends when its time is over: {error}"));
    }
    ended
}

async fn without_command(hold: &Hold) -> Result<End, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
        lost = hold.lost() => Err(Failure::failed(format!("the {} was lost: {lost}", hold.noun()))),
    }
}

async fn with_command(
    hold: &Hold,
    program: &OsString,
    arguments: &[OsString],
) -> Result<End, Failure> {
    // From here on Ctrl-C is the command's: it gets it from the terminal itself, and what it
    // guards is let go when it has ended.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut command = Command::new(program);
    command.args(arguments).env(TOKEN, hold.token().to_string());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            warn(&format!("synod: cannot run {}: {error}", program.to_string_lossy()));
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            return Ok(End::Command(if is_missing { EXIT_NOT_FOUND } else { EXIT_NOT_RUN }));
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(End::Command(code(status?))),
            lost = hold.lost() => {
                let noun = hold.noun();
                warn(&format!("synod: the {noun} was lost: {lost}; the command is ended"));
                end(&mut child).await;
                let detail = format!("the {noun} was lost before the command had ended");
                return Err(Failure::failed(detail));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => send(&child, Signal::TERM),
            _ = hang_up.recv() => send(&child, Signal::HUP),
        }
    }
}

/// Ends a command, by force if need be.
async fn end(child: &mut Child) {
    send(child, Signal::TERM);
    if timeout(GRACE, child.wait()).await.is_err() {
        // Only a command that has ended meanwhile can't be killed.
        let _ = child.kill().await;
    }
}

fn send(child: &Child, signal: Signal) {
    // None of a command whose end was seen: its number may be another's.
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

fn code(status: ExitStatus) -> i32 {
    let by_signal = || status.signal().map_or(1, |signal| EXIT_SIGNAL + signal);
    status.code().unwrap_or_else(by_signal)
}
