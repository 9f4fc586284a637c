//! The proposer: Phase 1 once per leadership (`preparing`), Phase 2 for every slot.
//!
//! Safety only. *When* to stand is the business of `leader`.

use alloc::{collections::VecDeque, vec::Vec};

use crate::{
    Accepted, AcceptedSlot, Ballot, Bug, Configuration, Configurations, NodeId, Planted, Promise,
    Slot, Standing, Time, Value, preparing::Preparing, quorum::Voters,
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

/// Phase 2 of one ballot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Leading {
    pub(crate) ballot: Ballot,
    /// Every slot up to here was chosen before this ballot: "Phase 1's chosen
    /// prefix". This leader proposes in no slot of it.
    pub(crate) base: Slot,
    /// The last slot that Phase 1 brought back.
    pub(crate) adopted_upto: Slot,
    /// What Phase 1 brought back for the slots that were not proposed yet; nothing
    /// where nobody reported anything.
    adopted: VecDeque<Option<(Standing, Value)>>,
    /// Whose promise of this ballot is complete.
    promised: Vec<NodeId>,
    /// From here on other voters decide, of whom no quorum has promised yet.
    unprepared_from: Option<Slot>,
    /// Phase 1 with them.
    pub(crate) extension: Option<Preparing>,
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

/// A node's place among the voters of the slots up to `until`.
struct Seat {
    index: Option<usize>,
    quorum: usize,
    until: Slot,
}

impl Seat {
    fn of(node: NodeId, slot: Slot, configurations: &Configurations, planted: Planted) -> Seat {
        let governing = match planted.is(Bug::NewestCounts) {
            true => &*configurations.newest().configuration,
            false => configurations.governing(slot),
        };
        let fewer = usize::from(planted.is(Bug::MinorityDecides));
        let index = governing.index_of(node);
        let index = match index {
            None if planted.is(Bug::LearnerVotes) => {
                governing.members().iter().position(|member| *member == node)
            }
            None if planted.is(Bug::RemovedVotes) => {
                let oldest = &configurations.reigns()[0].configuration;
                oldest.index_of(node).map(|index| Configuration::MEMBERS_MAX - 1 - index)
            }
            index => index,
        };
        let quorum = governing.accept_quorum() - fewer;
        Seat { index, quorum, until: configurations.reigns_until(slot) }
    }
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

/// What a leader proposes where this was reported: a no-op where nothing was.
fn adopted(reported: &Option<(Standing, Value)>) -> &Value {
    reported.as_ref().map_or(&Value::Noop, |(_, value)| value)
}

impl Open {
    /// When this slot is due to be sent again.
    pub(crate) fn repeat_at(&self, pause_us: u64) -> Time {
        const DOUBLINGS_MAX: u32 = 6;
        self.sent_at.plus_us(pause_us << self.repeats.min(DOUBLINGS_MAX))
    }
}

impl Leading {
    /// Begins Phase 2 with what the quorum reported.
    ///
    /// The value of a slot is "the value of the highest-numbered proposal among
    /// the responses" (Paxos Made Simple, 2.2). Suppose a value v was chosen in
    /// the slot in a ballot below ours: a q2 quorum accepted it, that quorum meets
    /// our q1 quorum in some member, and that member accepted v before it promised
    /// us. By induction over the ballots between, every higher acceptance of the
    /// slot is v too, so the highest one that we hear of is v. Where nobody reports
    /// anything nothing can have been chosen, and any value will do: a no-op. Both
    /// quorums are those of the configuration that governs the slot. Which one that is
    /// may become known only later, so what was reported is kept as such until the slot
    /// is proposed, and by then a quorum of the right voters has promised.
    ///
    /// Slots up to the highest `chosen_upto` of the quorum are chosen already;
    /// their values are fetched, and nothing is proposed in them (pitfall 17). So are
    /// those up to `known`, which this node has learnt while it was preparing, perhaps
    /// from a later ballot. Nobody ever accepts in this ballot in a slot up to there,
    /// so nobody takes anything from the claim that they are chosen.
    pub(crate) fn after(preparing: &Preparing, now: Time, known: Slot) -> Leading {
        let planted = preparing.planted();
        let base = preparing.chosen_upto();
        let base = base.max(preparing.from.prior());
        let base = if planted.is(Bug::NoopOverChosen) { known } else { base.max(known) };
        let mut leading = Leading::new(preparing.ballot, base, now, planted);
        leading.adopt(preparing);
        leading
    }

    fn new(ballot: Ballot, base: Slot, now: Time, planted: Planted) -> Leading {
        Leading {
            ballot,
            base,
            adopted_upto: base,
            adopted: VecDeque::new(),
            promised: Vec::new(),
            unprepared_from: None,
            extension: None,
            prefix: base,
            open: VecDeque::new(),
            open_bytes: 0,
            progress_at: now,
            answer_us: 0,
            planted,
        }
    }

    /// Takes over what came of a Phase 1, for the slots that were not proposed yet: per
    /// slot the highest report of all.
    fn adopt(&mut self, preparing: &Preparing) {
        self.promised.extend(preparing.promised());
        self.promised.sort_unstable();
        self.promised.dedup();
        let next = self.proposed_upto().next();
        for AcceptedSlot { slot, standing, value } in preparing.reported() {
            let Some(place) = slot.0.checked_sub(next.0) else { continue };
            let place = usize::try_from(place).expect("a window is small");
            while self.adopted.len() <= place {
                self.adopted.push_back(None);
            }
            let known = self.adopted[place].as_ref().map(|(standing, _)| *standing);
            let is_higher = known.is_none_or(|known| *standing > known);
            let wins = match known {
                Some(_) if self.planted.is(Bug::FirstReportWins) => false,
                Some(known) if self.planted.is(Bug::LowestReportWins) => *standing < known,
                _ => is_higher,
            };
            if wins {
                self.adopted[place] = Some((*standing, value.clone()));
            }
        }
        let last = Slot(next.0 - 1 + self.adopted.len() as u64);
        self.adopted_upto = self.adopted_upto.max(last);
    }

    /// Looks where the promises that this leader holds end: "no slot is proposed
    /// without a quorum of promises of those who vote there".
    pub(crate) fn note_configurations(&mut self, configurations: &Configurations, chosen: Slot) {
        let promised = |c: &Configuration| {
            c.voters().iter().filter(|node| self.promised.contains(node)).count()
                >= c.promise_quorum()
        };
        let mut reigns = configurations.in_force(chosen).iter();
        let missing = reigns.find(|reign| !promised(&reign.configuration));
        self.unprepared_from = missing.map(|reign| reign.from);
        if self.planted.is(Bug::ProposesUnprepared) {
            self.unprepared_from = None;
        }
        if self.unprepared_from.is_none() {
            self.extension = None;
        }
    }

    /// Begins Phase 1 with the voters from whom promises are missing, if there are such.
    /// Says so when it has begun.
    pub(crate) fn extend(&mut self, now: Time) -> bool {
        let Some(unprepared_from) = self.unprepared_from else { return false };
        let from = unprepared_from.max(self.proposed_upto().next());
        if self.extension.as_ref().is_some_and(|extension| extension.from == from) {
            return false;
        }
        self.extension = Some(Preparing::new(self.ballot, from, now, self.planted));
        true
    }

    /// Takes a page of a promise of the extended Phase 1. Nothing was proposed from
    /// `extension.from` on, so what these voters report is adopted as in any Phase 1.
    /// Says false when one of them knows more as chosen than this leader proposed: then
    /// another leader is at work, and this one has lost.
    pub(crate) fn receive_promise(&mut self, now: Time, from: NodeId, promise: Promise) -> bool {
        let Some(mut extension) = self.extension.take() else { return true };
        extension.progress_at = now;
        extension.receive_promise(from, promise);
        let keeps = extension.chosen_upto() <= self.proposed_upto();
        if keeps && extension.has_promised(from) {
            self.adopt(&extension);
        }
        self.extension = Some(extension);
        keeps
    }

    /// Whether `node` has promised this ballot, as far as this leader knows.
    pub(crate) fn has_promise_of(&self, node: NodeId) -> bool {
        self.promised.contains(&node)
    }

    /// The first slot that this leader may not propose in for want of promises.
    pub(crate) fn unprepared_from(&self) -> Option<Slot> {
        self.unprepared_from
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
            && self.unprepared_from.is_none_or(|from| self.proposed_upto().next() < from)
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
            Some(place) => self.adopted.get(place).map(adopted),
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
        let forgets = self.planted.is(Bug::OwnValueDespiteReport);
        let reported = self.adopted.pop_front()?.filter(|_| !forgets);
        Some(adopted(&reported).clone())
    }

    /// Whether a change of the members is on its way in this ballot.
    pub(crate) fn has_change(&self) -> bool {
        let proposed = self.open.iter().map(|open| &open.value);
        let reported = self.adopted.iter().map(adopted);
        proposed.chain(reported).any(|value| matches!(value, Value::Configuration(_)))
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

    /// Counts an acceptor's vote for a range of slots, each among the voters of the
    /// configuration that governs it. Gives each slot that became chosen: "a value is
    /// chosen when a single proposal with that value has been accepted by a majority".
    pub(crate) fn receive_accepted(
        &mut self,
        now: Time,
        member: NodeId,
        accepted: &Accepted,
        configurations: &Configurations,
    ) -> Vec<(Slot, Value)> {
        let is_old = accepted.ballot != self.ballot && !self.planted.is(Bug::OldVoteCounts);
        assert!(!is_old, "votes are counted in their own ballot");
        let mut chosen = Vec::new();
        let first = accepted.first.max(self.prefix.next());
        let last = accepted.last.min(self.proposed_upto());
        let mut slot = first;
        let mut seat = Seat::of(member, first, configurations, self.planted);
        while slot <= last {
            if slot > seat.until {
                seat = Seat::of(member, slot, configurations, self.planted);
            }
            if let Some(voter) = seat.index
                && self.count_vote(now, slot, slot == last, voter, seat.quorum)
            {
                let open = self.open_at(slot);
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

    fn open_at(&mut self, slot: Slot) -> &mut Open {
        let index = usize::try_from(slot.0 - self.prefix.0 - 1).expect("the window is small");
        &mut self.open[index]
    }

    /// Counts one vote in a slot; says whether it is the one that decides.
    fn count_vote(
        &mut self,
        now: Time,
        slot: Slot,
        is_last: bool,
        voter: usize,
        quorum: usize,
    ) -> bool {
        let twice = self.planted.is(Bug::VotesOfOneMemberCount);
        let open = self.open_at(slot);
        let voter = if twice { open.voters.count() } else { voter };
        let sample = (open.voters.insert(voter) && open.repeats == 0 && is_last)
            .then(|| now.since_us(open.sent_at));
        let decides = !open.chosen && open.voters.count() >= quorum;
        open.chosen |= decides;
        if let Some(sample) = sample {
            self.answer_us = match self.answer_us {
                0 => sample,
                smoothed => (smoothed * 7 + sample) / 8,
            };
        }
        decides
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
    use crate::preparing::tests::{NOW, ONE, ballot, mine, promise, take, three};
    use alloc::{
        collections::{BTreeMap, BTreeSet},
        format,
        sync::Arc,
        vec,
    };
    use bytes::Bytes;

    fn text(text: &str) -> Value {
        Value::Batch(Bytes::copy_from_slice(text.as_bytes()))
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
        let reports = reports();
        assert_eq!(reports.len(), 64 + 16 + 4);
        for one in &reports {
            for (two, known) in reports.iter().flat_map(|two| (0..=3).map(move |k| (two, k))) {
                let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
                for (from, (chosen_upto, accepted)) in [(2, one), (3, two)] {
                    let chosen_upto = *chosen_upto;
                    let answer = Promise { chosen_upto, ..promise(1, 0, 1, accepted.clone()) };
                    take(&mut preparing, NodeId(from), answer);
                }
                // What it learns while it prepares counts as chosen like the rest.
                let mut leading = Leading::after(&preparing, NOW, Slot(known));

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
        let mut leading = Leading::new(mine(), Slot(3), NOW, Planted::NONE);
        let standing = Standing::Accepted(ballot(1));
        leading.adopted = ["a", "b"].map(|value| Some((standing, text(value)))).into();
        leading.adopted_upto = Slot(5);
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
        let accepted = |value: &str| {
            let standing = Standing::Accepted(ballot(1));
            vec![AcceptedSlot { slot: ONE, standing, value: text(value) }]
        };
        let mut preparing = Preparing::new(mine(), ONE, NOW, Planted::NONE);
        take(&mut preparing, NodeId(3), promise(1, 0, 2, accepted("half")));
        take(&mut preparing, NodeId(1), promise(1, 0, 1, vec![]));
        assert!(take(&mut preparing, NodeId(2), promise(1, 0, 1, vec![])));
        assert!(!Leading::after(&preparing, NOW, Slot::ZERO).has_adopted());
    }

    #[test]
    fn a_candidate_never_proposes_at_or_below_what_it_knew_as_chosen() {
        let from = Slot(6);
        let mut preparing = Preparing::new(mine(), from, NOW, Planted::NONE);
        for (member, chosen_upto) in [(1, 0), (2, 3)] {
            let answer =
                Promise { from, chosen_upto: Slot(chosen_upto), ..promise(1, 0, 1, vec![]) };
            take(&mut preparing, NodeId(member), answer);
        }
        let mut leading = Leading::after(&preparing, NOW, Slot::ZERO);
        assert_eq!((leading.base, leading.propose(NOW, Value::Noop)), (Slot(5), Slot(6)));
    }

    fn leading_with(slots: u64) -> Leading {
        let mut leading = Leading::new(mine(), Slot(2), NOW, Planted::NONE);
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
        let three = three();
        for sequence in 0..letters.len().pow(3) {
            let mut leading = leading_with(3);
            let mut votes: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            let mut told = BTreeSet::new();
            for step in 0..3 {
                let (member, first, last) =
                    letters[sequence / letters.len().pow(step) % letters.len()];
                for slot in (first..=last).filter(|slot| (3..=5).contains(slot)) {
                    votes.entry(slot).or_default().insert(member);
                }
                let (first, last) = (Slot(first), Slot(last));
                let accepted = Accepted { ballot: mine(), first, last, read_round: 0 };
                for (slot, value) in
                    leading.receive_accepted(NOW, NodeId(member + 1), &accepted, &three)
                {
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

    /// n1, n2 and n3 vote up to slot 4; from slot 5 on n1 and n4 do, of whom both are
    /// needed. n5 learns.
    fn changed() -> Configurations {
        let three = Configuration::majority([1, 2, 3].map(NodeId).to_vec(), 4).expect("valid");
        let mut configurations = Configurations::new(three);
        let two = Configuration::majority([1, 4].map(NodeId).to_vec(), 4).expect("valid");
        let two = two.with_learners(vec![NodeId(5)]).expect("valid").numbered(1);
        assert!(configurations.receive_chosen(Slot(1), &Arc::new(two)));
        configurations
    }

    /// Pitfall 24: every sequence of four answers, each for slots 3 to 6 or one of them, by
    /// any of five nodes.
    #[test]
    fn each_slot_counts_the_votes_of_those_who_vote_there() {
        let configurations = changed();
        let ranges = [(3, 6), (3, 3), (4, 5), (6, 6)];
        for sequence in 0..20_u32.pow(4) {
            let mut leading = leading_with(4);
            let mut votes: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
            let mut told = BTreeSet::new();
            for step in 0..4 {
                let letter = sequence / 20_u32.pow(step) % 20;
                let (node, (first, last)) = (letter % 5 + 1, ranges[letter as usize / 5]);
                for slot in first..=last {
                    votes.entry(slot).or_default().insert(node);
                }
                let (first, last) = (Slot(first), Slot(last));
                let accepted = Accepted { ballot: mine(), first, last, read_round: 0 };
                let chosen =
                    leading.receive_accepted(NOW, NodeId(node), &accepted, &configurations);
                told.extend(chosen.into_iter().map(|(slot, _)| slot.0));
            }
            let is_chosen = |slot: &u64| {
                let of = |nodes: &[u32]| nodes.iter().filter(|n| votes[slot].contains(n)).count();
                if *slot < 5 { of(&[1, 2, 3]) >= 2 } else { of(&[1, 4]) == 2 }
            };
            let expected: BTreeSet<u64> = votes.keys().copied().filter(is_chosen).collect();
            assert_eq!(told, expected, "sequence {sequence}");
        }
    }

    /// A leader with the promises of n1 and n2 proposes up to slot 4 and no further; n4's
    /// promise lets it go on, and what n4 reports is proposed before anything new.
    #[test]
    fn a_leader_asks_new_voters_before_it_proposes_under_them() {
        let configurations = changed();
        let mut preparing = Preparing::new(mine(), Slot(3), NOW, Planted::NONE);
        let chosen_upto = Slot(2);
        let old = |from| Promise { from, chosen_upto, ..promise(1, 0, 1, vec![]) };
        for node in [1, 2] {
            preparing.receive_promise(NodeId(node), old(Slot(3)));
        }
        assert!(preparing.has_quorums(&configurations.reigns()[..1]));
        assert!(!preparing.has_quorums(configurations.reigns()), "both must promise");
        let mut leading = Leading::after(&preparing, NOW, chosen_upto);
        leading.note_configurations(&configurations, chosen_upto);
        assert_eq!(leading.unprepared_from(), Some(Slot(5)));
        for slot in 3..=4 {
            assert!(leading.has_room(9, usize::MAX));
            assert_eq!(leading.propose(NOW, text("new")), Slot(slot));
        }
        assert!(!leading.has_room(9, usize::MAX));
        assert!(leading.extend(NOW) && !leading.extend(NOW), "it is begun once");
        assert_eq!(leading.extension.as_ref().map(|e| (e.ballot, e.from)), Some((mine(), Slot(5))));
        let standing = Standing::Accepted(ballot(7));
        let reported = AcceptedSlot { slot: Slot(6), standing, value: text("theirs") };
        let theirs = Promise { accepted: vec![reported], ..old(Slot(5)) };
        assert!(leading.receive_promise(NOW, NodeId(4), theirs));
        leading.note_configurations(&configurations, chosen_upto);
        assert_eq!((leading.unprepared_from(), leading.adopted_upto), (None, Slot(6)));
        assert!(leading.has_room(9, usize::MAX) && leading.extension.is_none());
        assert_eq!(leading.next_adopted(), Some(Value::Noop));
        assert_eq!(leading.propose(NOW, Value::Noop), Slot(5));
        assert_eq!(leading.next_adopted(), Some(text("theirs")));
    }

    /// A new voter knows a slot as chosen that this leader did not propose in.
    #[test]
    fn a_leader_that_finds_another_at_work_among_new_voters_has_lost() {
        let configurations = changed();
        for chosen_upto in 2..=6 {
            let mut leading = leading_with(2);
            leading.note_configurations(&configurations, Slot(2));
            leading.extend(NOW);
            let (from, chosen_upto) = (leading.extension.as_ref().unwrap().from, Slot(chosen_upto));
            let theirs = Promise { from, chosen_upto, ..promise(1, 0, 1, vec![]) };
            let keeps = leading.receive_promise(NOW, NodeId(4), theirs);
            assert_eq!(keeps, chosen_upto <= Slot(4));
        }
    }

    #[test]
    #[should_panic(expected = "votes are counted in their own ballot")]
    fn a_vote_of_another_ballot_is_never_counted() {
        let accepted = Accepted { ballot: ballot(1), first: Slot(3), last: Slot(3), read_round: 0 };
        leading_with(1).receive_accepted(NOW, NodeId(1), &accepted, &three());
    }

    /// Paxos Made Moderately Complex 4.2 and Paxos Made Simple 3: a leader "can get at most
    /// alpha commands ahead".
    #[test]
    fn a_leader_gets_at_most_a_window_ahead_of_what_is_chosen() {
        let bytes = text("3").size_bytes();
        let three = three();
        for open in 0..6_u64 {
            for chosen in 0..=open {
                let mut leading = leading_with(open);
                for member in 0..2 {
                    let (first, last) = (Slot(3), Slot(2 + chosen));
                    let accepted = Accepted { ballot: mine(), first, last, read_round: 0 };
                    leading.receive_accepted(NOW, NodeId(member + 1), &accepted, &three);
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
