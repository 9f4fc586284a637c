//! What is done while a lock or an office is held: a command, or nothing until Ctrl-C.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use synod_client::{Claimed, ClientError, Leadership, LeaseLost, LockGuard, ProblemKind};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::failure::Failure;
use crate::follower::follower;
use crate::interrupt::HangUp;
use crate::output::warn;

/// The token that came with what is held, for the command.
const TOKEN: &str = "SYNOD_LOCK_TOKEN";
/// How long a command that loses its lock may take to end: so long before the lock is lost it is
/// told, or a fifth of the time of the lock before.
const GRACE: Duration = Duration::from_secs(2);
/// What a shell says of a program that a signal ended: this and its number.
const EXIT_SIGNAL: i32 = 128;

/// Something that is held.
pub(crate) enum Hold {
    Lock(LockGuard),
    Office(Leadership),
}

impl Hold {
    fn claimed(&self) -> &Claimed {
        match self {
            Hold::Lock(lock) => lock,
            Hold::Office(office) => office,
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
        lost = hold.claimed().lost() => {
            Err(Failure::failed(format!("the {} was lost: {lost}", hold.noun())))
        }
    }
}

/// What a claim that failed means. Its own lease ended while it was made, which is no answer of the
/// cluster's to what was asked.
pub(crate) fn unless_lost<T>(
    claimed: Result<T, ClientError>,
    what: &str,
) -> Result<Result<T, Failure>, ClientError> {
    match claimed {
        Err(ClientError::Refused(problem))
            if problem.kind() == Some(ProblemKind::LeaseNotFound) =>
        {
            Ok(Err(Failure::failed(format!(
                "{what} was lost before anything was done: {} Was the cluster or this machine \
                 out of reach for longer than --ttl?",
                problem.detail
            ))))
        }
        claimed => claimed.map(Ok),
    }
}

async fn with_command(
    hold: &Hold,
    program: &OsString,
    arguments: &[OsString],
) -> Result<End, Failure> {
    // From here on Ctrl-C is the command's: it gets it from the terminal itself, and what it
    // guards is let go when it has ended. The command ignores none of these signals, though this
    // process may have been started so: what is handled here is not inherited.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = HangUp::new()?;
    let (claimed, noun) = (hold.claimed(), hold.noun());
    let grace = GRACE.min(claimed.ttl() / 5);
    let mut command = Command::from(follower(program, arguments));
    command.env(TOKEN, claimed.token().to_string());
    if claimed.left() <= grace {
        let lost = claimed.lost_within(grace).await;
        return Err(Failure::failed(format!("the {noun} was lost before the command ran: {lost}")));
    }
    let mut child = command.spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(End::Command(code(status?))),
            lost = claimed.lost_within(grace) => {
                end(&mut child, claimed, &lost, grace).await;
                // Not before: whoever reads this may have stopped reading.
                return Err(Failure::failed(format!(
                    "the {noun} was lost: {lost}; the command was ended"
                )));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => send(&child, Signal::TERM),
            () = hang_up.recv() => send(&child, Signal::HUP),
        }
    }
}

/// Ends a command before another may hold what it held, by force if need be.
async fn end(child: &mut Child, claimed: &Claimed, lost: &LeaseLost, grace: Duration) {
    send(child, Signal::TERM);
    let over = async {
        match lost {
            LeaseLost::Unconfirmed { .. } => drop(claimed.lost().await),
            // Another may have it already, and what the command does is refused by its token.
            LeaseLost::Over | LeaseLost::LetGo => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = child.wait() => return,
        () = over => {}
        () = sleep(grace) => {}
    }
    // Only a command that has ended meanwhile can't be killed.
    let _ = child.kill().await;
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
