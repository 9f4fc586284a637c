//! Places where a test lets a node "crash": from there on nothing more is done, as if
//! the process had been killed. Without the feature `failpoints` they do nothing.
//!
//! A point is armed for one folder, so that tests may run beside each other.

use std::io;
use std::path::Path;

/// The steps of an installation, in their order. See [`crate::snapshot`].
pub const INSTALL_STEPS: [&str; 9] = [
    "arrival begun",
    "file received",
    "arrival verified",
    "mark written",
    "switched",
    "switch durable",
    "opened",
    "journal told",
    "mark removed",
];

#[cfg(any(test, feature = "failpoints"))]
mod armed {
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Mutex;

    /// Which step of which folder ends in a failure.
    pub(super) static ARMED: Mutex<BTreeSet<(PathBuf, String)>> = Mutex::new(BTreeSet::new());
}

/// Arms a step in a data folder; it is disarmed when it is hit.
#[cfg(any(test, feature = "failpoints"))]
pub fn arm(folder: &Path, step: &str) {
    let mut armed = armed::ARMED.lock().expect("no test panics with it");
    armed.insert((folder.to_owned(), step.to_owned()));
}

/// Whether the step is still armed, so was not hit.
#[cfg(any(test, feature = "failpoints"))]
#[must_use]
pub fn is_armed(folder: &Path, step: &str) -> bool {
    let armed = armed::ARMED.lock().expect("no test panics with it");
    armed.contains(&(folder.to_owned(), step.to_owned()))
}

/// The step is done.
///
/// # Errors
/// When a test armed it; the caller must do nothing more, as if it were dead.
#[cfg(any(test, feature = "failpoints"))]
pub fn hit(folder: &Path, step: &str) -> io::Result<()> {
    let mut armed = armed::ARMED.lock().expect("no test panics with it");
    if armed.remove(&(folder.to_owned(), step.to_owned())) {
        return Err(io::Error::other(format!("a test stops here: {step}")));
    }
    Ok(())
}

/// The step is done.
///
/// # Errors
/// Never: nothing can arm it.
#[cfg(not(any(test, feature = "failpoints")))]
pub fn hit(_folder: &Path, _step: &str) -> io::Result<()> {
    Ok(())
}
