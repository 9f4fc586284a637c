//! The proposer: Phase 1 once per leadership, Phase 2 for every slot.
//!
//! Safety only. *When* to stand is the business of `leader`.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

use crate::{
    Accepted, AcceptedSlot, Ballot, Bug, Configuration, NodeId, Planted, Promise, Slot, Standing,
    Time, Value, quorum::Voters,
};

/// What a proposer is doing.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Proposer {
    /// Nothing.
    Idle,
    /// Phase 1.
    Preparing(Preparing),
    /// Phase 2.
    Leading(Leading),
}

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
    /// What came of each member's promise, by its place.
    answers: BTreeMap<usize, Answer>,
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

    /// Takes one page; says whether a quorum has promised completely. A promise of
    /// another ballot, an older attempt of this node included, does not count
    /// (pitfall 6).
    pub(crate) fn receive_promise(
        &mut self,
        from: NodeId,
        promise: Promise,
        configuration: &Configuration,
    ) -> bool {
        let Some(member) = configuration.index_of(from) else { return false };
        let is_old = promise.ballot != self.ballot || promise.from != self.from;
        if is_old && !self.planted.is(Bug::OldPromiseCounts) {
            return false;
        }
        if promise.page >= promise.pages || promise.pages > Self::PAGES_MAX {
            return false;
        }
        // Nothing correct lies further ahead than an acceptor's window.
        let window = configuration.alpha().saturating_mul(2);
        let (first, last) = (promise.chosen_upto.next(), promise.chosen_upto.plus(window));
        if promise.accepted.iter().any(|a| a.slot < first || a.slot > last) {
            return false;
        }
        let replace = match self.answers.get(&member) {
            Some(known) => !known.is_complete(self.planted) && known.answer < promise.answer,
            None => true,
        };
        if replace {
            let answer = Answer {
                answer: promise.answer,
                chosen_upto: promise.chosen_upto,
                pages: alloc::vec![None; promise.pages as usize],
            };
            self.answers.insert(member, answer);
        }
        let answer = self.answers.get_mut(&member).expect("just inserted");
        if answer.answer == promise.answer && answer.pages.len() == promise.pages as usize {
            answer.pages[promise.page as usize] = Some(promise.accepted);
        }
        self.promises().count() >= configuration.promise_quorum()
    }

    /// The members whose promise is complete.
    pub(crate) fn promises(&self) -> Voters {
        let mut voters = Voters::default();
        for (member, answer) in &self.answers {
            if answer.is_complete(self.planted) {
                voters.insert(*member);
            }
        }
        voters
    }

    /// Begins Phase 2 with what the quorum reported.
    ///
    /// The value of a slot is "the value of the highest-numbered proposal among
    /// the responses" (Paxos Made Simple, 2.2). Suppose a value v was chosen in
    /// the slot in a ballot below ours: a q2 quorum accepted it, that quorum meets
    /// our q1 quorum in some member, and that member accepted v before it promised
    /// us. By induction over the ballots between, every higher acceptance of the
    /// slot is v too, so the highest one that we hear of is v. Where nobody reports
    /// anything nothing can have been chosen, and any value will do: a no-op.
    ///
    /// Slots up to the highest `chosen_upto` of the quorum are chosen already;
    /// their values are fetched, and nothing is proposed in them (pitfall 17). So are
    /// those up to `known`, which this node has learnt while it was preparing, perhaps
    /// from a later ballot. Nobody ever accepts in this ballot in a slot up to there,
    /// so nobody takes anything from the claim that they are chosen.
    pub(crate) fn lead(self, now: Time, known: Slot) -> Leading {
        let enough = if self.planted.is(Bug::OneReportIsEnough) { 1 } else { self.answers.len() };
        let is_complete = |answer: &&Answer| answer.is_complete(self.planted);
        let complete = || self.answers.values().filter(is_complete).take(enough);
        let base = complete().map(|answer| answer.chosen_upto).max().unwrap_or(Slot::ZERO);
        let base = base.max(self.from.prior());
        let base = if self.planted.is(Bug::NoopOverChosen) { known } else { base.max(known) };
        let mut highest: BTreeMap<Slot, (Standing, Value)> = BTreeMap::new();
        for accepted in complete().flat_map(|a| a.pages.iter().flatten().flatten()) {
            let AcceptedSlot { slot, standing, value } = accepted;
            let known = highest.get(slot).map(|(standing, _)| *standing);
            let is_higher = known.is_none_or(|known| *standing > known);
            let wins = match known {
                Some(_) if self.planted.is(Bug::FirstReportWins) => false,
                Some(known) if self.planted.is(Bug::LowestReportWins) => *standing < known,
                _ => is_higher,
            };
            if *slot > base && wins {
                highest.insert(*slot, (*standing, value.clone()));
            }
        }
        let last = highest.keys().next_back().copied().unwrap_or(base);
        let forgets = self.planted.is(Bug::OwnValueDespiteReport);
        let mut adopted = VecDeque::new();
        let mut slot = base.next();
        while slot <= last {
            let reported = highest.remove(&slot).filter(|_| !forgets);
            adopted.push_back(reported.map_or(Value::Noop, |(_, value)| value));
            slot = slot.next();
        }
        Leading::new(self.ballot, base, adopted, now, self.planted)
    }
}

