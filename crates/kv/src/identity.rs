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

impl LeaseId {
    /// The ids of leases that ask for none, from [`LeaseId::AUTOMATIC_FIRST`] on; clients choose
    /// theirs below. So what is granted once more under such an id never meets the lease of
    /// somebody who chose it. In JSON each is a number that every reader takes exactly.
    pub const AUTOMATIC: std::ops::Range<u64> = 1 << 52..1 << 53;
    /// The first id of a lease that asks for none.
    pub const AUTOMATIC_FIRST: LeaseId = LeaseId(Self::AUTOMATIC.start);

    /// Whether a client may ask for this id.
    #[must_use]
    pub fn may_be_chosen(self) -> bool {
        (1..Self::AUTOMATIC.start).contains(&self.0)
    }

    /// The id for the lease that asks for none after this one, which may be none as well.
    pub(crate) fn next_automatic(self) -> LeaseId {
        let next = self.0.wrapping_add(1);
        if Self::AUTOMATIC.contains(&next) { LeaseId(next) } else { Self::AUTOMATIC_FIRST }
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Counts those who kept the time of leases; a higher one ends the ones below.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LeaseEpoch(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_ids_are_a_range_of_their_own_that_is_used_in_turn() {
        assert_eq!(LeaseId::default().next_automatic(), LeaseId::AUTOMATIC_FIRST);
        assert_eq!(LeaseId(1 << 52).next_automatic(), LeaseId((1 << 52) + 1));
        let last = LeaseId((1 << 53) - 1);
        assert_eq!(last.next_automatic(), LeaseId::AUTOMATIC_FIRST);
        assert_eq!(LeaseId(u64::MAX).next_automatic(), LeaseId::AUTOMATIC_FIRST);
        let chosen = [0, 1, (1 << 52) - 1, 1 << 52, u64::MAX].map(|id| LeaseId(id).may_be_chosen());
        assert_eq!(chosen, [false, true, true, false, false]);
    }
}
