//! The acceptor: the only code that may promise or vote.
//!
//! "An acceptor can accept a proposal numbered n iff it has not responded to a
//! prepare request having a number greater than n" (Paxos Made Simple, P1a).

use alloc::vec::Vec;

use crate::{
    Accept, Accepted, AcceptedSlot, Ballot, Bug, Effects, Envelope, Message, NodeId, Planted,
    Prepare, Promise, Record, RecordBody, Reject, RejectReason, Slot, Standing, Time,
    log::{Entry, Log},
    outbox::{Unsynced, acknowledge},
};

/// What an acceptor remembers beside the log.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Acceptor {
    /// The highest ballot that this node promised, durable or not yet.
    promised: Ballot,
    /// The highest read round seen in `promised`.
    read_round: u64,
    /// Numbers the answers to Prepares.
    answers: u64,
    /// Accepts further than this above the chosen prefix are refused.
    window_slots: u64,
    planted: Planted,
}

/// The parts of a replica that a vote touches.
pub(crate) struct Ground<'a> {
    pub(crate) now: Time,
    pub(crate) log: &'a mut Log,
    pub(crate) unsynced: &'a mut Unsynced,
    pub(crate) effects: &'a mut Effects,
}

impl Acceptor {
    pub(crate) fn new(
        promised: Ballot,
        window_slots: u64,
        answers: u64,
        planted: Planted,
    ) -> Acceptor {
        Acceptor { promised, read_round: 0, answers, window_slots, planted }
    }

    /// Sets how far above the chosen prefix Accepts are taken.
    pub(crate) fn set_window(&mut self, slots: u64) {
        self.window_slots = slots;
    }

    /// The highest promise.
    pub(crate) fn promised(&self) -> Ballot {
        self.promised
    }

    /// The highest read round seen in the promised ballot.
    pub(crate) fn read_round(&self) -> u64 {
        self.read_round
    }

    /// Notes a read round of the leader of `ballot`; says whether it is new. It
    /// counts only while the promise is exactly that ballot: then no later leader
    /// can have had this node's promise before the round began.
    pub(crate) fn note_read_round(&mut self, ballot: Ballot, read_round: u64) -> bool {
        let new = ballot == self.promised && read_round > self.read_round;
        if new {
            self.read_round = read_round;
        }
        new
    }

    /// Promises `ballot` to the leader that was elected without this node. Says
    /// whether the promise was raised.
    pub(crate) fn promise_to_leader(&mut self, ballot: Ballot) -> bool {
        let near = ballot.round <= self.promised.round.saturating_add(Ballot::ROUND_JUMP_MAX);
        near && ballot > self.promised && self.raise(ballot)
    }

    /// Phase 1b. Promises, or says which higher ballot forbids it. Says whether
    /// the promise was raised.
    pub(crate) fn receive_prepare(
        &mut self,
        from: NodeId,
        prepare: &Prepare,
        page_bytes_max: usize,
        ground: &mut Ground<'_>,
    ) -> bool {
        let Prepare { ballot, from: first } = *prepare;
        if ballot.round > self.promised.round.saturating_add(Ballot::ROUND_JUMP_MAX) {
            return false; // A damaged message: no correct candidate jumps so far.
        }
        if ballot < self.promised {
            let reason = RejectReason::Promised(self.promised);
            ground.reject(from, ballot, reason);
            return false;
        }
        if first <= ground.log.truncated_upto() {
            let reason = RejectReason::TooFarBehind(ground.log.truncated_upto());
            ground.reject(from, ballot, reason);
            return false;
        }
        let raised = self.raise(ballot);
        if raised && !self.planted.is(Bug::PromiseNotRecorded) {
            let record = self.record(RecordBody::Promise, ground.log);
            ground.persist(record);
        }
        self.answers += 1;
        self.send_promise(from, ballot, first, page_bytes_max, ground);
        raised
    }

