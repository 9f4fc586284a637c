//! What must hold, one property a file.

pub mod agreement;
pub mod backups;
pub mod durability;
pub mod exactly_once;
pub mod leases;
pub mod linearizability;
pub mod liveness;
pub mod memory;
pub mod promises;
pub mod recovered;
pub mod search;
pub mod state_hash;
pub mod story;
pub mod transactions;
pub mod versions;
pub mod watches;

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which property was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Checker {
    /// One value per slot.
    Agreement,
    /// What was acknowledged stays.
    Durability,
    /// Promises and ballots only rise, and rest on the disk.
    Promises,
    /// Equal states at equal slots.
    StateHash,
    /// A request has effect once.
    ExactlyOnce,
    /// Clients see one register per key, in real time.
    Linearizability,
    /// All keys together change one revision after the other.
    Transactions,
    /// A backup is the store of one revision, and a cluster made of it serves that.
    Backups,
    /// What is made of one node has what that promises, and serves it.
    Recovered,
    /// A healed quorum makes progress.
    Liveness,
    /// Nothing grows without bound.
    Memory,
    /// The log explains every revision, and what each node holds.
    Story,
    /// No lease ends before its time, and each takes its keys.
    Leases,
    /// Whoever watches is told everything once, in order.
    Watches,
    /// Nobody is given what it cannot read.
    Versions,
    /// There was something to check.
    Enough,
    /// The product's own assertions.
    Assertion,
    /// None: the process that was to carry the plan out did not, so nothing was checked.
    Machinery,
}

impl Checker {
    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Checker::Agreement => "agreement",
            Checker::Durability => "durability",
            Checker::Promises => "promises",
            Checker::StateHash => "state hash",
            Checker::ExactlyOnce => "exactly once",
            Checker::Linearizability => "linearizability",
            Checker::Transactions => "transactions",
            Checker::Backups => "backups",
            Checker::Recovered => "recovered",
            Checker::Liveness => "liveness",
            Checker::Memory => "memory",
            Checker::Story => "story",
            Checker::Leases => "leases",
            Checker::Watches => "watches",
            Checker::Versions => "versions",
            Checker::Enough => "enough to check",
            Checker::Assertion => "assertion",
            Checker::Machinery => "the machinery",
        }
    }
}

/// A broken property.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub checker: Checker,
    /// How, for people.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker.name(), self.text)
    }
}

/// A check: it held, or how it did not.
pub type Check = Result<(), Violation>;

pub(crate) fn demand(holds: bool, checker: Checker, text: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(Violation { checker, text: text() }) }
}
