//! What was acknowledged stays.
//!
//! When a client is told the outcome of a write, the slot that holds it must be
//! chosen as the oracle of agreement counts it: durable on a quorum, in one ballot.
//! From agreement follows that no other value can ever stand there. At the end of a
//! run every node of the healed quorum must have applied every slot that anybody
//! was told of; that its effects are the same is the state hash's matter, and that
//! clients still see them the matter of the final reads in the clients' history.

use synod_paxos::{NodeId, Slot};

use crate::checkers::agreement::Agreement;
use crate::checkers::{Check, Checker, demand};

/// How far clients were told.
#[derive(Debug, Default)]
pub struct Durability {
    acknowledged: u64,
    count: u64,
}

impl Durability {
    /// A node tells a client what became of a write in `slot`.
    ///
    /// # Errors
    /// When that slot is not chosen.
    pub fn acknowledged(&mut self, node: NodeId, slot: u64, agreement: &Agreement) -> Check {
        self.acknowledged = self.acknowledged.max(slot);
        self.count += 1;
        demand(agreement.chosen(Slot(slot)).is_some(), Checker::Durability, || {
            format!("{node} acknowledges slot {slot}, which no quorum holds durably")
        })
    }

    /// The run ended with this node's state at `applied`.
    ///
    /// # Errors
    /// When something acknowledged is not in it.
    pub fn ended(&self, node: NodeId, applied: u64) -> Check {
        let told = self.acknowledged;
        demand(applied >= told, Checker::Durability, || {
            format!("at the end {node} has slot {applied}, but slot {told} was acknowledged")
        })
    }

    /// How many acknowledgements were looked at.
    #[must_use]
    pub fn checked(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{Ballot, Configuration, Value};

    #[test]
    fn an_acknowledgement_without_a_quorum_is_found() {
        let mut agreement = Agreement::new(
            Configuration::majority([1, 2, 3].map(NodeId).to_vec(), 16).expect("valid"),
        );
        let mut durability = Durability::default();
        let ballot = Ballot { round: 1, node: NodeId(1) };
        agreement.accepted(NodeId(1), Slot(1), ballot, &Value::Noop).expect("fine");
        assert!(durability.acknowledged(NodeId(1), 1, &agreement).is_err());
        agreement.accepted(NodeId(2), Slot(1), ballot, &Value::Noop).expect("fine");
        durability.acknowledged(NodeId(1), 1, &agreement).expect("chosen");
        durability.ended(NodeId(1), 1).expect("it is there");
        assert!(durability.ended(NodeId(2), 0).is_err());
    }
}
