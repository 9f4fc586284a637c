//! Equal states at equal slots.
//!
//! The state machine keeps a running hash over the effects of every slot. Whoever
//! applies a slot first says what the hash after it is; everybody else must agree,
//! in every life. A hash of all effects so far covers every earlier slot too, so a
//! replica that differed once cannot look equal later, but for a collision of 64
//! bits.

use std::collections::BTreeMap;

use synod_paxos::NodeId;

use crate::checkers::{Check, Checker, demand};

/// The hash after each slot.
#[derive(Debug, Default)]
pub struct StateHash {
    known: BTreeMap<u64, (u64, NodeId)>,
}

impl StateHash {
    /// What everybody's state is after a slot, if anybody got there.
    #[must_use]
    pub fn known(&self, slot: u64) -> Option<u64> {
        self.known.get(&slot).map(|(hash, _)| *hash)
    }

    /// A node's state after a slot.
    ///
    /// # Errors
    /// When another node's was different.
    pub fn applied(&mut self, node: NodeId, slot: u64, hash: u64) -> Check {
        let (known, who) = *self.known.entry(slot).or_insert((hash, node));
        demand(known == hash, Checker::StateHash, || {
            format!("after slot {slot} the state of {node} differs from that of {who}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_differs_is_found() {
        let mut states = StateHash::default();
        states.applied(NodeId(1), 7, 42).expect("the first");
        states.applied(NodeId(2), 7, 42).expect("equal");
        assert!(states.applied(NodeId(3), 7, 43).is_err());
    }
}