    /// The pages of a promise: "the proposal with the highest number less than n
    /// that it has accepted", for every slot above the chosen prefix. What lies
    /// in the prefix is chosen and is fetched, not reported.
    fn send_promise(
        &self,
        to: NodeId,
        ballot: Ballot,
        from: Slot,
        page_bytes_max: usize,
        ground: &mut Ground<'_>,
    ) {
        let chosen_upto = ground.log.chosen_upto();
        let mut pages: Vec<Vec<AcceptedSlot>> = alloc::vec![Vec::new()];
        let mut page_bytes = 0;
        let mut slot = chosen_upto.next().max(from);
        while slot <= ground.log.last() {
            if let Some(entry) = ground.log.get(slot) {
                let bytes = entry.value.size_bytes();
                let fits =
                    page_bytes + bytes <= page_bytes_max || self.planted.is(Bug::PageWithoutBound);
                if !fits && page_bytes > 0 {
                    pages.push(Vec::new());
                    page_bytes = 0;
                }
                page_bytes += bytes;
                let standing = match self.planted.is(Bug::OneBallotForBoth) {
                    true => Standing::Accepted(self.promised),
                    false => entry.standing,
                };
                let accepted = AcceptedSlot { slot, standing, value: entry.value.clone() };
                pages.last_mut().expect("never empty").push(accepted);
            }
            slot = slot.next();
        }
        let count = u32::try_from(pages.len()).expect("a window has few pages");
        for (page, accepted) in (0_u32..).zip(pages) {
            let promise = Promise {
                ballot,
                from,
                chosen_upto,
                answer: self.answers,
                page,
                pages: count,
                accepted,
            };
            ground.after_durable(to, Message::Promise(promise));
        }
    }

    /// Phase 2b. Accepts, or says why not. Says whether it voted.
    ///
    /// # Panics
    /// When the leader proposes another value than the one that this node accepted
    /// in the same ballot: agreement is broken.
    pub(crate) fn receive_accept(
        &mut self,
        from: NodeId,
        accept: Accept,
        ground: &mut Ground<'_>,
    ) -> bool {
        let Accept { ballot, slot, value, read_round, .. } = accept;
        if ballot < self.promised && !self.planted.is(Bug::AcceptsBelowPromise) {
            ground.reject(from, ballot, RejectReason::Promised(self.promised));
            return false;
        }
        if ballot.round > self.promised.round.saturating_add(Ballot::ROUND_JUMP_MAX) {
            return false;
        }
        if slot <= ground.log.truncated_upto() {
            let reason = RejectReason::Truncated(ground.log.truncated_upto());
            ground.reject(from, ballot, reason);
            return false;
        }
        let window_end = self.window_end(ground.log);
        if slot > window_end {
            ground.reject(from, ballot, RejectReason::BeyondWindow(window_end));
            return false;
        }
        // The choice may have been fetched, and made in a ballot that this node never
        // promised. Then the leader of an older one may rightly propose another value,
        // and has lost: it gets no vote, and nothing is broken.
        let lost = |entry: &Entry| entry.standing == Standing::Chosen && entry.value != value;
        if ground.log.get(slot).is_some_and(lost) {
            return false;
        }
        // Accepting is promising too: without this, an acceptor that missed the
        // Prepare could later accept in a lower ballot ("The Bug in Paxos Made
        // Simple", Brooker 2021).
        let before = self.promised;
        let raised = !self.planted.is(Bug::AcceptDoesNotRaise) && self.raise(ballot);
        if ground.log.is_chosen(slot) {
            // We differ from the paper: a value that is known as chosen is acknowledged
            // without a new acceptance, since no higher ballot can ever get another one
            // chosen here. This holds for a choice that is in the journal only, too: who
            // knows one that was made above `ballot` before it promised so much is in no
            // quorum of promises of that choice, and without those no quorum can accept.
            if raised {
                let record = self.record(RecordBody::Promise, ground.log);
                ground.persist(record);
            }
        } else if let Some(entry) = ground.log.get(slot)
            && entry.standing == Standing::Accepted(ballot)
        {
            assert!(entry.value == value, "slot {slot}: two values in ballot {ballot}");
        } else {
            ground.log.accept(slot, ballot, value.clone());
            let mut record = self.record(RecordBody::Accepted { slot, ballot, value }, ground.log);
            if self.planted.is(Bug::PromiseAfterAcceptance) {
                record.promised = before;
            }
            ground.persist(record);
        }
        self.note_read_round(ballot, read_round);
        let first = match self.planted.is(Bug::HoleAcknowledged) {
            true => ground.log.chosen_upto().next().min(slot),
            false => slot,
        };
        let accepted = Accepted { ballot, first, last: slot, read_round: self.read_round };
        acknowledge(from, accepted, ground.effects);
        true
    }

