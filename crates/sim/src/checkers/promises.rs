//! Promises and ballots only rise, across restarts too, and what is said about
//! them rests on the disk.
//!
//! Every record and every message of a node passes here, in the order in which the
//! node made them. Checked are the rules that Phase 1 stands on: the promise in the
//! journal never falls; an acceptance is never below the promise nor above it; a
//! Promise or Accepted leaves only when what it asserts is durable; nobody votes
//! below what it told anybody; a ballot belongs to one life of one node. The disk
//! asked here is the simulated one, so a host that is wrong about its own
//! durability is found.

use std::collections::BTreeMap;

use synod_paxos::{Accepted, Ballot, Message, NodeId, Record, RecordBody, Slot};

use crate::checkers::{Check, Checker, demand};

/// What a node's disk durably holds.
pub trait Ground {
    /// The promise in force.
    fn promised(&self) -> Ballot;
    /// Whether the slot was accepted in this ballot or a later one, or is chosen.
    fn has_accepted(&self, slot: Slot, ballot: Ballot) -> bool;
}

/// What one node has recorded and said.
#[derive(Clone, Debug)]
struct Node {
    recorded: Ballot,
    told: Ballot,
    life: u64,
}

/// All nodes.
#[derive(Debug)]
pub struct Promises {
    nodes: Vec<Node>,
    /// Each ballot that was prepared, and in which life of its node.
    prepared: BTreeMap<Ballot, u64>,
}

impl Promises {
    /// Nobody has promised anything.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let unheard = Node { recorded: Ballot::ZERO, told: Ballot::ZERO, life: 0 };
        Promises { nodes: vec![unheard; members], prepared: BTreeMap::new() }
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0 as usize - 1]
    }

    /// A node starts with this promise in its journal.
    ///
    /// # Errors
    /// When it is below one that the node told anybody.
    pub fn started(&mut self, node: NodeId, life: u64, promised: Ballot) -> Check {
        let known = self.node(node);
        known.recorded = promised;
        known.life = life;
        let told = known.told;
        demand(promised >= told, Checker::Promises, || {
            format!("{node} told of promise {told} and comes back with {promised}")
        })
    }

    /// A node hands a record to its journal.
    ///
    /// # Errors
    /// When it breaks the order of promises.
    pub fn recorded(&mut self, node: NodeId, record: &Record) -> Check {
        let known = self.node(node);
        let before = std::mem::replace(&mut known.recorded, record.promised);
        let now = record.promised;
        demand(now >= before, Checker::Promises, || {
            format!("{node} records promise {now} after {before}")
        })?;
        if let RecordBody::Accepted { slot, ballot, .. } = record.body {
            demand(before <= ballot && ballot <= now, Checker::Promises, || {
                format!(
                    "{node} accepts slot {slot} in {ballot} with the promise {before} before and \
                     {now} after"
                )
            })?;
        }
        Ok(())
    }

    /// A node sends a message.
    ///
    /// # Errors
    /// When it says what its disk does not hold, or less than it said before.
    pub fn sent(&mut self, node: NodeId, message: &Message, ground: &impl Ground) -> Check {
        match message {
            Message::Prepare(prepare) => self.prepared(node, prepare.ballot, ground),
            Message::Promise(promise) => self.vote(node, promise.ballot, ground),
            Message::Accepted(accepted) => {
                self.vote(node, accepted.ballot, ground)?;
                accepted_is_durable(node, accepted, ground)
            }
            _ => Ok(()),
        }
    }

    fn vote(&mut self, node: NodeId, ballot: Ballot, ground: &impl Ground) -> Check {
        let durable = ground.promised();
        demand(durable >= ballot, Checker::Promises, || {
            format!("{node} votes in {ballot} while its disk holds the promise {durable}")
        })?;
        let known = self.node(node);
        let told = known.told;
        known.told = told.max(ballot);
        demand(ballot >= told, Checker::Promises, || {
            format!("{node} votes in {ballot} after it told of {told}")
        })
    }

    fn prepared(&mut self, node: NodeId, ballot: Ballot, ground: &impl Ground) -> Check {
        let life = self.node(node).life;
        let known = *self.prepared.entry(ballot).or_insert(life);
        demand(known == life && ballot.node == node, Checker::Promises, || {
            format!("{node} in life {life} prepares {ballot}, which life {known} prepared before")
        })?;
        let durable = ground.promised();
        demand(durable >= ballot, Checker::Promises, || {
            format!("{node} prepares {ballot} while its disk holds the promise {durable}")
        })
    }
}

