//! The bar a person watches while a benchmark runs.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Where progress is shown: on a bar on standard error, in lines there, or nowhere.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
    /// When the last line was written, if lines are.
    lines: Option<Arc<Mutex<Instant>>>,
}

impl Progress {
    /// Shows nothing, for programs that read the result.
    pub fn silent() -> Self {
        Self { bar: ProgressBar::hidden(), lines: None }
    }

    /// A bar on standard error, which hides itself when that is no terminal.
    pub fn bar() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:30} {elapsed_precise}  {msg}");
        // The template is fixed text; were it ever malformed, a plain bar will do.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: None }
    }

    /// A bar on a terminal, and a line now and then elsewhere: for what takes long.
    pub fn bar_or_lines() -> Self {
        if std::io::stderr().is_terminal() {
            return Self::bar();
        }
        Self { lines: Some(Arc::new(Mutex::new(Instant::now()))), ..Self::silent() }
    }

    pub(crate) fn begin(&self, steps: u64) {
        self.bar.reset();
        self.bar.set_length(steps);
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    pub(crate) fn step_to(&self, position: u64) {
        self.bar.set_position(position);
    }

    pub(crate) fn say(&self, message: impl Into<String>) {
        let message = message.into();
        self.write_line(&message);
        self.bar.set_message(message);
    }

    fn write_line(&self, message: &str) {
        let Some(written) = &self.lines else { return };
        let mut written = written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.elapsed() >= LINE_EVERY {
            *written = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
            let line = format!("{done} of {all}: {message}\n");
            // Nobody has to read it.
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
