//! Linearizable reads between their arrival and the moment when they are safe.
//!
//! All reads that arrive in one step share one token, so a thousand waiting
//! clients cost the core one question. A read is safe when its index is confirmed
//! and the state machine has applied it; the caller reads the state afterwards.

use std::collections::BTreeMap;

use synod_paxos::{Bug, Planted, ReadOutcome, ReadToken, Slot, Time};

use crate::boundary::{Action, Refusal, RequestId};

/// Deadlines are looked at no more often than this, so that a thousand of them
/// in a row do not cost a thousand walks over all that wait.
const SWEEP_US: u64 = 5_000;

/// One client that wants to read.
#[derive(Clone, Copy, Debug)]
struct Reader {
    request: RequestId,
    deadline: Time,
}

/// The reads of this node's clients.
#[derive(Debug)]
pub(crate) struct Reads {
    waiting_max: usize,
    /// How long an unanswered question rests until it is asked again.
    ask_again_us: u64,
    token_last: u64,
    /// Came in since the last question.
    arrived: Vec<Reader>,
    /// In a question to the core.
    asked: BTreeMap<ReadToken, Vec<Reader>>,
    /// Nobody could confirm them; to be asked again.
    parked: Vec<Reader>,
    parked_until: Time,
    /// Confirmed, waiting for the state machine.
    confirmed: BTreeMap<Slot, Vec<Reader>>,
    /// Safe now.
    ready: Vec<RequestId>,
    waiting: usize,
    /// No deadline of a waiting reader lies before this.
    sweep_at: Option<Time>,
    planted: Planted,
}

impl Reads {
    pub(crate) fn new(waiting_max: usize, ask_again_us: u64, planted: Planted) -> Self {
        Reads {
            waiting_max,
            ask_again_us,
            token_last: 0,
            arrived: Vec::new(),
            asked: BTreeMap::new(),
            parked: Vec::new(),
            parked_until: Time::ZERO,
            confirmed: BTreeMap::new(),
            ready: Vec::new(),
            waiting: 0,
            sweep_at: None,
            planted,
        }
    }

    /// A client wants to read.
    ///
    /// # Errors
    /// Refused when too many wait.
    pub(crate) fn receive_read(
        &mut self,
        request: RequestId,
        deadline: Time,
    ) -> Result<(), Refusal> {
        if self.waiting >= self.waiting_max {
            return Err(Refusal::Overloaded);
        }
        self.waiting += 1;
        self.sweep_at = Some(self.sweep_at.map_or(deadline, |at| at.min(deadline)));
        self.arrived.push(Reader { request, deadline });
        Ok(())
    }

    /// The next question for the core, if there is one to ask. Parked readers
    /// join it when their rest is over, or at once when the leader changed.
    pub(crate) fn ask(&mut self, now: Time, leader_changed: bool) -> Option<ReadToken> {
        if !self.parked.is_empty() && (leader_changed || now >= self.parked_until) {
            self.arrived.append(&mut self.parked);
        }
        if self.arrived.is_empty() {
            return None;
        }
        // A retry is a new question: an answer to the old one cannot settle it.
        self.token_last += 1;
        let token = ReadToken(self.token_last);
        self.asked.insert(token, std::mem::take(&mut self.arrived));
        Some(token)
    }

    /// The core settled a question.
    pub(crate) fn settle(&mut self, outcome: ReadOutcome, applied: Slot, now: Time) {
        // Readers whose deadline passed are gone; so may be the whole question.
        let Some(readers) = self.asked.remove(&outcome.token) else {
            return;
        };
        match outcome.index {
            Some(_) if self.planted.is(Bug::ReadsBeforeApplied) => self.make_ready(readers),
            Some(index) if index <= applied => self.make_ready(readers),
            Some(index) => self.confirmed.entry(index).or_default().extend(readers),
            None => {
                if self.parked.is_empty() {
                    self.parked_until = now.plus_us(self.ask_again_us);
                }
                self.parked.extend(readers);
            }
        }
    }

    /// The state machine has applied every slot up to `upto`.
    pub(crate) fn applied(&mut self, upto: Slot) {
        while let Some(entry) = self.confirmed.first_entry()
            && *entry.key() <= upto
        {
            let readers = entry.remove();
            self.make_ready(readers);
        }
    }

    /// Refuses those whose time is over.
    pub(crate) fn expire(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.sweep_at.is_none_or(|at| now < at) {
            return;
        }
        let before = actions.len();
        let mut next: Option<Time> = None;
        let mut sweep = |readers: &mut Vec<Reader>, refusal: Refusal| {
            readers.retain(|reader| {
                let alive = now < reader.deadline;
                if alive {
                    next = Some(next.map_or(reader.deadline, |at| at.min(reader.deadline)));
                } else {
                    actions.push(Action::Refuse { request: reader.request, refusal });
                }
                alive
            });
        };
        sweep(&mut self.arrived, Refusal::NoLeader);
        sweep(&mut self.parked, Refusal::NoLeader);
        for readers in self.asked.values_mut() {
            sweep(readers, Refusal::NoLeader);
        }
        for readers in self.confirmed.values_mut() {
            // The index is known; it is this node's state machine that is late.
            sweep(readers, Refusal::Overloaded);
        }
        self.asked.retain(|_, readers| !readers.is_empty());
        self.confirmed.retain(|_, readers| !readers.is_empty());
        self.waiting -= actions.len() - before;
        self.sweep_at = next.map(|at| at.max(now.plus_us(SWEEP_US)));
    }

