//! The acceptor: the only code that may promise or vote.
//!
//! "An acceptor can accept a proposal numbered n iff it has not responded to a
//! prepare request having a number greater than n" (Paxos Made Simple, P1a).

use alloc::vec::Vec;

use crate::{
    Accept, Accepted, AcceptedSlot, Ballot, Effects, Envelope, Message, NodeId, Prepare, Promise,
    Record, RecordBody, Reject, RejectReason, Slot, Standing, Time,
    log::Log,
    outbox::{Unsynced, acknowledge},
};

/// What an acceptor remembers beside the log.
#[derive(Debug)]
pub(crate) struct Acceptor {
    /// The highest ballot that this node promised, durable or not yet.
    promised: Ballot,
    /// The highest read round seen in `promised`.
    read_round: u64,
    /// Numbers the answers to Prepares.
    answers: u64,
    /// Accepts further than this above the chosen prefix are refused.
    window_slots: u64,
}

/// The parts of a replica that a vote touches.
pub(crate) struct Ground<'a> {
    pub(crate) now: Time,
    pub(crate) log: &'a mut Log,
    pub(crate) unsynced: &'a mut Unsynced,
    pub(crate) effects: &'a mut Effects,
}

impl Acceptor {
    pub(crate) fn new(promised: Ballot, window_slots: u64, answers: u64) -> Acceptor {
        Acceptor { promised, read_round: 0, answers, window_slots }
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
        if raised {
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
                if page_bytes + bytes > page_bytes_max && page_bytes > 0 {
                    pages.push(Vec::new());
                    page_bytes = 0;
                }
                page_bytes += bytes;
                let accepted =
                    AcceptedSlot { slot, standing: entry.standing, value: entry.value.clone() };
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
    /// When the leader proposes another value than one that this node knows as
    /// chosen, or than the one it accepted in the same ballot: agreement is broken.
    pub(crate) fn receive_accept(
        &mut self,
        from: NodeId,
        accept: Accept,
        ground: &mut Ground<'_>,
    ) -> bool {
        let Accept { ballot, slot, value, read_round, .. } = accept;
        if ballot < self.promised {
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
        // Accepting is promising too: without this, an acceptor that missed the
        // Prepare could later accept in a lower ballot ("The Bug in Paxos Made
        // Simple", Brooker 2021).
        let raised = self.raise(ballot);
        if ground.log.is_chosen(slot) {
            // We differ from the paper: a value that is known as chosen is
            // acknowledged without a new acceptance, since no ballot can ever
            // carry another value here.
            if let Some(entry) = ground.log.get(slot) {
                assert!(entry.value == value, "slot {slot}: {ballot} proposes against a choice");
            }
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
            let record = self.record(RecordBody::Accepted { slot, ballot, value }, ground.log);
            ground.persist(record);
        }
        self.note_read_round(ballot, read_round);
        let accepted = Accepted { ballot, first: slot, last: slot, read_round: self.read_round };
        acknowledge(from, accepted, ground.effects);
        true
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
