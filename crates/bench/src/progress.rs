//! The bar a person watches while a benchmark runs.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress is shown: on a bar on standard error, or nowhere.
#[derive(Debug, Clone)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows nothing, for programs that read the result.
    pub fn silent() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// A bar on standard error, which hides itself when that is no terminal.
    pub fn bar() -> Self {
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:30} {elapsed_precise}  {msg}");
        // The template is fixed text; were it ever malformed, a plain bar will do.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
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
        self.bar.set_message(message.into());
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