/// Phase 2 of one ballot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Leading {
    pub(crate) ballot: Ballot,
    /// Every slot up to here was chosen before this ballot: "Phase 1's chosen
    /// prefix". This leader proposes in no slot of it.
    pub(crate) base: Slot,
    /// The last slot that Phase 1 brought back.
    pub(crate) adopted_upto: Slot,
    /// Values of Phase 1 that wait for the window, for the slots from `next` on.
    adopted: VecDeque<Value>,
    /// Every slot up to here is chosen.
    prefix: Slot,
    /// The slots above `prefix` that were proposed.
    open: VecDeque<Open>,
    open_bytes: usize,
    /// Since when no slot was chosen though some are open.
    pub(crate) progress_at: Time,
    /// Smoothed time from an Accept to its answer in microseconds, the acceptor's
    /// sync included; 0 when unknown.
    answer_us: u64,
    planted: Planted,
}

/// One proposed slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Open {
    pub(crate) value: Value,
    pub(crate) voters: Voters,
    pub(crate) sent_at: Time,
    /// How often it was sent again.
    pub(crate) repeats: u32,
    chosen: bool,
}

impl Open {
    /// When this slot is due to be sent again.
    pub(crate) fn repeat_at(&self, pause_us: u64) -> Time {
        const DOUBLINGS_MAX: u32 = 6;
        self.sent_at.plus_us(pause_us << self.repeats.min(DOUBLINGS_MAX))
    }
}

impl Leading {
    fn new(
        ballot: Ballot,
        base: Slot,
        adopted: VecDeque<Value>,
        now: Time,
        planted: Planted,
    ) -> Leading {
        Leading {
            ballot,
            base,
            adopted_upto: base.plus(adopted.len() as u64),
            adopted,
            prefix: base,
            open: VecDeque::new(),
            open_bytes: 0,
            progress_at: now,
            answer_us: 0,
            planted,
        }
    }

    /// Every slot up to here is chosen: what this leader may claim.
    pub(crate) fn prefix(&self) -> Slot {
        self.prefix
    }

    /// The last proposed slot.
    pub(crate) fn proposed_upto(&self) -> Slot {
        self.prefix.plus(self.open.len() as u64)
    }

    /// Proposed slots that are not chosen yet, and chosen ones behind such.
    pub(crate) fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// Whether values of Phase 1 still wait; they go before any new one.
    pub(crate) fn has_adopted(&self) -> bool {
        !self.adopted.is_empty()
    }

    /// Whether the next slot may be proposed: "slot s only when every slot up to
    /// s - alpha is chosen", and the local window.
    pub(crate) fn has_room(&self, window_slots: u64, window_bytes: usize) -> bool {
        (self.open.len() as u64) < window_slots
            && (self.open.is_empty() || self.open_bytes < window_bytes)
    }

