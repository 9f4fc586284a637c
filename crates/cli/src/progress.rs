//! How far a long work is, for people.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::output::warn;

/// Between two lines of progress, where nobody watches a terminal.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// On a terminal.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Tells on standard error how far it is.
pub(crate) struct Progress {
    what: &'static str,
    bytes: u64,
    told_at: Instant,
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Progress { what, bytes: 0, told_at: Instant::now(), is_terminal }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.set(self.bytes + bytes);
    }

    pub(crate) fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
        let every = if self.is_terminal { DRAW_EVERY } else { TELL_EVERY };
        if self.told_at.elapsed() >= every {
            self.told_at = Instant::now();
            let text = format!("{} MiB {}", self.bytes >> 20, self.what);
            if self.is_terminal {
                // Nobody has to see it.
                let _ = write!(std::io::stderr().lock(), "\r{text}");
            } else {
                warn(&text);
            }
        }
    }

    pub(crate) fn end(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
