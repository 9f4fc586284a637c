//! A healed quorum makes progress.
//!
//! In the second phase of a run exactly a quorum lives, on a good network and good
//! disks, and the rest is dead. Then each living node must answer a write and a read
//! that were asked after the healing, within a bound. And at the end all of them
//! must have applied the same slots. Progress is demanded of every node and not of
//! the leader alone, so a node that cannot catch up is found.

use std::collections::BTreeMap;

use synod_paxos::NodeId;

use crate::checkers::{Check, Checker, demand};

/// What is demanded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// An answer to a write and one to a read.
    Progress,
    /// An answer to a read: too few nodes have room on their disks for more.
    Reads,
}

/// What a node has answered since the healing, and when.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    write_us: Option<u64>,
    read_us: Option<u64>,
}

/// Watches the second phase.
#[derive(Clone, Debug)]
pub struct Liveness {
    demand: Demand,
    healed_us: u64,
    bound_us: u64,
    nodes: BTreeMap<NodeId, Answered>,
    /// Who refused a write as too late that was asked when all were to be well.
    late: Option<NodeId>,
}

impl Liveness {
    /// From this moment on so much is demanded of these nodes.
    #[must_use]
    pub fn new(demand: Demand, healed_us: u64, bound_us: u64, nodes: &[NodeId]) -> Self {
        let nodes = nodes.iter().map(|node| (*node, Answered::default())).collect();
        Liveness { demand, healed_us, bound_us, nodes, late: None }
    }

    /// Whether this node must answer.
    #[must_use]
    pub fn watches(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Those that must answer.
    #[must_use]
    pub fn watched(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Only these nodes must answer from now on.
    pub fn retain(&mut self, must: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|node, _| must(*node));
    }

    /// A node answered an operation that was asked of it at `asked_us`.
    pub fn answered(&mut self, node: NodeId, is_write: bool, asked_us: u64, now_us: u64) {
        let healed_us = self.healed_us;
        if let Some(known) = self.nodes.get_mut(&node).filter(|_| asked_us >= healed_us) {
            let at = if is_write { &mut known.write_us } else { &mut known.read_us };
            at.get_or_insert(now_us);
        }
    }

    /// A node refused a write as too late for its idempotency key.
    pub fn refused_late(&mut self, node: NodeId, asked_us: u64) {
        if asked_us > self.healed_us + self.bound_us {
            self.late.get_or_insert(node);
        }
    }

    /// How things are now.
    ///
    /// # Errors
    /// When the bound has passed and a node has not answered, or finds a write too late
    /// that was asked since.
    pub fn check(&self, now_us: u64) -> Check {
        let bound_us = self.bound_us;
        demand(self.late.is_none(), Checker::Liveness, || {
            format!("{:?} refused a fresh write as too late", self.late)
        })?;
        let late = |answered: &Answered| self.answered_us(answered).is_none();
        let missing = self.nodes.iter().find(|(_, answered)| late(answered));
        demand(now_us <= self.healed_us + bound_us || missing.is_none(), Checker::Liveness, || {
            let (node, answered) = missing.expect("it is late");
            let writes = self.demand == Demand::Progress;
            let what = if writes && answered.write_us.is_none() { "write" } else { "read" };
            format!("{node} answered no {what} within {} ms of the healing", bound_us / 1_000)
        })
    }

    /// At the end: how far each node has applied.
    ///
    /// # Errors
    /// When they differ.
    pub fn ended(&self, applied: &[(NodeId, u64)]) -> Check {
        let equal = applied.windows(2).all(|pair| pair[0].1 == pair[1].1);
        demand(equal, Checker::Liveness, || {
            format!("at the end the living nodes have not applied the same: {applied:?}")
        })
    }

    /// When a node had answered all that is demanded.
    fn answered_us(&self, answered: &Answered) -> Option<u64> {
        match self.demand {
            Demand::Progress => Some(answered.write_us?.max(answered.read_us?)),
            Demand::Reads => answered.read_us,
        }
    }

    /// How long after the healing the last node had answered all that is demanded.
    #[must_use]
    pub fn worst_us(&self) -> Option<u64> {
        let times = self.nodes.values().map(|answered| self.answered_us(answered));
        let times: Option<Vec<u64>> = times.collect();
        times?.into_iter().max().map(|last| last - self.healed_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_answers_only_old_questions_is_found() {
        let mut liveness = Liveness::new(Demand::Progress, 100, 50, &[NodeId(1), NodeId(2)]);
        for node in [NodeId(1), NodeId(2)] {
            liveness.answered(node, true, 101, 120);
            liveness.answered(node, false, if node.0 == 2 { 99 } else { 100 }, 130);
        }
        liveness.check(150).expect("the bound has not passed");
        assert!(liveness.check(151).is_err());
        assert_eq!(liveness.worst_us(), None);
        liveness.answered(NodeId(2), false, 110, 149);
        liveness.check(151).expect("all answered");
        assert_eq!(liveness.worst_us(), Some(49));
    }

    #[test]
    fn a_fresh_write_that_is_called_late_is_found() {
        let mut liveness = Liveness::new(Demand::Progress, 100, 50, &[]);
        liveness.refused_late(NodeId(2), 150);
        liveness.check(200).expect("it was asked when nodes may still have been behind");
        liveness.refused_late(NodeId(2), 151);
        assert!(liveness.check(200).is_err());
    }

    #[test]
    fn nodes_that_end_apart_are_found() {
        let liveness = Liveness::new(Demand::Progress, 0, 0, &[]);
        liveness.ended(&[(NodeId(1), 5), (NodeId(3), 5)]).expect("equal");
        assert!(liveness.ended(&[(NodeId(1), 5), (NodeId(3), 4)]).is_err());
    }
}