    /// When something is due by the passing of time alone.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let parked = (!self.parked.is_empty()).then_some(self.parked_until);
        [self.sweep_at, parked].into_iter().flatten().min()
    }

    /// Clients that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Writes out the reads that are safe.
    pub(crate) fn emit(&mut self, actions: &mut Vec<Action>) {
        actions.extend(self.ready.drain(..).map(|request| Action::ReadReady { request }));
    }

    fn make_ready(&mut self, readers: Vec<Reader>) {
        self.waiting -= readers.len();
        self.ready.extend(readers.into_iter().map(|reader| reader.request));
        if self.waiting == 0 {
            self.sweep_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads() -> Reads {
        Reads::new(3, 1_000, Planted::NONE)
    }

    fn read(reads: &mut Reads, request: u64, deadline: u64) {
        reads.receive_read(RequestId(request), Time(deadline)).expect("room");
    }

    fn ready(reads: &mut Reads) -> Vec<u64> {
        let mut actions = Vec::new();
        reads.emit(&mut actions);
        let request = |action: &Action| match action {
            Action::ReadReady { request } => request.0,
            other => panic!("unexpected {other:?}"),
        };
        actions.iter().map(request).collect()
    }

    fn refused(reads: &mut Reads, now: u64) -> Vec<(u64, Refusal)> {
        let mut actions = Vec::new();
        reads.expire(Time(now), &mut actions);
        let request = |action: &Action| match action {
            Action::Refuse { request, refusal } => (request.0, *refusal),
            other => panic!("unexpected {other:?}"),
        };
        actions.iter().map(request).collect()
    }

    fn outcome(token: ReadToken, index: Option<u64>) -> ReadOutcome {
        ReadOutcome { token, index: index.map(Slot) }
    }

    #[test]
    fn reads_of_one_step_share_a_question_and_wait_for_the_state_machine() {
        let mut reads = reads();
        read(&mut reads, 1, 900);
        read(&mut reads, 2, 900);
        let token = reads.ask(Time(0), false).expect("a question");
        assert_eq!(reads.ask(Time(0), false), None);
        reads.settle(outcome(token, Some(5)), Slot(4), Time(1));
        assert_eq!(ready(&mut reads), Vec::<u64>::new());
        reads.applied(Slot(5));
        assert_eq!(ready(&mut reads), vec![1, 2]);
        assert_eq!((reads.waiting(), reads.deadline()), (0, None));
    }

    #[test]
    fn a_read_that_arrives_later_is_not_settled_by_an_earlier_question() {
        let mut reads = reads();
        read(&mut reads, 1, 900);
        let first = reads.ask(Time(0), false).expect("a question");
        read(&mut reads, 2, 900);
        reads.settle(outcome(first, Some(0)), Slot(0), Time(1));
        assert_eq!(ready(&mut reads), vec![1]);
        let second = reads.ask(Time(1), false).expect("another question");
        assert_ne!(first, second);
        // A repeated answer settles nothing.
        reads.settle(outcome(first, Some(0)), Slot(0), Time(1));
        assert_eq!(ready(&mut reads), Vec::<u64>::new());
    }

    #[test]
    fn an_unconfirmed_read_is_asked_again_under_a_new_token() {
        let mut reads = reads();
        read(&mut reads, 1, 9_000);
        let first = reads.ask(Time(0), false).expect("a question");
        reads.settle(outcome(first, None), Slot(0), Time(10));
        assert_eq!(reads.ask(Time(500), false), None, "not before its rest is over");
        assert_eq!(reads.deadline(), Some(Time(1_010)));
        let second = reads.ask(Time(1_010), false).expect("asked again");
        assert_ne!(first, second);
        reads.settle(outcome(second, None), Slot(0), Time(1_020));
        let third = reads.ask(Time(1_021), true).expect("at once under a new leader");
        reads.settle(outcome(third, Some(0)), Slot(0), Time(1_022));
        assert_eq!(ready(&mut reads), vec![1]);
    }

    #[test]
    fn each_state_of_waiting_ends_at_the_deadline() {
        let mut reads = reads();
        read(&mut reads, 1, 100);
        let token = reads.ask(Time(0), false).expect("a question");
        reads.settle(outcome(token, Some(7)), Slot(0), Time(0));
        read(&mut reads, 2, 100);
        let token = reads.ask(Time(0), false).expect("a question");
        reads.settle(outcome(token, None), Slot(0), Time(0));
        read(&mut reads, 3, 10_100);
        assert_eq!(reads.receive_read(RequestId(4), Time(1)), Err(Refusal::Overloaded));
        assert_eq!(refused(&mut reads, 99), vec![]);
        let gone = refused(&mut reads, 100);
        assert_eq!(gone, vec![(2, Refusal::NoLeader), (1, Refusal::Overloaded)]);
        assert_eq!(reads.waiting(), 1);
        assert_eq!(refused(&mut reads, 10_100), vec![(3, Refusal::NoLeader)]);
        assert_eq!((reads.waiting(), reads.deadline()), (0, None));
    }
}
