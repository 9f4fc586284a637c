//! Tests that not every machine can run.

use std::path::PathBuf;

/// Separated by blanks, what this machine can do for certain: no test may be skipped
/// for want of it. `.ci/run` sets it to what `.ci/setup tests` has tried.
const MUST_RUN: &str = "SYNOD_TESTS_MUST_RUN";

/// Where `make test` says that the next release is.
const NEXT: &str = "SYNOD_NEXT";

/// What a test needs, by its word in the variable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// To trace processes, and to make their calls fail.
    Strace,
    /// To mount a file system in memory.
    Mounts,
    /// To mount a file system in a file.
    Loops,
    /// The binary of the next release, which `make test` builds.
    Next,
}

/// Says that a test does not run, and why.
///
/// # Panics
/// When the machine is known to have what the test needs: then a skipped test is a failed one.
pub fn skip(need: Need, reason: &str) {
    let can = std::env::var(MUST_RUN).unwrap_or_default();
    assert!(!must_run(need, &can), "{reason}, but {MUST_RUN} is \"{can}\"");
    eprintln!("skipped: {reason}");
}

/// The next release, if it was built; else the test is skipped.
pub fn next_release() -> Option<PathBuf> {
    let Some(next) = std::env::var_os(NEXT) else {
        skip(Need::Next, &format!("{NEXT} does not name the next release; `make test` builds it"));
        return None;
    };
    Some(next.into())
}

fn must_run(need: Need, can: &str) -> bool {
    let word = match need {
        Need::Strace => "strace",
        Need::Mounts => "mounts",
        Need::Loops => "loops",
        Need::Next => "next",
    };
    can.split_whitespace().any(|able| able == word)
}

#[test]
fn a_test_is_skipped_only_for_want_of_what_is_not_there() {
    let can = "strace loops";
    let all = [Need::Strace, Need::Mounts, Need::Loops];
    assert_eq!(all.map(|need| must_run(need, can)), [true, false, true]);
    assert_eq!(all.map(|need| must_run(need, "")), [false; 3]);
}