    /// Forgets the promise. Only a planted bug does this.
    pub(crate) fn forget_promise(&mut self) {
        self.promised = Ballot::ZERO;
    }

    /// The last slot that this acceptor takes now.
    pub(crate) fn window_end(&self, log: &Log) -> Slot {
        log.chosen_upto().plus(self.window_slots)
    }

    /// A record that repeats what is in force.
    pub(crate) fn record(&self, body: RecordBody, log: &Log) -> Record {
        Record { promised: self.promised, chosen_upto: log.chosen_upto(), body }
    }

    fn raise(&mut self, ballot: Ballot) -> bool {
        assert!(ballot >= self.promised, "a promise never decreases");
        let raised = ballot > self.promised;
        if raised {
            self.promised = ballot;
            self.read_round = 0;
        }
        raised
    }
}

impl Ground<'_> {
    pub(crate) fn persist(&mut self, record: Record) {
        self.unsynced.persist(self.now, record, self.effects);
    }

    fn after_durable(&mut self, to: NodeId, message: Message) {
        self.effects.send_after_durable.push(Envelope { to, message });
    }

    fn reject(&mut self, to: NodeId, ballot: Ballot, reason: RejectReason) {
        let message = Message::Reject(Reject { ballot, reason });
        // A refusal asserts nothing that a crash could take back, except the
        // promise that it names: that one must be durable.
        self.effects.send_after_durable.push(Envelope { to, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Position, Value};
    use alloc::{collections::BTreeSet, format, vec};
    use bytes::Bytes;

    const ONE: Slot = Slot(1);
    const PAGE_BYTES_MAX: usize = 1 << 20;

    /// Every ballot of rounds 1 to 3 and two nodes, from low to high.
    fn ballots() -> Vec<Ballot> {
        let of = |round| [1, 2].map(|node| Ballot { round, node: NodeId(node) });
        (1..=3).flat_map(of).collect()
    }

    fn promises() -> Vec<Ballot> {
        [Ballot::ZERO].into_iter().chain(ballots()).collect()
    }

    /// The only value that is ever proposed in `ballot`.
    fn value_of(ballot: Ballot) -> Value {
        Value::Batch(Bytes::from(format!("value of {ballot}")))
    }

    /// What slot 1 can hold under a promise, with its value.
    fn held_under(promised: Ballot) -> Vec<Option<(Standing, Value)>> {
        let mut held = vec![None];
        for ballot in ballots().into_iter().filter(|ballot| *ballot <= promised) {
            held.push(Some((Standing::Accepted(ballot), value_of(ballot))));
        }
        held.push(Some((Standing::Chosen, Value::Noop)));
        held
    }

    struct Bench {
        acceptor: Acceptor,
        log: Log,
        unsynced: Unsynced,
        effects: Effects,
    }

    impl Bench {
        fn new(promised: Ballot, held: Option<&(Standing, Value)>) -> Bench {
            let mut log = Log::new(Slot::ZERO, Slot::ZERO);
            match held.cloned() {
                None => {}
                Some((Standing::Chosen, value)) => log.learn(ONE, value),
                Some((Standing::Accepted(ballot), value)) => log.accept(ONE, ballot, value),
            }
            let unsynced = Unsynced::new(Position::ZERO, Slot::ZERO);
            let acceptor = Acceptor::new(promised, 4, 0, Planted::NONE);
            Bench { acceptor, log, unsynced, effects: Effects::default() }
        }

        fn prepare(&mut self, ballot: Ballot, from: Slot, page_bytes_max: usize) -> bool {
            let Bench { acceptor, log, unsynced, effects } = self;
            let mut ground = Ground { now: Time(1), log, unsynced, effects };
            let prepare = Prepare { ballot, from };
            acceptor.receive_prepare(ballot.node, &prepare, page_bytes_max, &mut ground)
        }

        fn accept(&mut self, ballot: Ballot, slot: Slot, value: Value, read_round: u64) -> bool {
            let Bench { acceptor, log, unsynced, effects } = self;
            let mut ground = Ground { now: Time(1), log, unsynced, effects };
            let chosen_upto = Slot::ZERO;
            let accept = Accept { ballot, slot, value, chosen_upto, read_round };
            acceptor.receive_accept(ballot.node, accept, &mut ground)
        }

        fn held(&self) -> Option<(Standing, Value)> {
            self.log.get(ONE).map(|entry| (entry.standing, entry.value.clone()))
        }

        /// What was said, all of it after the disk, and to whom it must be said.
        fn said(&mut self, to: NodeId) -> Vec<Message> {
            assert!(self.effects.send_now.is_empty(), "a vote never leaves before the disk");
            let envelopes = core::mem::take(&mut self.effects.send_after_durable);
            assert!(envelopes.iter().all(|envelope| envelope.to == to));
            envelopes.into_iter().map(|envelope| envelope.message).collect()
        }

        fn wrote(&mut self) -> Vec<Record> {
            core::mem::take(&mut self.effects.persist)
        }
    }

    fn reject(ballot: Ballot, reason: RejectReason) -> Vec<Message> {
        vec![Message::Reject(Reject { ballot, reason })]
    }

    /// Paxos Made Simple 2.2, Phase 1(b): "If an acceptor receives a prepare request with
    /// number n greater than that of any prepare request to which it has already responded,
    /// then it responds to the request with a promise not to accept any more proposals
    /// numbered less than n and with the highest-numbered proposal (if any) that it has
    /// accepted."
    #[test]
    fn it_responds_with_a_promise_and_the_highest_numbered_proposal_it_has_accepted() {
        for promised in promises() {
            for held in held_under(promised) {
                for ballot in ballots() {
                    let mut bench = Bench::new(promised, held.as_ref());
                    let raised = bench.prepare(ballot, ONE, PAGE_BYTES_MAX);
                    assert_eq!(raised, ballot > promised);
                    assert_eq!(bench.held(), held, "a prepare request changes no acceptance");
                    assert_eq!(bench.acceptor.promised(), promised.max(ballot));
                    let said = bench.said(ballot.node);
                    let wrote = bench.wrote();
                    if ballot < promised {
                        assert_eq!(said, reject(ballot, RejectReason::Promised(promised)));
                        assert!(wrote.is_empty());
                        continue;
                    }
                    let accepted = held.clone().map(|(standing, value)| AcceptedSlot {
                        slot: ONE,
                        standing,
                        value,
                    });
                    let promise = Promise {
                        ballot,
                        from: ONE,
                        chosen_upto: Slot::ZERO,
                        answer: 1,
                        page: 0,
                        pages: 1,
                        accepted: accepted.into_iter().collect(),
                    };
                    assert_eq!(said, vec![Message::Promise(promise)]);
                    let (chosen_upto, body) = (Slot::ZERO, RecordBody::Promise);
                    let record = Record { promised: ballot, chosen_upto, body };
                    assert_eq!(wrote, if raised { vec![record] } else { vec![] });
                }
            }
        }
    }

    /// Paxos Made Simple 2.2, P1a: "An acceptor can accept a proposal numbered n iff it has
    /// not responded to a prepare request having a number greater than n."
    #[test]
    fn an_acceptor_accepts_iff_it_has_not_promised_a_higher_number() {
        for promised in promises() {
            for held in held_under(promised) {
                for ballot in ballots() {
                    let known = held.as_ref().map(|(standing, _)| *standing);
                    let chosen = known == Some(Standing::Chosen);
                    let value = if chosen { Value::Noop } else { value_of(ballot) };
                    let mut bench = Bench::new(promised, held.as_ref());
                    let voted = bench.accept(ballot, ONE, value.clone(), 0);
                    assert_eq!(voted, ballot >= promised);
                    assert_eq!(bench.acceptor.promised(), promised.max(ballot));
                    let (said, wrote) = (bench.said(ballot.node), bench.wrote());
                    if !voted {
                        assert_eq!(said, reject(ballot, RejectReason::Promised(promised)));
                        assert_eq!((bench.held(), wrote), (held.clone(), vec![]));
                        continue;
                    }
                    let accepted = Accepted { ballot, first: ONE, last: ONE, read_round: 0 };
                    assert_eq!(said, vec![Message::Accepted(accepted)]);
                    let standing =
                        if chosen { Standing::Chosen } else { Standing::Accepted(ballot) };
                    assert_eq!(bench.held(), Some((standing, value.clone())));
                    // The promise and the acceptance are one record (pitfalls 3 and 5).
                    let body = match known {
                        Some(Standing::Chosen) if ballot > promised => Some(RecordBody::Promise),
                        Some(Standing::Chosen) => None,
                        Some(Standing::Accepted(b)) if b == ballot => None,
                        _ => Some(RecordBody::Accepted { slot: ONE, ballot, value }),
                    };
                    let record = |body| Record { promised: ballot, chosen_upto: Slot::ZERO, body };
                    assert_eq!(wrote, body.map(record).into_iter().collect::<Vec<_>>());
                }
            }
        }
    }

    /// "The Bug in Paxos Made Simple" (Brooker 2021), and Paxos Made Moderately Complex, 2.1:
    /// an acceptor's ballot number only ever rises, by either message.
    #[test]
    fn a_promise_never_decreases_whatever_arrives_in_whatever_order() {
        let ballots = ballots();
        for first in promises() {
            for steps in 0..(2 * ballots.len()).pow(3) {
                let mut bench = Bench::new(first, None);
                let mut highest = first;
                for step in [steps, steps / 12, steps / 144].map(|step| step % 12) {
                    let ballot = ballots[step % ballots.len()];
                    if step < ballots.len() {
                        bench.prepare(ballot, ONE, PAGE_BYTES_MAX);
                    } else {
                        let voted = bench.accept(ballot, ONE, value_of(ballot), 0);
                        assert_eq!(voted, ballot >= highest);
                    }
                    highest = highest.max(ballot);
                    assert_eq!(bench.acceptor.promised(), highest);
                    assert!(bench.log.last_accepted().0 <= highest);
                }
                let wrote = bench.wrote();
                assert!(wrote.windows(2).all(|two| two[0].promised <= two[1].promised));
                let last = wrote.last().map_or(first, |record| record.promised);
                assert_eq!(last, highest, "the last record alone tells the promise");
            }
        }
    }

    #[test]
    #[should_panic(expected = "two values in ballot")]
    fn two_values_in_one_ballot_are_a_bug_that_stops_the_node() {
        let ballot = ballots()[0];
        let mut bench = Bench::new(ballot, Some(&(Standing::Accepted(ballot), value_of(ballot))));
        bench.accept(ballot, ONE, Value::Noop, 0);
    }

    /// The choice was fetched and may have been made in a higher ballot: the proposal is
    /// that of an outdated leader, and nothing is said or written for it.
    #[test]
    fn a_proposal_with_another_value_than_the_chosen_one_gets_no_vote() {
        for ballot in ballots() {
            let mut bench = Bench::new(Ballot::ZERO, Some(&(Standing::Chosen, Value::Noop)));
            assert!(!bench.accept(ballot, ONE, value_of(ballot), 0));
            assert_eq!(bench.acceptor.promised(), Ballot::ZERO);
            assert!(bench.wrote().is_empty() && bench.said(ballot.node).is_empty());
            assert!(bench.accept(ballot, ONE, Value::Noop, 0), "the chosen value gets one");
        }
    }

    /// Every way to hold slots 1 to 4 with a chosen prefix, asked from every slot, in pages
    /// of every size: together the pages hold each slot above the prefix once, in order.
    #[test]
    fn a_promise_reports_each_slot_above_the_chosen_prefix_once() {
        let ballot = ballots()[3];
        for prefix in 0..=2_u64 {
            for holds in 0..16_u64 {
                let mut bench = Bench::new(Ballot::ZERO, None);
                for slot in 1..=4 {
                    if slot <= prefix {
                        bench.log.learn(Slot(slot), Value::Noop);
                        bench.log.advance();
                    } else if holds & (1 << (slot - 1)) != 0 {
                        bench.log.accept(Slot(slot), ballots()[0], value_of(ballots()[0]));
                    }
                }
                for (from, page_bytes_max) in (1..=6).flat_map(|from| [(from, 0), (from, 200)]) {
                    bench.prepare(ballot, Slot(from), page_bytes_max);
                    let pages: Vec<Promise> = bench
                        .said(ballot.node)
                        .into_iter()
                        .map(|message| match message {
                            Message::Promise(promise) => promise,
                            other => panic!("{other:?}"),
                        })
                        .collect();
                    for (number, page) in (0..).zip(&pages) {
                        assert_eq!((page.page, page.pages as usize), (number, pages.len()));
                        assert_eq!(page.answer, pages[0].answer);
                        assert_eq!((page.from, page.chosen_upto), (Slot(from), Slot(prefix)));
                        let bytes: usize = page.accepted.iter().map(|a| a.value.size_bytes()).sum();
                        assert!(bytes <= page_bytes_max || page.accepted.len() == 1);
                    }
                    let reported: Vec<u64> =
                        pages.iter().flat_map(|p| &p.accepted).map(|a| a.slot.0).collect();
                    let held = |slot: &u64| *slot > prefix && holds & (1 << (slot - 1)) != 0;
                    let expected: Vec<u64> = (from..=4).filter(held).collect();
                    assert_eq!(reported, expected, "from {from}");
                }
            }
        }
    }

    #[test]
    fn two_answers_to_one_prepare_can_be_told_apart() {
        let mut bench = Bench::new(Ballot::ZERO, None);
        let mut answers = BTreeSet::new();
        for _ in 0..3 {
            bench.prepare(ballots()[0], ONE, PAGE_BYTES_MAX);
            for message in bench.said(ballots()[0].node) {
                let Message::Promise(promise) = message else { panic!("no promise") };
                assert!(answers.insert(promise.answer));
            }
        }
    }

    /// Whoever must catch up first gets no promise; whoever proposes outside the window gets
    /// no vote. Neither changes anything.
    #[test]
    fn outside_of_its_log_an_acceptor_neither_promises_nor_votes() {
        let [low, high] = [ballots()[0], ballots()[5]];
        let mut bench = Bench::new(low, None);
        bench.log = Log::new(Slot(5), Slot(7));
        let window_end = Slot(11);
        for slot in (0..=14).map(Slot) {
            let promises = bench.prepare(low, slot, PAGE_BYTES_MAX);
            assert!(!promises, "nothing to raise");
            let said = bench.said(low.node);
            if slot <= Slot(5) {
                assert_eq!(said, reject(low, RejectReason::TooFarBehind(Slot(5))));
                assert!(!bench.prepare(high, slot, PAGE_BYTES_MAX));
                bench.said(high.node);
            } else {
                assert!(matches!(said[..], [Message::Promise(_)]));
            }
            let ballot = if (6..=11).contains(&slot.0) { low } else { high };
            let voted = bench.accept(ballot, slot, Value::Noop, 0);
            assert_eq!(voted, (6..=11).contains(&slot.0), "slot {slot}");
            let said = bench.said(ballot.node);
            if slot <= Slot(5) {
                assert_eq!(said, reject(ballot, RejectReason::Truncated(Slot(5))));
            } else if slot > window_end {
                assert_eq!(said, reject(ballot, RejectReason::BeyondWindow(window_end)));
            }
            assert_eq!(bench.acceptor.promised(), low, "a refusal promises nothing");
        }
    }

    /// Pitfall 15: a damaged message must not use up the rounds.
    #[test]
    fn a_ballot_that_jumps_too_far_is_ignored() {
        let jump = |by| Ballot { round: 3 + Ballot::ROUND_JUMP_MAX + by, node: NodeId(1) };
        for (ballot, taken) in [(jump(0), true), (jump(1), false)] {
            let promised = Ballot { round: 3, node: NodeId(1) };
            let mut bench = Bench::new(promised, None);
            assert_eq!(bench.prepare(ballot, ONE, PAGE_BYTES_MAX), taken);
            assert_eq!(bench.acceptor.promised() == ballot, taken);
            let mut bench = Bench::new(promised, None);
            assert_eq!(bench.accept(ballot, ONE, Value::Noop, 0), taken);
            assert_eq!(bench.acceptor.promised() == ballot, taken);
            let mut bench = Bench::new(promised, None);
            assert_eq!(bench.acceptor.promise_to_leader(ballot), taken);
        }
    }

    #[test]
    fn a_promise_to_a_leader_is_given_iff_it_rises() {
        for promised in promises() {
            for ballot in ballots() {
                let mut acceptor = Acceptor::new(promised, 4, 0, Planted::NONE);
                assert_eq!(acceptor.promise_to_leader(ballot), ballot > promised);
                assert_eq!(acceptor.promised(), promised.max(ballot));
            }
        }
    }

    /// A read round counts only in exactly the promised ballot, and a new promise starts
    /// from none.
    #[test]
    fn a_read_round_is_noted_only_in_the_promised_ballot() {
        for promised in ballots() {
            for ballot in ballots() {
                for (known, round) in (0..3).flat_map(|known| (0..3).map(move |r| (known, r))) {
                    let mut acceptor = Acceptor::new(promised, 4, 0, Planted::NONE);
                    acceptor.note_read_round(promised, known);
                    let new = acceptor.note_read_round(ballot, round);
                    assert_eq!(new, ballot == promised && round > known);
                    assert_eq!(acceptor.read_round(), if new { round } else { known });
                    if acceptor.promise_to_leader(ballot) {
                        assert_eq!(acceptor.read_round(), 0);
                    }
                }
            }
        }
    }

    /// Pitfall 19. Accepts for four slots and two ballots, in every order, in one batch: the
    /// ranges that are acknowledged are exactly the slots that were accepted.
    #[test]
    fn a_range_asserts_every_slot_in_it_and_no_hole() {
        let two = [ballots()[0], ballots()[1]];
        for steps in 0..8_usize.pow(4) {
            let mut bench = Bench::new(Ballot::ZERO, None);
            let mut accepted = BTreeSet::new();
            for step in [steps, steps / 8, steps / 64, steps / 512].map(|step| step % 8) {
                let (ballot, slot) = (two[step / 4], Slot(step as u64 % 4 + 1));
                if bench.accept(ballot, slot, Value::Noop, step as u64) {
                    accepted.insert((ballot, slot));
                }
            }
            let mut asserted = BTreeSet::new();
            for envelope in &bench.effects.send_after_durable {
                let Message::Accepted(range) = &envelope.message else { continue };
                assert_eq!(envelope.to, range.ballot.node);
                for slot in range.first.0..=range.last.0 {
                    asserted.insert((range.ballot, Slot(slot)));
                }
            }
            assert_eq!(asserted, accepted, "steps {steps:o}");
        }
    }

    #[test]
    fn the_acknowledgement_of_a_chosen_slot_needs_no_new_acceptance() {
        let mut bench = Bench::new(Ballot::ZERO, Some(&(Standing::Chosen, Value::Noop)));
        bench.log.advance();
        bench.log.evict(ONE, 0);
        assert!(bench.log.get(ONE).is_none(), "its value is on disk only");
        assert!(bench.accept(ballots()[0], ONE, Value::Noop, 0));
        let bodies: Vec<RecordBody> = bench.wrote().into_iter().map(|r| r.body).collect();
        assert_eq!(bodies, vec![RecordBody::Promise]);
        assert!(matches!(bench.said(NodeId(1))[..], [Message::Accepted(_)]));
    }
}
