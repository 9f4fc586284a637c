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
    unit: Unit,
    done: u64,
    told_at: Instant,
    is_terminal: bool,
}

/// What is counted.
enum Unit {
    Bytes,
    Keys,
}

impl Progress {
    /// Of a work with bytes.
    pub(crate) fn new(what: &'static str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Progress { what, unit: Unit::Bytes, done: 0, told_at: Instant::now(), is_terminal }
    }

    /// Of a work with keys.
    pub(crate) fn of_keys(what: &'static str) -> Self {
        Progress { unit: Unit::Keys, ..Self::new(what) }
    }

    pub(crate) fn add(&mut self, count: u64) {
        self.set(self.done + count);
    }

    pub(crate) fn set(&mut self, count: u64) {
        self.done = count;
        let every = if self.is_terminal { DRAW_EVERY } else { TELL_EVERY };
        if self.told_at.elapsed() >= every {
            self.told_at = Instant::now();
            let text = match self.unit {
                Unit::Bytes => format!("{} MiB {}", self.done >> 20, self.what),
                Unit::Keys => format!("{} keys {}", self.done, self.what),
            };
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
