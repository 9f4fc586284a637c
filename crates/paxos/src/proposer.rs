//! The proposer: Phase 1 once per leadership, Phase 2 for every slot.
//!
//! Safety only. *When* to stand is the business of `leader`.

use alloc::{
    collections::{BTreeMap, VecDeque},
    vec::Vec,
};

use crate::{
    Accepted, AcceptedSlot, Ballot, Configuration, NodeId, Promise, Slot, Standing, Time, Value,
    quorum::Voters,
};

/// What a proposer is doing.
#[derive(Debug)]
pub(crate) enum Proposer {
    /// Nothing.
    Idle,
    /// Phase 1.
    Preparing(Preparing),
    /// Phase 2.
    Leading(Leading),
}

/// Phase 1 of one ballot.
#[derive(Debug)]
pub(crate) struct Preparing {
    pub(crate) ballot: Ballot,
    /// The first slot that this node does not know as chosen.
    pub(crate) from: Slot,
    pub(crate) started: Time,
    pub(crate) sent_at: Time,
    /// What came of each member's promise, by its place.
    answers: BTreeMap<usize, Answer>,
}

/// The pages of one member's promise.
#[derive(Debug)]
struct Answer {
    answer: u64,
    chosen_upto: Slot,
    pages: Vec<Option<Vec<AcceptedSlot>>>,
}

impl Answer {
    fn is_complete(&self) -> bool {
        self.pages.iter().all(Option::is_some)
    }
}

impl Preparing {
    /// Pages that one promise may have: more is a damaged message.
    const PAGES_MAX: u32 = 65_536;

    pub(crate) fn new(ballot: Ballot, from: Slot, now: Time) -> Preparing {
        Preparing { ballot, from, started: now, sent_at: now, answers: BTreeMap::new() }
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
        if promise.ballot != self.ballot || promise.from != self.from {
            return false;
        }
        if promise.page >= promise.pages || promise.pages > Self::PAGES_MAX {
            return false;
        }
        let replace = match self.answers.get(&member) {
            Some(known) => !known.is_complete() && known.answer < promise.answer,
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
            if answer.is_complete() {
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
    /// their values are fetched, and nothing is proposed in them (pitfall 17).
    pub(crate) fn lead(self, now: Time) -> Leading {
        let complete = || self.answers.values().filter(|answer| answer.is_complete());
        let base = complete().map(|answer| answer.chosen_upto).max().unwrap_or(Slot::ZERO);
        let base = base.max(self.from.prior());
        let mut highest: BTreeMap<Slot, (Standing, Value)> = BTreeMap::new();
        for accepted in complete().flat_map(|a| a.pages.iter().flatten().flatten()) {
            let AcceptedSlot { slot, standing, value } = accepted;
            let known = highest.get(slot).map(|(standing, _)| *standing);
            if *slot > base && known.is_none_or(|known| *standing > known) {
                highest.insert(*slot, (*standing, value.clone()));
            }
        }
        let last = highest.keys().next_back().copied().unwrap_or(base);
        let mut adopted = VecDeque::new();
        let mut slot = base.next();
        while slot <= last {
            adopted.push_back(highest.remove(&slot).map_or(Value::Noop, |(_, value)| value));
            slot = slot.next();
        }
        Leading::new(self.ballot, base, adopted, now)
    }
}

/// Phase 2 of one ballot.
#[derive(Debug)]
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
}

/// One proposed slot.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) value: Value,
    pub(crate) voters: Voters,
    pub(crate) sent_at: Time,
    chosen: bool,
}

impl Leading {
    fn new(ballot: Ballot, base: Slot, adopted: VecDeque<Value>, now: Time) -> Leading {
        Leading {
            ballot,
            base,
            adopted_upto: base.plus(adopted.len() as u64),
            adopted,
            prefix: base,
            open: VecDeque::new(),
            open_bytes: 0,
            progress_at: now,
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
        let open = Open { value, voters: Voters::default(), sent_at: now, chosen: false };
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
        assert!(accepted.ballot == self.ballot, "votes are counted in their own ballot");
        let mut chosen = Vec::new();
        let first = accepted.first.max(self.prefix.next());
        let last = accepted.last.min(self.proposed_upto());
        let mut slot = first;
        while slot <= last {
            let index = usize::try_from(slot.0 - self.prefix.0 - 1).expect("the window is small");
            let open = &mut self.open[index];
            open.voters.insert(member);
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

    /// When the oldest unchosen slot was last sent.
    pub(crate) fn oldest_sent_at(&self) -> Option<Time> {
        self.open.front().map(|open| open.sent_at)
    }
}
