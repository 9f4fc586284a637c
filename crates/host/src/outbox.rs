//! What the core wants done, in the order in which it may be done.
//!
//! The core says which messages assert something durable. This file is where
//! they are held back until the journal reported the position that they rest on:
//! "a Promise or an Accepted leaves only when it is durable" is kept here and
//! nowhere else. A message to this node itself takes the same road as anybody's,
//! so its own vote counts only when durable.

use std::{collections::VecDeque, mem::discriminant};

use synod_paxos::{Bug, Envelope, Message, NodeId, Planted, Position, Record};
use synod_wire::PeerMessage;

use crate::Action;

/// Records and messages on their way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    node: NodeId,
    /// The position of the last record handed out.
    handed_out: Position,
    /// Every record up to here is durable.
    durable: Position,
    /// Messages and the position that must be durable before they leave.
    held: VecDeque<(Position, Envelope)>,
    /// Records of this step, not yet handed out as an action.
    records: Vec<Record>,
    /// Messages of this step that may leave, with what they rest on.
    sends: Vec<(Option<Position>, Envelope)>,
    /// Messages to this node itself that may be delivered.
    looped: VecDeque<Message>,
    planted: Planted,
}

impl Outbox {
    /// An outbox that counts positions on from `recovered`.
    pub(crate) fn new(node: NodeId, recovered: Position, planted: Planted) -> Self {
        Outbox {
            node,
            handed_out: recovered,
            durable: recovered,
            held: VecDeque::new(),
            records: Vec::new(),
            sends: Vec::new(),
            looped: VecDeque::new(),
            planted,
        }
    }

    /// Takes the records and messages of one step of the core.
    pub(crate) fn take(
        &mut self,
        persist: &mut Vec<Record>,
        send_now: &mut Vec<Envelope>,
        send_after_durable: &mut Vec<Envelope>,
    ) {
        self.handed_out = Position(self.handed_out.0 + persist.len() as u64);
        self.records.append(persist);
        for envelope in send_now.drain(..) {
            self.release(None, envelope);
        }
        self.drop_outdone(send_after_durable);
        for envelope in send_after_durable.drain(..) {
            if self.durable >= self.handed_out || self.hurries(&envelope) {
                self.release(Some(self.handed_out), envelope);
            } else if !self.repeats_refusal(&envelope) {
                self.held.push_back((self.handed_out, envelope));
            }
        }
    }

    /// Whether a refusal of the same kind waits already for this peer, in the same ballot
    /// or a higher one. One in a lower ballot is of no use any more and goes. Without this
    /// whoever asks or says something again and again would add as many while the disk
    /// hangs. The one that waits stays, so that a slow disk cannot put it off for ever.
    fn repeats_refusal(&mut self, new: &Envelope) -> bool {
        let Message::Reject(refusal) = &new.message else { return false };
        let kind = discriminant(&refusal.reason);
        let same = |held: &Envelope| match &held.message {
            Message::Reject(held_one) if held.to == new.to => {
                (discriminant(&held_one.reason) == kind).then_some(held_one.ballot)
            }
            _ => None,
        };
        let highest = self.held.iter().filter_map(|(_, held)| same(held)).max();
        if highest.is_some_and(|ballot| ballot < refusal.ballot) {
            self.held.retain(|(_, held)| same(held).is_none());
        }
        highest.is_some_and(|ballot| ballot >= refusal.ballot)
    }

    /// A promise that waits is of no use any more once this node gives one in a higher
    /// ballot. Without this each candidate would add all pages of a promise while the disk
    /// hangs.
    fn drop_outdone(&mut self, new: &[Envelope]) {
        let ballot = |envelope: &Envelope| match &envelope.message {
            Message::Promise(promise) => Some(promise.ballot),
            _ => None,
        };
        if let Some(highest) = new.iter().filter_map(ballot).max() {
            self.held.retain(|(_, held)| ballot(held).is_none_or(|ballot| ballot >= highest));
        }
    }

    /// The journal has everything up to `position`: what rested on it may leave.
    ///
    /// # Panics
    /// When the journal reports a record that was never handed to it.
    pub(crate) fn persisted(&mut self, position: Position) {
        assert!(position <= self.handed_out, "the journal reports what it was never given");
        self.durable = self.durable.max(position);
        let early = u64::from(self.planted.is(Bug::AcceptedOneRecordEarly));
        while let Some((needed, _)) = self.held.front()
            && needed.0 <= self.durable.0 + early
        {
            let (needed, envelope) = self.held.pop_front().expect("the front was just seen");
            self.release(Some(needed), envelope);
        }
    }

    /// The position of the last record handed out.
    pub(crate) fn handed_out(&self) -> Position {
        self.handed_out
    }

    /// Every record up to here is durable.
    pub(crate) fn durable(&self) -> Position {
        self.durable
    }

    /// The next message to this node itself.
    pub(crate) fn next_looped(&mut self) -> Option<Message> {
        self.looped.pop_front()
    }

