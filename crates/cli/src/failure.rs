//! How the process ends when it did not do what it was asked.

use std::fmt;
use std::process::ExitCode;

/// The exit code of a node that was removed from its cluster.
pub(crate) const REMOVED_CODE: u8 = 4;

/// A message for people and the exit code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

/// What a script can tell apart by the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It was tried and failed: 1.
    Failed,
    /// It cannot be tried like this: 2, as for a wrong command line.
    Usage,
    /// The cluster answered, and the answer is no: 3.
    Refused,
    /// The cluster's answer is that it is not safe now, which may pass: 3, too.
    Unsafe,
    /// This node was removed from its cluster, so it is of no use to start it again: 4.
    Removed,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Failed, message: message.into() }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into() }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self { kind: Kind::Refused, message: message.into() }
    }

    pub(crate) fn not_safe(message: impl Into<String>) -> Self {
        Self { kind: Kind::Unsafe, message: message.into() }
    }

    pub(crate) fn is_unsafe(&self) -> bool {
        self.kind == Kind::Unsafe
    }

    pub(crate) fn removed(message: impl Into<String>) -> Self {
        Self { kind: Kind::Removed, message: message.into() }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Refused | Kind::Unsafe => 3,
            Kind::Removed => REMOVED_CODE,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}