fn accepted_is_durable(node: NodeId, accepted: &Accepted, ground: &impl Ground) -> Check {
    let (first, last, ballot) = (accepted.first.0, accepted.last.0, accepted.ballot);
    let hole = (first..=last).map(Slot).find(|slot| !ground.has_accepted(*slot, ballot));
    demand(hole.is_none(), Checker::Promises, || {
        let hole = hole.unwrap_or(Slot::ZERO);
        format!("{node} says that it accepted slot {hole} in {ballot}, which its disk lacks")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_paxos::{Prepare, Promise, Value};

    struct Paper {
        promised: u64,
        accepted: Vec<u64>,
    }

    impl Ground for Paper {
        fn promised(&self) -> Ballot {
            ballot(self.promised)
        }
        fn has_accepted(&self, slot: Slot, _: Ballot) -> bool {
            self.accepted.contains(&slot.0)
        }
    }

    const ME: NodeId = NodeId(1);

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: ME }
    }

    fn promise(round: u64) -> Message {
        Message::Promise(Promise {
            ballot: ballot(round),
            from: Slot(1),
            chosen_upto: Slot(0),
            answer: 1,
            page: 0,
            pages: 1,
            accepted: Vec::new(),
        })
    }

    fn accepted(round: u64, first: u64, last: u64) -> Message {
        let (first, last) = (Slot(first), Slot(last));
        Message::Accepted(Accepted { ballot: ballot(round), first, last, read_round: 0 })
    }

    #[test]
    fn a_vote_that_is_not_durable_is_found() {
        let mut promises = Promises::new(1);
        let ground = Paper { promised: 2, accepted: vec![1, 3] };
        promises.sent(ME, &promise(2), &ground).expect("durable");
        assert!(promises.sent(ME, &promise(3), &ground).is_err());
        assert!(promises.sent(ME, &promise(1), &ground).is_err(), "2 was told before");
        promises.sent(ME, &accepted(2, 1, 1), &ground).expect("durable");
        assert!(promises.sent(ME, &accepted(2, 1, 3), &ground).is_err(), "a hole at 2");
    }

    #[test]
    fn a_promise_that_falls_is_found() {
        let mut promises = Promises::new(1);
        let record = |promised, accepted_in: Option<u64>| Record {
            promised: ballot(promised),
            chosen_upto: Slot(0),
            body: accepted_in.map_or(RecordBody::Promise, |round| RecordBody::Accepted {
                slot: Slot(1),
                ballot: ballot(round),
                value: Value::Noop,
            }),
        };
        promises.recorded(ME, &record(3, None)).expect("it rises");
        promises.recorded(ME, &record(4, Some(4))).expect("it rises");
        assert!(promises.recorded(ME, &record(4, Some(3))).is_err(), "below the promise");
        assert!(promises.recorded(ME, &record(2, None)).is_err());
        let ground = Paper { promised: 9, accepted: vec![] };
        promises.sent(ME, &promise(9), &ground).expect("durable");
        assert!(promises.started(ME, 2, ballot(8)).is_err(), "it forgot");
        promises.started(ME, 2, ballot(9)).expect("it did not");
    }

    #[test]
    fn a_ballot_of_an_earlier_life_is_found() {
        let mut promises = Promises::new(1);
        let ground = Paper { promised: 9, accepted: vec![] };
        let prepare = Message::Prepare(Prepare { ballot: ballot(5), from: Slot(1) });
        promises.started(ME, 1, ballot(0)).expect("new");
        promises.sent(ME, &prepare, &ground).expect("its first");
        promises.sent(ME, &prepare, &ground).expect("a repetition");
        promises.started(ME, 2, ballot(9)).expect("again");
        assert!(promises.sent(ME, &prepare, &ground).is_err());
    }
}