    /// Whether this leader cannot get `value` chosen in `slot`: Phase 1 brought back
    /// another value for it, or none though it is not this leader's turn there.
    pub(crate) fn is_beaten_by(&self, slot: Slot, value: &Value) -> bool {
        if slot <= self.prefix {
            return false;
        }
        let place = usize::try_from(slot.0 - self.prefix.0 - 1).expect("the window is small");
        let mine = match place.checked_sub(self.open.len()) {
            None => Some(&self.open[place].value),
            Some(place) => self.adopted.get(place),
        };
        slot > self.adopted_upto || mine != Some(value)
    }

    /// Forgets what Phase 1 brought back above `last`. Only a planted bug does this.
    pub(crate) fn forget_above(&mut self, last: Slot) {
        self.adopted_upto = self.adopted_upto.min(last.max(self.base));
        self.adopted.truncate(usize::try_from(self.adopted_upto.0 - self.base.0).unwrap_or(0));
    }

    /// The next value of Phase 1 that waits.
    pub(crate) fn next_adopted(&mut self) -> Option<Value> {
        self.adopted.pop_front()
    }

    /// Gives `value` the next slot. Each slot gets one value in a ballot, ever:
    /// this is the only place that hands out slots (pitfall 11).
    pub(crate) fn propose(&mut self, now: Time, value: Value) -> Slot {
        if self.open.is_empty() {
            self.progress_at = now;
        }
        self.open_bytes += value.size_bytes();
        let open =
            Open { value, voters: Voters::default(), sent_at: now, repeats: 0, chosen: false };
        self.open.push_back(open);
        self.proposed_upto()
    }

    /// Counts an acceptor's vote for a range of slots. Gives each slot that became
    /// chosen: "a value is chosen when a single proposal with that value has been
    /// accepted by a majority".
    pub(crate) fn receive_accepted(
        &mut self,
        now: Time,
        member: usize,
        accepted: &Accepted,
        accept_quorum: usize,
    ) -> Vec<(Slot, Value)> {
        let is_old = accepted.ballot != self.ballot && !self.planted.is(Bug::OldVoteCounts);
        assert!(!is_old, "votes are counted in their own ballot");
        let mut chosen = Vec::new();
        let first = accepted.first.max(self.prefix.next());
        let last = accepted.last.min(self.proposed_upto());
        let mut slot = first;
        while slot <= last {
            let index = usize::try_from(slot.0 - self.prefix.0 - 1).expect("the window is small");
            let open = &mut self.open[index];
            let voter = match self.planted.is(Bug::VotesOfOneMemberCount) {
                true => open.voters.count(),
                false => member,
            };
            if open.voters.insert(voter) && open.repeats == 0 && slot == last {
                let sample = now.since_us(open.sent_at);
                self.answer_us = match self.answer_us {
                    0 => sample,
                    smoothed => (smoothed * 7 + sample) / 8,
                };
            }
            if !open.chosen && open.voters.count() >= accept_quorum {
                open.chosen = true;
                chosen.push((slot, open.value.clone()));
            }
            slot = slot.next();
        }
        while self.open.front().is_some_and(|open| open.chosen) {
            let open = self.open.pop_front().expect("just seen");
            self.open_bytes -= open.value.size_bytes();
            self.prefix = self.prefix.next();
            self.progress_at = now;
        }
        chosen
    }

    /// The open slots that are not chosen, oldest first.
    pub(crate) fn unchosen(&mut self) -> impl Iterator<Item = (Slot, &mut Open)> {
        let first = self.prefix.next().0;
        (first..).map(Slot).zip(self.open.iter_mut()).filter(|(_, open)| !open.chosen)
    }

    /// When the oldest unchosen slot is due to be sent again. The pause follows the
    /// measured time of an answer and doubles with each repeat.
    pub(crate) fn repeat_at(&self, least_us: u64) -> Option<Time> {
        self.open.front().map(|open| open.repeat_at(self.repeat_us(least_us)))
    }

