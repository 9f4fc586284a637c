//! Whether a node whose state is damaged may end to have another one put in its place.
//!
//! A state of which a block is damaged is as good as any other for whatever is not in that
//! block, and what the node owes is in its journal. So it is given up when the others get on
//! without this node and one of them can be asked. Until then what is damaged is told to
//! nobody, and an operator sees it.

use std::time::{Duration, Instant};

use synod_paxos::{NodeId, Slot};

use crate::shared::Shared;
use crate::status::failures_survivable;

/// A node to which nobody gave a state goes on with its own for so long before it asks again.
pub(crate) const FORBEARANCE: Duration = Duration::from_secs(60 * 60);

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
