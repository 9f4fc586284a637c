//! What the door itself counts.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

use crate::admission::Admission;

/// Answers by the first digit of their status. They order nothing, hence `Relaxed`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answers: [AtomicU64; 5],
}

impl Counters {
    /// An answer goes out.
    pub(crate) fn count(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5);
        self.answers[class - 1].fetch_add(1, Relaxed);
    }

    /// Appends them in the text format of Prometheus.
    pub(crate) fn write(&self, admission: &Admission, text: &mut String) {
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).expect("a string takes what is written to it");
            text.push('\n');
        };
        line(format_args!("# HELP synod_http_answers_total HTTP answers by class of status."));
        line(format_args!("# TYPE synod_http_answers_total counter"));
        for (class, answers) in (1..).zip(&self.answers) {
            let answers = answers.load(Relaxed);
            line(format_args!("synod_http_answers_total{{class=\"{class}xx\"}} {answers}"));
        }
        let open = admission.connections_open();
        line(format_args!("# HELP synod_http_connections Client connections that are open."));
        line(format_args!("# TYPE synod_http_connections gauge"));
        line(format_args!("synod_http_connections {open}"));
    }
}
