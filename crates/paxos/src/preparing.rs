//! Phase 1 of one ballot: who has promised, and what they reported.
//!
//! What follows from it is the business of `proposer`.

use alloc::{collections::BTreeMap, vec::Vec};

use crate::{
    AcceptedSlot, Ballot, Bug, Configuration, NodeId, Planted, Promise, Reign, Slot, Time,
};

/// Phase 1 of one ballot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Preparing {
    pub(crate) ballot: Ballot,
    /// The first slot that this node does not know as chosen.
    pub(crate) from: Slot,
    /// When anything of a promise last arrived; the clock of giving up. Two syncs
    /// and the transfer of pages lie between a Prepare and its quorum.
    pub(crate) progress_at: Time,
    /// When the Prepares last left, and how often they did.
    pub(crate) sent_at: Time,
    pub(crate) sent: u32,
    /// What came of each node's promise.
    answers: BTreeMap<NodeId, Answer>,
    planted: Planted,
}

/// The pages of one member's promise.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Answer {
    answer: u64,
    chosen_upto: Slot,
    pages: Vec<Option<Vec<AcceptedSlot>>>,
}

impl Answer {
    fn is_complete(&self, planted: Planted) -> bool {
        let is_enough = planted.is(Bug::PageIsWholePromise);
        is_enough || self.pages.iter().all(Option::is_some)
    }
}

impl Preparing {
    /// Pages that one promise may have: more is a damaged message.
    const PAGES_MAX: u32 = 65_536;

    /// How far above what its acceptor knows as chosen a promise may report: a slot further
    /// on is a damaged message. It is the widest window of any configuration and not that
    /// of the present ones: what was accepted under an older and larger alpha is reported
    /// long after, and a candidate that refused such a promise would never be elected.
    const REACH_SLOTS_MAX: u64 = 2 * Configuration::ALPHA_MAX;

    pub(crate) fn new(ballot: Ballot, from: Slot, now: Time, planted: Planted) -> Preparing {
        Preparing {
            ballot,
            from,
            progress_at: now,
            sent_at: now,
            sent: 1,
            answers: BTreeMap::new(),
            planted,
        }
    }

    /// Takes one page of a promise. One of another ballot, an older attempt of this node
    /// included, does not count (pitfall 6), nor does a damaged one.
    pub(crate) fn receive_promise(&mut self, from: NodeId, promise: Promise) {
        let is_old = promise.ballot != self.ballot || promise.from != self.from;
        if is_old && !self.planted.is(Bug::OldPromiseCounts) {
            return;
        }
        if promise.page >= promise.pages || promise.pages > Self::PAGES_MAX {
            return;
        }
        let first = promise.chosen_upto.next();
        let last = promise.chosen_upto.plus(Self::REACH_SLOTS_MAX);
        if promise.accepted.iter().any(|a| a.slot < first || a.slot > last) {
            return;
        }
        let replace = match self.answers.get(&from) {
            Some(known) => !known.is_complete(self.planted) && known.answer < promise.answer,
            None => true,
        };
        if replace {
            let answer = Answer {
                answer: promise.answer,
                chosen_upto: promise.chosen_upto,
                pages: alloc::vec![None; promise.pages as usize],
            };
            self.answers.insert(from, answer);
        }
        let answer = self.answers.get_mut(&from).expect("just inserted");
        if answer.answer == promise.answer && answer.pages.len() == promise.pages as usize {
            answer.pages[promise.page as usize] = Some(promise.accepted);
        }
    }

    /// Whether `node` has promised completely.
    pub(crate) fn has_promised(&self, node: NodeId) -> bool {
        self.answers.get(&node).is_some_and(|answer| answer.is_complete(self.planted))
    }

    /// Whether a q1 quorum of each of these configurations has promised completely.
    pub(crate) fn has_quorums(&self, reigns: &[Reign]) -> bool {
        let promises = |configuration: &Configuration| {
            configuration.voters().iter().filter(|node| self.has_promised(**node)).count()
        };
        let has_quorum = |c: &Configuration| promises(c) >= c.promise_quorum();
        reigns.iter().all(|reign| has_quorum(&reign.configuration))
    }

    /// Those who have promised completely.
    pub(crate) fn promised(&self) -> impl Iterator<Item = NodeId> {
        self.answers.keys().copied().filter(|node| self.has_promised(*node))
    }

    /// Everything that those who promised have accepted, or know as chosen.
    pub(crate) fn reported(&self) -> impl Iterator<Item = &AcceptedSlot> {
        self.complete().flat_map(|answer| answer.pages.iter().flatten().flatten())
    }

    fn complete(&self) -> impl Iterator<Item = &Answer> {
        let enough = if self.planted.is(Bug::OneReportIsEnough) { 1 } else { self.answers.len() };
        let is_complete = |answer: &&Answer| answer.is_complete(self.planted);
        self.answers.values().filter(is_complete).take(enough)
    }

