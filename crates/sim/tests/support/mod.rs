//! What the tests of many seeds share.

use std::num::NonZero;
use std::{panic, thread};

/// What this test run draws seeds and mistakes by: `SYNOD_DRAW`, which `make test`
/// sets to the commit's id, so that other commits look at others.
pub(crate) fn draw() -> String {
    std::env::var("SYNOD_DRAW").ok().filter(|by| !by.is_empty()).unwrap_or("no commit".to_owned())
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// A panic within a run is a finding, and told as such.
pub(crate) fn keep_panics_of_runs_quiet() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if synod_sim::running_seed().is_none() {
            otherwise(info);
        }
    }));
}
