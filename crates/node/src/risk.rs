//! Which changes of the members are refused until somebody insists.
//!
//! What would stop the cluster the core refuses, whoever insists. After a risky change the cluster
//! goes on, and only the next failure shows that it was a mistake: so it must be asked for with
//! `force`. A new voter that lags is a risk, too, but only the core knows how far everybody is.

use synod_paxos::{Configuration, NodeId};

/// Why a change is risky.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Risk {
    /// A voter that works would go, and one that does not work would stay: perhaps the wrong
    /// one was named.
    WorkingOneGoes {
        /// The voter that would go.
        goes: NodeId,
        /// The one that does not work.
        stays: NodeId,
    },
    /// Now a node may fail. After the change none may.
    NoneMayFail {
        /// The voters that would be left and work.
        working: usize,
        /// How many of them the cluster would need.
        needed: usize,
    },
}

/// The risk of going from `now` to `next`, of whose voters those work that `works` names.
pub(crate) fn risk_of(
    now: &Configuration,
    next: &Configuration,
    works: impl Fn(NodeId) -> bool,
) -> Option<Risk> {
    let needed = next.progress_quorum();
    let working = |of: &Configuration| of.voters().iter().filter(|node| works(**node)).count();
    if working(next) < needed {
        return None; // The core refuses it, or nobody votes otherwise.
    }
    let goes = now.voters().iter().find(|node| !next.is_voter(**node) && works(**node));
    let stays = now.voters().iter().find(|node| next.is_voter(**node) && !works(**node));
    if let (Some(goes), Some(stays)) = (goes, stays) {
        return Some(Risk::WorkingOneGoes { goes: *goes, stays: *stays });
    }
    // Whoever joins counts as one that works: if it is not ready, the core says so.
    let joins = |node: &&NodeId| !now.is_voter(**node);
    let working_then = next.voters().iter().filter(|node| works(**node) || joins(node)).count();
    let may_fail = now.failures_survivable(working(now)) > 0;
    let none_may = next.failures_survivable(working_then) == 0;
    (may_fail && none_may).then_some(Risk::NoneMayFail { working: working_then, needed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(voters: &[u32]) -> Configuration {
        let voters = voters.iter().copied().map(NodeId).collect();
        Configuration::majority(voters, 8).expect("possible")
    }

    fn risk(now: &[u32], next: &[u32], dead: &[u32]) -> Option<Risk> {
        risk_of(&of(now), &of(next), |node| !dead.contains(&node.0))
    }

    #[test]
    fn what_leaves_the_cluster_as_safe_as_it_was_is_no_risk() {
        for (now, next, dead) in [
            // It grows, and shrinks while more than two are left.
            (&[1][..], &[1, 2][..], &[][..]),
            (&[1, 2], &[1, 2, 3], &[]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[]),
            (&[1, 2, 3, 4, 5], &[1, 2, 3, 4], &[]),
            (&[1, 2, 3, 4], &[1, 2, 3], &[]),
            // Nobody was spare before.
            (&[1, 2], &[1], &[]),
            // The dead one goes, or another comes for it.
            (&[1, 2, 3], &[1, 2], &[3]),
            (&[1, 2, 3, 4, 5], &[1, 2, 3, 4], &[5]),
            (&[1, 2, 3], &[1, 2, 4], &[3]),
            (&[1, 2, 3, 4, 5], &[1, 2, 3, 4], &[4, 5]),
            (&[1, 2, 3], &[1, 2, 4], &[]),
            // One that joins and is not heard is for the core to refuse.
            (&[1, 2, 3], &[1, 2, 3, 4], &[4]),
            // So is what stops the cluster.
            (&[1, 2, 3], &[1, 3], &[3]),
            (&[1, 2], &[1, 2, 3], &[2, 3]),
        ] {
            assert_eq!(risk(now, next, dead), None, "{now:?} {next:?} {dead:?}");
        }
    }

    #[test]
    fn to_lose_the_last_spare_node_is_a_risk() {
        let lost = Some(Risk::NoneMayFail { working: 2, needed: 2 });
        assert_eq!(risk(&[1, 2, 3], &[1, 2], &[]), lost);
        let three = of(&[1, 2, 3]);
        let everybody = Configuration::new(three.voters().to_vec(), 3, 1, 8).expect("possible");
        let lost = Some(Risk::NoneMayFail { working: 3, needed: 3 });
        assert_eq!(risk_of(&three, &everybody, |_| true), lost);
        assert_eq!(risk_of(&everybody, &three, |_| true), None);
    }

    #[test]
    fn to_lose_a_node_that_works_beside_one_that_does_not_is_a_risk() {
        for (now, next, dead, goes, stays) in [
            (&[1, 2, 3][..], &[1, 3, 4][..], &[3][..], 2, 3),
            (&[1, 2, 3, 4, 5], &[2, 3, 4, 5], &[5], 1, 5),
            (&[1, 2, 3, 4, 5, 6, 7], &[1, 2, 3, 4, 5, 7], &[7], 6, 7),
        ] {
            let (goes, stays) = (NodeId(goes), NodeId(stays));
            let expected = Some(Risk::WorkingOneGoes { goes, stays });
            assert_eq!(risk(now, next, dead), expected, "{now:?} {next:?} {dead:?}");
        }
    }
}
