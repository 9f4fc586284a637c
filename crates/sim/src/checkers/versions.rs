//! Upgrades: nobody is given what it cannot read.
//!
//! Every message that arrives, every batch that is applied and every record that a start reads
//! back goes through the decoder of the release that runs; what that refuses comes here. An
//! operator who keeps to docs/upgrade.md never sees it. One who installs the older release after
//! somebody was let write the newer form may: the node ends, and is upgraded.

use std::collections::BTreeSet;

use synod_paxos::NodeId;

use super::{Check, Checker, Violation, demand};

/// What operators did.
#[derive(Default, Debug)]
pub struct Versions {
    raised: bool,
    /// Those with the older release that got it when it was too late.
    late: BTreeSet<NodeId>,
}

impl Versions {
    /// Somebody may write the newer form. There is no way back.
    pub fn raise(&mut self) {
        self.raised = true;
    }

    /// Whether somebody ever might.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised
    }

    /// A release was installed on a node.
    pub fn installed(&mut self, id: NodeId, is_older: bool) {
        if is_older && self.raised {
            self.late.insert(id);
        } else {
            self.late.remove(&id);
        }
    }

    /// A node met in the log what it cannot read.
    ///
    /// # Errors
    /// When its operator kept to the rules.
    pub fn cannot_read(&self, id: NodeId, what: &str) -> Check {
        demand(self.late.contains(&id), Checker::Versions, || {
            format!("{id}, which nobody took back too late, cannot read {what}")
        })
    }

    /// A release refuses to start, since it does not know the form of its journal.
    ///
    /// # Errors
    /// When nobody ever let a process write another form into that.
    pub fn refused_start(id: NodeId, was_raised: bool) -> Check {
        demand(was_raised, Checker::Versions, || {
            format!("{id} may not go back to the older release, and nobody has raised its version")
        })
    }

    /// Something is not read that a release says it knows.
    #[must_use]
    pub fn misread(id: NodeId, what: &str, why: &dyn std::fmt::Display) -> Violation {
        let text = format!("{id} does not read {what}: {why}");
        Violation { checker: Checker::Versions, text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NodeId = NodeId(1);

    #[test]
    fn only_who_was_taken_back_too_late_may_meet_what_it_cannot_read() {
        let mut versions = Versions::default();
        versions.installed(ONE, true);
        versions.raise();
        assert!(versions.is_raised() && versions.cannot_read(ONE, "a batch").is_err());
        versions.installed(ONE, false);
        versions.installed(ONE, true);
        assert_eq!(versions.cannot_read(ONE, "a batch"), Ok(()));
        versions.installed(ONE, false);
        assert!(versions.cannot_read(ONE, "a batch").is_err());
    }

    #[test]
    fn the_way_back_is_open_until_the_version_is_raised() {
        assert_eq!(Versions::refused_start(ONE, true), Ok(()));
        assert!(Versions::refused_start(ONE, false).is_err());
    }
}