    /// The first pause before an Accept is sent again.
    pub(crate) fn repeat_us(&self, least_us: u64) -> u64 {
        least_us.max(4 * self.answer_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, format, vec};
    use bytes::Bytes;

    const NOW: Time = Time(1_000);
    const ONE: Slot = Slot(1);

    fn three() -> Configuration {
        Configuration::majority([1, 2, 3].map(NodeId).to_vec(), 16).expect("valid")
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    fn mine() -> Ballot {
        ballot(9)
    }

    fn text(text: &str) -> Value {
        Value::Batch(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn promise(answer: u64, page: u32, pages: u32, accepted: Vec<AcceptedSlot>) -> Promise {
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
        let (configuration, letters) = (three(), letters());
        for sequence in 0..8_usize.pow(5) {
            let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
            assert!(!preparing.receive_promise(
                NodeId(1),
                promise(1, 0, 1, vec![]),
                &configuration
            ));
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
                let elected = preparing.receive_promise(NodeId(2), letter, &configuration);
                assert_eq!(elected, counts && pages.len() == 2, "sequence {sequence:o}");
                assert_eq!(preparing.promises().contains(1), pages.len() == 2);
                assert!(!preparing.promises().contains(2));
            }
            if pages.len() == 2 {
                // Nothing of the other answer has got into it.
                let answer = &preparing.answers[&1];
                let all = answer.pages.iter().flatten().flatten();
                let of_newest = |a: &AcceptedSlot| a.standing == Standing::Accepted(ballot(newest));
                assert_eq!(all.filter(|accepted| of_newest(accepted)).count(), 2);
            }
        }
    }

    /// Pitfall 7: every sequence of six promises of three members, and of a stranger.
    #[test]
    fn a_quorum_of_promises_is_one_of_distinct_members() {
        let configuration = three();
        for sequence in 0..4_u32.pow(6) {
            let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
            let mut members = BTreeSet::new();
            for step in 0..6 {
                let from = NodeId(sequence / 4_u32.pow(step) % 4 + 1);
                if from != NodeId(4) {
                    members.insert(from);
                }
                let answer = promise(u64::from(step), 0, 1, vec![]);
                let elected = preparing.receive_promise(from, answer, &configuration);
                assert_eq!(elected, from != NodeId(4) && members.len() >= 2);
                assert_eq!(preparing.promises().count(), members.len());
            }
        }
    }

    /// What an acceptor can report: what it knows as chosen, and above that, per slot,
    /// nothing, an acceptance, or a choice that it knows of.
    fn reports() -> Vec<(Slot, Vec<AcceptedSlot>)> {
        let standings =
            [None, Some(Standing::Accepted(ballot(1))), Some(Standing::Accepted(ballot(2)))];
        let standings: Vec<_> = standings.into_iter().chain([Some(Standing::Chosen)]).collect();
        let mut reports = Vec::new();
        for (chosen_upto, open) in [(0, 3), (1, 2), (2, 1)] {
            for code in 0..4_usize.pow(open) {
                let mut accepted = Vec::new();
                for (place, slot) in (0..).zip((chosen_upto + 1..=3).map(Slot)) {
                    if let Some(standing) = standings[code / 4_usize.pow(place) % 4] {
                        let value = text(&format!("{standing:?} in {slot}"));
                        accepted.push(AcceptedSlot { slot, standing, value });
                    }
                }
                reports.push((Slot(chosen_upto), accepted));
            }
        }
        reports
    }

    /// Paxos Made Simple 2.2, Phase 2(a): "v is the value of the highest-numbered proposal
    /// among the responses, or is any value if the responses reported no proposals." And 3:
    /// "no-op" commands fill the gaps. Every pair of reports about three slots.
    #[test]
    fn the_value_is_that_of_the_highest_numbered_proposal_among_the_responses() {
        let (configuration, reports) = (three(), reports());
        assert_eq!(reports.len(), 64 + 16 + 4);
        for one in &reports {
            for (two, known) in reports.iter().flat_map(|two| (0..=3).map(move |k| (two, k))) {
                let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
                for (from, (chosen_upto, accepted)) in [(2, one), (3, two)] {
                    let chosen_upto = *chosen_upto;
                    let answer = Promise { chosen_upto, ..promise(1, 0, 1, accepted.clone()) };
                    preparing.receive_promise(NodeId(from), answer, &configuration);
                }
                // What it learns while it prepares counts as chosen like the rest.
                let mut leading = preparing.lead(NOW, Slot(known));

                let base = one.0.max(two.0).max(Slot(known));
                let responses = || one.1.iter().chain(&two.1).filter(|a| a.slot > base);
                let last = responses().map(|a| a.slot).max().unwrap_or(base).max(base);
                assert_eq!(leading.base, base, "chosen slots are fetched, never proposed in");
                assert_eq!((leading.prefix(), leading.adopted_upto), (base, last));
                for slot in base.0 + 1..=last.0 {
                    let about = responses().filter(|a| a.slot == Slot(slot));
                    let highest = about.max_by_key(|a| a.standing).map(|a| a.value.clone());
                    let value = leading.next_adopted().expect("a value for each slot");
                    assert_eq!(value, highest.unwrap_or(Value::Noop), "{one:?} {two:?}");
                    assert_eq!(leading.propose(NOW, value), Slot(slot));
                }
                assert!(!leading.has_adopted());
                assert_eq!(leading.propose(NOW, text("new")), last.next());
            }
        }
    }

    /// What Phase 1 brought back may be chosen under somebody else meanwhile, with the same
    /// value or, if that one is later, with another; beyond it only this leader chooses.
    #[test]
    fn a_choice_that_this_leader_cannot_make_beats_it() {
        let adopted = VecDeque::from([text("a"), text("b")]);
        let mut leading = Leading::new(mine(), Slot(3), adopted, NOW, Planted::NONE);
        for proposed in 0..=3_u64 {
            for slot in 1..=8 {
                let mine = match slot {
                    4 => Some(text("a")),
                    5 => Some(text("b")),
                    _ => None,
                };
                for value in ["a", "b", "new"].map(text) {
                    let beaten = slot > 3 && mine.as_ref() != Some(&value);
                    let found = leading.is_beaten_by(Slot(slot), &value);
                    assert_eq!(found, beaten, "{value:?} in {slot}, {proposed} proposed");
                }
            }
            let next = leading.next_adopted().unwrap_or_else(|| text("new"));
            leading.propose(NOW, next);
        }
    }

    /// Half a promise brings nothing: its missing page could hold the higher proposal.
    #[test]
    fn pages_of_an_incomplete_promise_are_not_responses() {
        let configuration = three();
        let accepted = |value: &str| {
            let standing = Standing::Accepted(ballot(1));
            vec![AcceptedSlot { slot: ONE, standing, value: text(value) }]
        };
        let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
        preparing.receive_promise(NodeId(3), promise(1, 0, 2, accepted("half")), &configuration);
        preparing.receive_promise(NodeId(1), promise(1, 0, 1, vec![]), &configuration);
        assert!(preparing.receive_promise(NodeId(2), promise(1, 0, 1, vec![]), &configuration));
        assert!(!preparing.lead(NOW, Slot::ZERO).has_adopted());
    }

    #[test]
    fn a_candidate_never_proposes_at_or_below_what_it_knew_as_chosen() {
        let configuration = three();
        let from = Slot(6);
        let mut preparing = Preparing::new(mine(), from, NOW, Planted::NONE);
        for (member, chosen_upto) in [(1, 0), (2, 3)] {
            let answer =
                Promise { from, chosen_upto: Slot(chosen_upto), ..promise(1, 0, 1, vec![]) };
            preparing.receive_promise(NodeId(member), answer, &configuration);
        }
        let mut leading = preparing.lead(NOW, Slot::ZERO);
        assert_eq!((leading.base, leading.propose(NOW, Value::Noop)), (Slot(5), Slot(6)));
    }

    fn leading_with(slots: u64) -> Leading {
        let mut leading = Leading::new(mine(), Slot(2), VecDeque::new(), NOW, Planted::NONE);
        for slot in 3..3 + slots {
            assert_eq!(leading.propose(NOW, text(&format!("{slot}"))), Slot(slot));
        }
        leading
    }

    /// Three slots (3 to 5) are open. Every sequence of three answers, each a range from
    /// anywhere to anywhere by any of three members: holes, repetitions, slots that are
    /// chosen already and slots that were never proposed.
    #[test]
    fn a_value_is_chosen_when_a_single_proposal_has_been_accepted_by_a_majority() {
        let mut letters = Vec::new();
        for (first, last) in (2..=6).flat_map(|first| (2..=6).map(move |last| (first, last))) {
            letters.extend((0..3).map(|member| (member, first, last)));
        }
        for sequence in 0..letters.len().pow(3) {
            let mut leading = leading_with(3);
            let mut votes: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
            let mut told = BTreeSet::new();
            for step in 0..3 {
                let (member, first, last) =
                    letters[sequence / letters.len().pow(step) % letters.len()];
                for slot in (first..=last).filter(|slot| (3..=5).contains(slot)) {
                    votes.entry(slot).or_default().insert(member);
                }
                let (first, last) = (Slot(first), Slot(last));
                let accepted = Accepted { ballot: mine(), first, last, read_round: 0 };
                for (slot, value) in leading.receive_accepted(NOW, member, &accepted, 2) {
                    assert_eq!(value, text(&format!("{slot}")));
                    assert!(told.insert(slot.0), "chosen once");
                }
                let by_majority: BTreeSet<u64> = votes
                    .iter()
                    .filter(|(_, voters)| voters.len() >= 2)
                    .map(|(slot, _)| *slot)
                    .collect();
                assert_eq!(told, by_majority, "sequence {sequence}");
                let prefix = (3..=5).take_while(|slot| by_majority.contains(slot)).count() as u64;
                assert_eq!(leading.prefix(), Slot(2 + prefix));
                assert_eq!(leading.proposed_upto(), Slot(5));
                assert_eq!(leading.in_flight() as u64, 3 - prefix);
                let open: Vec<u64> = leading.unchosen().map(|(slot, _)| slot.0).collect();
                let unchosen: Vec<u64> = (3..=5).filter(|s| !by_majority.contains(s)).collect();
                assert_eq!(open, unchosen, "only these are sent again");
            }
        }
    }

    #[test]
    #[should_panic(expected = "votes are counted in their own ballot")]
    fn a_vote_of_another_ballot_is_never_counted() {
        let accepted = Accepted { ballot: ballot(1), first: Slot(3), last: Slot(3), read_round: 0 };
        leading_with(1).receive_accepted(NOW, 0, &accepted, 2);
    }

    /// Paxos Made Moderately Complex 4.2 and Paxos Made Simple 3: a leader "can get at most
    /// alpha commands ahead".
    #[test]
    fn a_leader_gets_at_most_a_window_ahead_of_what_is_chosen() {
        let bytes = text("3").size_bytes();
        for open in 0..6_u64 {
            for chosen in 0..=open {
                let mut leading = leading_with(open);
                for member in 0..2 {
                    let (first, last) = (Slot(3), Slot(2 + chosen));
                    let accepted = Accepted { ballot: mine(), first, last, read_round: 0 };
                    leading.receive_accepted(NOW, member, &accepted, 2);
                }
                let left = open - chosen;
                for window in 0..7_u32 {
                    let room = left < u64::from(window);
                    assert_eq!(leading.has_room(window.into(), usize::MAX), room);
                    // The first value always has room, however large it is.
                    let window_bytes = window as usize * bytes;
                    assert_eq!(leading.has_room(7, window_bytes), room || left == 0);
                }
            }
        }
    }
}