    /// The highest slot that one of those who promised knows as chosen.
    pub(crate) fn chosen_upto(&self) -> Slot {
        self.complete().map(|answer| answer.chosen_upto).max().unwrap_or(Slot::ZERO)
    }

    /// The mistakes that are planted here.
    pub(crate) fn planted(&self) -> Planted {
        self.planted
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Configurations, Standing, Value};
    use alloc::{collections::BTreeSet, vec};

    pub(crate) const NOW: Time = Time(1_000);
    pub(crate) const ONE: Slot = Slot(1);

    pub(crate) fn three() -> Configurations {
        let three = Configuration::majority([1, 2, 3].map(NodeId).to_vec(), 16);
        Configurations::new(three.expect("valid"))
    }

    /// Gives the candidate a page; says whether it is elected.
    pub(crate) fn take(preparing: &mut Preparing, from: NodeId, promise: Promise) -> bool {
        preparing.receive_promise(from, promise);
        preparing.has_quorums(three().reigns())
    }

    pub(crate) fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    pub(crate) fn mine() -> Ballot {
        ballot(9)
    }

    pub(crate) fn promise(
        answer: u64,
        page: u32,
        pages: u32,
        accepted: Vec<AcceptedSlot>,
    ) -> Promise {
        let (ballot, from, chosen_upto) = (mine(), ONE, Slot::ZERO);
        Promise { ballot, from, chosen_upto, answer, page, pages, accepted }
    }

    /// Everything that can reach a candidate from n2: two answers of two pages each, a page
    /// of an older ballot of ours, one of a newer, one for another `from`, and a damaged one.
    fn letters() -> Vec<Promise> {
        let slot = |answer: u64, page: u32| {
            let standing = Standing::Accepted(ballot(answer));
            vec![AcceptedSlot { slot: Slot(u64::from(page) + 1), standing, value: Value::Noop }]
        };
        let page = |answer, page| promise(answer, page, 2, slot(answer, page));
        vec![
            page(1, 0),
            page(1, 1),
            page(2, 0),
            page(2, 1),
            Promise { ballot: ballot(8), ..promise(3, 0, 1, vec![]) },
            Promise { ballot: ballot(10), ..promise(3, 0, 1, vec![]) },
            Promise { from: Slot(2), ..promise(3, 0, 1, vec![]) },
            promise(3, 2, 2, vec![]),
        ]
    }

    /// Every sequence of five of these letters, lost and repeated ones included. The promise
    /// counts when every page of the newest answer is there; once it counts it stays.
    #[test]
    fn a_promise_counts_when_all_pages_of_one_answer_are_there() {
        let letters = letters();
        for sequence in 0..8_usize.pow(5) {
            let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
            assert!(!take(&mut preparing, NodeId(1), promise(1, 0, 1, vec![])));
            let mut newest = 0;
            let mut pages = BTreeSet::new();
            for step in 0..5 {
                let letter = letters[sequence / 8_usize.pow(step) % 8].clone();
                let counts = letter.ballot == mine() && letter.from == ONE && letter.page < 2;
                if counts && pages.len() < 2 && letter.answer > newest {
                    newest = letter.answer;
                    pages.clear();
                }
                if counts && letter.answer == newest {
                    pages.insert(letter.page);
                }
                let elected = take(&mut preparing, NodeId(2), letter);
                assert_eq!(elected, pages.len() == 2, "sequence {sequence:o}");
                assert_eq!(preparing.has_promised(NodeId(2)), pages.len() == 2);
                assert!(!preparing.has_promised(NodeId(3)));
            }
            if pages.len() == 2 {
                // Nothing of the other answer has got into it.
                let answer = &preparing.answers[&NodeId(2)];
                let all = answer.pages.iter().flatten().flatten();
                let of_newest = |a: &AcceptedSlot| a.standing == Standing::Accepted(ballot(newest));
                assert_eq!(all.filter(|accepted| of_newest(accepted)).count(), 2);
            }
        }
    }

    /// Pitfall 7: every sequence of six promises of three members, and of a stranger.
    #[test]
    fn a_quorum_of_promises_is_one_of_distinct_members() {
        for sequence in 0..4_u32.pow(6) {
            let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
            let mut members = BTreeSet::new();
            for step in 0..6 {
                let from = NodeId(sequence / 4_u32.pow(step) % 4 + 1);
                if from != NodeId(4) {
                    members.insert(from);
                }
                let answer = promise(u64::from(step), 0, 1, vec![]);
                let elected = take(&mut preparing, from, answer);
                assert_eq!(elected, members.len() >= 2);
                let promised = (1..=3_u32).map(NodeId).filter(|node| preparing.has_promised(*node));
                assert_eq!(promised.count(), members.len());
            }
        }
    }
}
