//! Versions: one number that goes up whenever what peers say to each other, what the
//! log holds or what lies on disk gets a new form.
//!
//! A build *reads* every form from [`OLDEST`] to [`NEWEST`]. Two peers *speak* the newest
//! version that both know. A node *writes* into its journal and into the log what its
//! operator allows, and into the log only what every member reads: docs/upgrade.md.
//!
//! A format names the version that gave it its present form, so the numbers of one
//! format may have gaps.

/// The newest version that this build knows.
pub const NEWEST: u32 = if crate::next::IS_ON { crate::next::SINCE } else { 1 };

/// The oldest version that this build knows.
pub const OLDEST: u32 = 1;

/// What is written as long as the settings say nothing. The release before this one
/// reads it, so the way back to it is open.
pub const WRITTEN_BY_DEFAULT: u32 = 1;

/// The version of the release after this one, as tests play it.
pub const OF_NEXT_RELEASE: u32 = crate::next::SINCE;

/// The newest version that a node and all its peers know, by what each of these named last. One
/// that was never met counts as the oldest: so much may be written where all must read it.
#[must_use]
pub fn known_to_all(own_newest: u32, named: impl IntoIterator<Item = Option<u32>>) -> u32 {
    let theirs = named.into_iter().map(|newest| newest.unwrap_or(OLDEST));
    theirs.fold(own_newest, u32::min)
}

/// The versions that a node speaks: all from one to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The oldest one.
    pub oldest: u32,
    /// The newest one.
    pub newest: u32,
}

impl Versions {
    /// What a node of this build speaks when it writes this version. It takes no peer that
    /// could not read what is written.
    #[must_use]
    pub fn of_writer(written: u32) -> Self {
        Versions::of_release(NEWEST, written)
    }

    /// The same of a node whose build knows the versions up to `newest`.
    #[must_use]
    pub fn of_release(newest: u32, written: u32) -> Self {
        Versions { oldest: written.clamp(OLDEST, newest), newest }
    }

    /// The newest version that both speak; none if there is none.
    #[must_use]
    pub fn common(self, other: Versions) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest && newest >= other.oldest).then_some(newest)
    }
}

impl Default for Versions {
    fn default() -> Self {
        Versions::of_writer(WRITTEN_BY_DEFAULT)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.oldest == self.newest {
            write!(f, "version {}", self.newest)
        } else {
            write!(f, "versions {} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_speak_the_newest_that_both_know_and_both_want() {
        let versions = |oldest, newest| Versions { oldest, newest };
        for (one, other, common) in [
            (versions(1, 1), versions(1, 1), Some(1)),
            (versions(1, 1), versions(1, 2), Some(1)),
            (versions(1, 3), versions(2, 5), Some(3)),
            (versions(2, 2), versions(1, 1), None),
            (versions(1, 2), versions(3, 4), None),
            // What nobody says of itself agrees with nothing.
            (versions(1, 9), versions(5, 2), None),
        ] {
            assert_eq!(one.common(other), common, "{one}, {other}");
            assert_eq!(other.common(one), common, "{other}, {one}");
        }
    }

    #[test]
    fn what_all_know_is_what_the_least_of_them_named() {
        assert_eq!(known_to_all(3, []), 3);
        assert_eq!(known_to_all(3, [Some(9), Some(2)]), 2);
        assert_eq!(known_to_all(3, [Some(9), None]), OLDEST);
    }

    #[test]
    fn a_release_reads_what_it_and_the_one_before_write() {
        assert!((OLDEST..=NEWEST).contains(&WRITTEN_BY_DEFAULT));
        assert_eq!(Versions::default(), Versions { oldest: WRITTEN_BY_DEFAULT, newest: NEWEST });
    }
}