    /// How many messages wait for the journal.
    pub(crate) fn held_messages(&self) -> usize {
        self.held.len()
    }

    /// Writes out what a step gathered: the records first, so that the journal
    /// works while the messages travel.
    pub(crate) fn emit(&mut self, actions: &mut Vec<Action>) {
        debug_assert!(self.looped.is_empty(), "a message to this node was left behind");
        if !self.records.is_empty() {
            let records = std::mem::take(&mut self.records);
            actions.push(Action::Persist { upto: self.handed_out, records });
        }
        for (rests_on, Envelope { to, message }) in self.sends.drain(..) {
            actions.push(Action::Send { to, message: PeerMessage::Paxos(message), rests_on });
        }
    }

    /// Whether a planted bug lets this message go before its records are durable.
    fn hurries(&self, envelope: &Envelope) -> bool {
        let planted = self.planted;
        match envelope.message {
            Message::Promise(_) => planted.is(Bug::PromiseBeforeDurable),
            Message::Accepted(_) if envelope.to == self.node => {
                planted.is(Bug::OwnVoteBeforeDurable)
            }
            Message::Accepted(_) => planted.is(Bug::AcceptedBeforeDurable),
            _ => false,
        }
    }

    fn release(&mut self, rests_on: Option<Position>, envelope: Envelope) {
        if envelope.to == self.node {
            self.looped.push_back(envelope.message);
        } else {
            self.sends.push((rests_on, envelope));
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Ballot, Promise, ReadIndex, RecordBody, Reject, RejectReason, Slot};

    use super::*;

    const ME: NodeId = NodeId(1);
    const PEER: NodeId = NodeId(2);

    fn message(nonce: u64) -> Message {
        Message::ReadIndex(ReadIndex { nonce })
    }

    fn envelope(to: NodeId, nonce: u64) -> Envelope {
        Envelope { to, message: message(nonce) }
    }

    fn record() -> Record {
        Record { promised: Ballot::ZERO, chosen_upto: Slot::ZERO, body: RecordBody::Promise }
    }

    fn take(outbox: &mut Outbox, records: usize, now: &[Envelope], after: &[Envelope]) {
        let mut persist = vec![record(); records];
        outbox.take(&mut persist, &mut now.to_vec(), &mut after.to_vec());
    }

    fn emitted(outbox: &mut Outbox) -> (Option<u64>, Vec<u64>) {
        let mut actions = Vec::new();
        outbox.emit(&mut actions);
        let mut upto = None;
        let mut nonces = Vec::new();
        for action in actions {
            match action {
                Action::Persist { upto: position, .. } => {
                    assert!(nonces.is_empty(), "records go before messages");
                    upto = Some(position.0);
                }
                Action::Send { message: PeerMessage::Paxos(Message::ReadIndex(m)), to, .. } => {
                    assert_eq!(to, PEER);
                    nonces.push(m.nonce);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
        (upto, nonces)
    }

    #[test]
    fn positions_count_on_from_the_recovered_one() {
        let mut outbox = Outbox::new(ME, Position(40), Planted::NONE);
        take(&mut outbox, 2, &[], &[]);
        take(&mut outbox, 1, &[], &[]);
        assert_eq!(emitted(&mut outbox), (Some(43), vec![]));
        assert_eq!(emitted(&mut outbox), (None, vec![]));
    }

    #[test]
    fn a_message_that_asserts_something_durable_waits_for_exactly_its_records() {
        let mut outbox = Outbox::new(ME, Position(0), Planted::NONE);
        take(&mut outbox, 2, &[envelope(PEER, 1)], &[envelope(PEER, 2)]);
        take(&mut outbox, 1, &[], &[envelope(PEER, 3)]);
        // The records are out, the first message is, the others are not.
        assert_eq!(emitted(&mut outbox), (Some(3), vec![1]));
        outbox.persisted(Position(1));
        assert_eq!(emitted(&mut outbox), (None, vec![]));
        outbox.persisted(Position(2));
        assert_eq!(emitted(&mut outbox), (None, vec![2]));
        assert_eq!(outbox.held_messages(), 1);
        outbox.persisted(Position(3));
        assert_eq!(emitted(&mut outbox), (None, vec![3]));
    }

    #[test]
    fn promises_that_wait_go_when_a_higher_one_is_given() {
        let promise = |round, page| {
            let ballot = Ballot { round, node: PEER };
            let (from, chosen_upto) = (Slot(1), Slot::ZERO);
            let (answer, pages, accepted) = (1, 2, Vec::new());
            let promise = Promise { ballot, from, chosen_upto, answer, page, pages, accepted };
            Envelope { to: PEER, message: Message::Promise(promise) }
        };
        let mut outbox = Outbox::new(ME, Position(0), Planted::NONE);
        take(&mut outbox, 1, &[], &[envelope(PEER, 1), promise(1, 0), promise(1, 1)]);
        take(&mut outbox, 0, &[], &[promise(1, 0), promise(1, 1)]);
        assert_eq!(outbox.held_messages(), 5);
        take(&mut outbox, 1, &[], &[promise(2, 0), promise(2, 1)]);
        assert_eq!(outbox.held_messages(), 3, "what is no promise, and both pages");
        // Others' ballots are not the business of what is given now.
        take(&mut outbox, 0, &[], &[envelope(PEER, 2)]);
        assert_eq!(outbox.held_messages(), 4);
    }

    /// A stranger says at every heartbeat that it is there, and is told at each that it is no
    /// member: while the disk hangs one such answer waits, and it is the oldest.
    #[test]
    fn one_refusal_of_a_kind_waits_for_a_peer() {
        let refusal = |to, round, reason| {
            let ballot = Ballot { round, node: PEER };
            Envelope { to, message: Message::Reject(Reject { ballot, reason }) }
        };
        let no_member =
            |round| refusal(PEER, round, RejectReason::NoMember { number: round, witnesses: 1 });
        let mut outbox = Outbox::new(ME, Position(0), Planted::NONE);
        take(&mut outbox, 1, &[], &[no_member(2)]);
        for _ in 0..1_000 {
            take(&mut outbox, 1, &[], &[no_member(2)]);
        }
        assert_eq!(outbox.held, [(Position(1), no_member(2))]);
        // A candidacy of another ballot is another matter, once.
        let second = outbox.handed_out();
        take(&mut outbox, 0, &[], &[no_member(3), no_member(2), no_member(3)]);
        assert_eq!(outbox.held, [(second, no_member(3))]);
        // So are other kinds and other peers.
        let truncated = refusal(PEER, 2, RejectReason::TooFarBehind(Slot(1)));
        let other = refusal(NodeId(3), 2, RejectReason::NoMember { number: 1, witnesses: 1 });
        let others = [truncated.clone(), other.clone(), truncated, other];
        take(&mut outbox, 0, &[], &others);
        assert_eq!(outbox.held_messages(), 3);
        // One that left counts no more.
        outbox.persisted(outbox.handed_out());
        take(&mut outbox, 1, &[], &[no_member(3), no_member(3)]);
        assert_eq!(outbox.held_messages(), 1);
    }

    #[test]
    fn a_message_says_what_it_rests_on() {
        let mut outbox = Outbox::new(ME, Position(4), Planted::NONE);
        take(&mut outbox, 0, &[], &[envelope(PEER, 1)]);
        take(&mut outbox, 2, &[envelope(PEER, 2)], &[envelope(PEER, 3)]);
        outbox.persisted(Position(6));
        let mut actions = Vec::new();
        outbox.emit(&mut actions);
        let rests_on = |action: &Action| match action {
            Action::Send { rests_on, .. } => Some(*rests_on),
            _ => None,
        };
        let told: Vec<_> = actions.iter().filter_map(rests_on).collect();
        assert_eq!(told, [Some(Position(4)), None, Some(Position(6))]);
    }

    #[test]
    fn without_new_records_a_message_still_waits_for_those_handed_out_before() {
        let mut outbox = Outbox::new(ME, Position(7), Planted::NONE);
        take(&mut outbox, 1, &[], &[]);
        take(&mut outbox, 0, &[], &[envelope(PEER, 1)]);
        assert_eq!(emitted(&mut outbox), (Some(8), vec![]));
        outbox.persisted(Position(8));
        assert_eq!(emitted(&mut outbox), (None, vec![1]));
        // And leaves at once when nothing is outstanding.
        take(&mut outbox, 0, &[], &[envelope(PEER, 2)]);
        assert_eq!(emitted(&mut outbox), (None, vec![2]));
    }

    #[test]
    fn messages_to_this_node_wait_like_any_other_and_never_meet_the_network() {
        let mut outbox = Outbox::new(ME, Position(0), Planted::NONE);
        take(&mut outbox, 1, &[envelope(ME, 1)], &[envelope(ME, 2)]);
        assert_eq!(outbox.next_looped(), Some(message(1)));
        assert_eq!(outbox.next_looped(), None);
        outbox.persisted(Position(1));
        assert_eq!(outbox.next_looped(), Some(message(2)));
        assert_eq!(emitted(&mut outbox), (Some(1), vec![]));
    }

    #[test]
    fn an_old_report_of_the_journal_takes_nothing_back() {
        let mut outbox = Outbox::new(ME, Position(0), Planted::NONE);
        take(&mut outbox, 2, &[], &[]);
        outbox.persisted(Position(2));
        outbox.persisted(Position(1));
        take(&mut outbox, 0, &[], &[envelope(PEER, 1)]);
        assert_eq!(emitted(&mut outbox).1, vec![1]);
    }

    #[test]
    #[should_panic(expected = "never given")]
    fn a_report_ahead_of_what_was_handed_out_is_a_bug() {
        Outbox::new(ME, Position(3), Planted::NONE).persisted(Position(4));
    }
}
