//! The names that commands and changes carry.

use std::fmt;

/// Counts the commands that changed at least one key; starts at 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which node took a command from its client, and as its how-manieth. A command
/// has effect only when its sequence is the next one of its origin, so a command
/// that was sent twice has effect once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServerId {
    /// The node that took the command.
    pub origin: u32,
    /// Which of that node's lives; a higher one closes the lower.
    pub incarnation: u64,
    /// Counts from 1 within the incarnation.
    pub sequence: u64,
}

/// Names a lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts those who kept the time of leases; a higher one ends the ones below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LeaseEpoch(pub u64);
