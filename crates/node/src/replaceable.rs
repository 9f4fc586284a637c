//! Whether a node whose state is damaged may end to have another one put in its place.
//!
//! A state of which a block is damaged is as good as any other for whatever is not in that
//! block, and what the node owes is in its journal. So it is given up when the others get on
//! without this node and one of them can be asked. Until then what is damaged is told to
//! nobody, and an operator sees it.
//!
//! Several may find damage at the same moment, each while the others still run. So nobody ends at
//! the first look: each member looks again at another time, when those before it have ended and are
//! missed, if they were going to.

use std::time::{Duration, Instant};

use synod_paxos::{NodeId, Slot};

use crate::identity::random_id;
use crate::node::HANDOVER_TIMEOUT;
use crate::settings::{Settings, TimingSettings};
use crate::shared::Shared;
use crate::status::failures_survivable;

/// A node to which nobody gave a state goes on with its own for so long before it asks again.
pub(crate) const FORBEARANCE: Duration = Duration::from_secs(60 * 60);

/// Between the second looks of two members, at the most.
const TURN_MAX: Duration = Duration::from_secs(15);
/// And not more than this part of the time in which everything is read.
const TURN_PART: u32 = 8;
/// After so many election timeouts of silence a node is missed, and that is known everywhere here.
const MISSED_AFTER: u32 = 3;
/// A turn begins up to this part of it later, by chance.
const CHANCE_PART: u32 = 4;

/// How long a turn is: in what chance leaves of it a node that decided to end hands over, lets the
/// requests under way end, and is missed by the others.
pub(crate) fn turn(settings: &Settings) -> Duration {
    let TimingSettings { shutdown_timeout_ms, election_timeout_ms, .. } = settings.timing;
    let requests_end = Duration::from_millis(shutdown_timeout_ms);
    let missed = Duration::from_millis(election_timeout_ms) * MISSED_AFTER;
    let ends = HANDOVER_TIMEOUT + requests_end + missed;
    let turn = TURN_MAX.min(ends + ends / (CHANCE_PART - 1));
    match settings.scrub.interval_s {
        0 => turn,
        interval_s => turn.min(Duration::from_secs(interval_s) / TURN_PART),
    }
}

/// How long this node waits before it looks again.
pub(crate) fn second_look_after(me: NodeId, shared: &Shared, turn: Duration) -> Duration {
    let members = shared.owner.roster().map(|roster| roster.newest.members().to_vec());
    let chance = random_id().map_or(0, |id| u32::try_from(id >> 96).unwrap_or(0));
    wait_of(me, &members.unwrap_or_default(), turn, chance)
}

fn wait_of(me: NodeId, members: &[NodeId], turn: Duration, chance: u32) -> Duration {
    let before = members.iter().filter(|member| **member < me).count();
    let before = u32::try_from(before).unwrap_or(u32::MAX);
    // Those that do not know the same members wait by chance at least.
    turn.saturating_mul(before) + (turn / CHANCE_PART).mul_f64(f64::from(chance) / 2_f64.powi(32))
}

/// Whether the node may end to get another state, at the first look and, after `wait`, at
/// the second one. `wait` says whether the node goes on.
pub(crate) fn is_replaceable_twice(
    is_replaceable: impl Fn() -> bool,
    wait: impl FnOnce() -> bool,
) -> bool {
    is_replaceable() && wait() && is_replaceable()
}

/// Whether the node may end now to get another state.
pub(crate) fn is_replaceable(me: NodeId, shared: &Shared) -> bool {
    if shared.forbears_until.get().is_some_and(|until| Instant::now() < *until) {
        return false;
    }
    let Some(snapshot) = shared.owner.snapshot() else { return false };
    // A journal that goes back to the beginning gives the state again.
    let needs_nobody = snapshot.status.truncated_upto == Slot::ZERO;
    let is_reached = snapshot.status.peers.iter().any(|peer| peer.reachable);
    needs_nobody || is_reached && failures_survivable(me, shared) >= 1
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::test_node;

    /// Whatever chance says, those before have had most of a turn to end.
    #[test]
    fn members_look_again_one_after_the_other() {
        let members = [2, 4, 5, 7, 9].map(NodeId);
        for pair in members.windows(2) {
            let latest = wait_of(pair[0], &members, TURN_MAX, u32::MAX);
            let earliest = wait_of(pair[1], &members, TURN_MAX, 0);
            assert!(latest + TURN_MAX / 2 < earliest, "{latest:?} {earliest:?}");
        }
        assert_eq!(wait_of(NodeId(2), &members, TURN_MAX, 0), Duration::ZERO);
        // Who knows of no members waits by chance.
        assert_ne!(
            wait_of(NodeId(2), &[], TURN_MAX, 1 << 31),
            wait_of(NodeId(4), &[], TURN_MAX, 1 << 30)
        );
    }

    /// Whoever decided to end has ended, and is missed, before the next one may look again.
    #[test]
    fn a_turn_is_as_long_as_an_end_takes() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut settings = test_node::settings(folder.path());
        let of = |settings: &Settings| (turn(settings), turn(settings) / CHANCE_PART);
        settings.scrub.interval_s = 0;
        settings.timing.election_timeout_ms = 300;
        for (shutdown_timeout_ms, ends) in [(5_000, 6_900), (100, 2_000)] {
            settings.timing.shutdown_timeout_ms = shutdown_timeout_ms;
            let (turn, chance) = of(&settings);
            assert_eq!(turn - chance, Duration::from_millis(ends));
        }
        settings.timing.shutdown_timeout_ms = 600_000;
        assert_eq!(of(&settings).0, TURN_MAX);
        settings.scrub.interval_s = 8;
        assert_eq!(of(&settings).0, Duration::from_secs(1));
    }

    /// Two of three find damage at the same moment. One of them stays.
    #[test]
    fn of_two_that_could_be_replaced_at_the_same_moment_one_stays() {
        let alive = Cell::new(3);
        let others_get_on = || alive.get() == 3;
        // The later one looks, waits, and meanwhile the earlier one ends.
        let earlier_ends = || {
            assert!(is_replaceable_twice(others_get_on, || true));
            alive.set(2);
            true
        };
        assert!(!is_replaceable_twice(others_get_on, earlier_ends));
        // When that one is back it may go, but not while the node is told to stop.
        alive.set(3);
        assert!(is_replaceable_twice(others_get_on, || true));
        assert!(!is_replaceable_twice(others_get_on, || false));
        assert!(!is_replaceable_twice(|| false, || panic!("nobody waits for nothing")));
    }
}
