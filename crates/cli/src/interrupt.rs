//! What to do when a work is interrupted that leaves something behind.

use std::fs;
use std::io;
use std::sync::Mutex;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a shell says of a program that a signal ended: this and its number.
const EXIT_SIGNAL: i32 = 128;

/// Held from a signal to the end of the process.
static ENDING: Mutex<()> = Mutex::new(());

/// Does not come back once a signal is ending this process.
pub(crate) fn stay_for_the_end() {
    drop(ENDING.lock());
}

/// SIGHUP as it comes, unless this process was told to ignore it, as `nohup` does: then it and what
/// it starts go on doing so.
pub(crate) struct HangUp(Option<Signal>);

impl HangUp {
    pub(crate) fn new() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self(if ignores_hang_up(&status) { None } else { Some(signal(SignalKind::hangup())?) }))
    }

    /// The next one.
    pub(crate) async fn recv(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// Whether the first signal is in the set of those that a process ignores.
fn ignores_hang_up(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & 1 == 1)
}

/// From now on SIGINT, SIGTERM and SIGHUP end this process only after `clean_up`.
pub(crate) fn before_the_end(clean_up: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _context = runtime.enter();
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()];
        (signal(interrupt)?, signal(terminate)?, HangUp::new()?)
    };
    let wait = move || {
        let came = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
                () = hang_up.recv() => SignalKind::hangup(),
            }
        });
        // Whatever the main thread says of a cluster that is being taken from
        // it, and how it would end, is of no use to anybody.
        let _held = ENDING.lock();
        clean_up();
        std::process::exit(EXIT_SIGNAL + came.as_raw_value());
    };
    thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_ignore_that_the_terminal_goes_is_known() {
        let status = |set: &str| format!("Name:\tsynod\nSigBlk:\t01\nSigIgn:\t{set}\n");
        assert!(ignores_hang_up(&status("0000000000001001")));
        for set in ["0000000000001000", "x", ""] {
            assert!(!ignores_hang_up(&status(set)), "{set}");
        }
        assert!(!ignores_hang_up(""));
    }
}
