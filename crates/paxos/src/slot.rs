//! Slots and positions.

use core::fmt;

/// A place in the sequence of values, counted from 1. [`Slot::ZERO`] is "before
/// the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Slot(pub u64);

impl Slot {
    /// Before the first slot: the upper end of an empty prefix.
    pub const ZERO: Slot = Slot(0);

    /// The slot after this one.
    #[must_use]
    pub const fn next(self) -> Slot {
        Slot(self.0 + 1)
    }

    /// The slot before this one; [`Slot::ZERO`] stays.
    #[must_use]
    pub const fn prior(self) -> Slot {
        Slot(self.0.saturating_sub(1))
    }

    /// The slot `count` further on.
    #[must_use]
    pub const fn plus(self, count: u64) -> Slot {
        Slot(self.0.saturating_add(count))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How many records this acceptor has handed to its journal since the data
/// folder was made, restarts included. Record number `p` is durable once the
/// journal reports a position of at least `p`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(pub u64);

impl Position {
    /// Nothing written yet.
    pub const ZERO: Position = Position(0);
}
