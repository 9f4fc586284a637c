//! Linearizable reads: the leader's rounds and the followers' questions.

use super::*;
use crate::{ReadEcho, ReadIndex, ReadIndexAnswer, ReadOutcome, ReadToken, read, read::Reader};

/// The answer to a follower's question.
pub(super) fn answer(to: NodeId, nonce: u64, index: Option<Slot>) -> Envelope {
    Envelope { to, message: Message::ReadIndexAnswer(ReadIndexAnswer { nonce, index }) }
}

impl Replica {
    pub(super) fn receive_read(&mut self, token: ReadToken, effects: &mut Effects) {
        if self.rounds.waiting() + self.questions.waiting() >= self.options.reads_waiting_max {
            effects.reads.push(ReadOutcome { token, index: None });
        } else if self.leads().is_some() {
            self.rounds.push(Reader::Here(token));
        } else if self.options.planted.is(Bug::ReadsLocally) {
            let index = Some(self.log.chosen_upto());
            effects.reads.push(ReadOutcome { token, index });
        } else {
            self.questions.push(Reader::Here(token));
        }
    }

    /// A follower asks: the leader lets it join a round. A follower that hears the
    /// leader passes the question on for one that does not.
    pub(super) fn receive_read_index(
        &mut self,
        from: NodeId,
        question: &ReadIndex,
        effects: &mut Effects,
    ) {
        let reader = Reader::There(from, question.nonce);
        let full =
            self.rounds.waiting() + self.questions.waiting() >= self.options.reads_waiting_max;
        match self.route() {
            Route::Here if !full => self.rounds.push(reader),
            Route::Leader(leader) if !full && leader != from => self.questions.push(reader),
            _ => effects.send_now.push(answer(from, question.nonce, None)),
        }
    }

    pub(super) fn receive_read_index_answer(
        &mut self,
        answer: &ReadIndexAnswer,
        effects: &mut Effects,
    ) {
        let readers = self.questions.receive_answer(answer.nonce);
        settle(readers, answer.index, effects);
    }

    pub(super) fn receive_read_echo(
        &mut self,
        from: NodeId,
        echo: &ReadEcho,
        effects: &mut Effects,
    ) {
        if self.leads() == Some(echo.ballot) {
            self.count_echo(from, echo.read_round, effects);
        }
    }

    /// A new connection: what waits for an answer from there asks again, and the peer
    /// hears of this node at once.
    pub(super) fn receive_connection(&mut self, now: Time, peer: NodeId) {
        self.questions.give_up(peer);
        self.liveness.hasten(now);
    }

    /// Counts an echo. The read index is at least all that Phase 1 brought back, since
    /// no round begins before that is chosen: any of it may have been acknowledged
    /// under an earlier leader. It is also at least what this node itself knows as
    /// chosen and so may have acknowledged: that can be more than it got chosen in its
    /// own ballot.
    ///
    /// The quorum is one of those who vote in the next slot. Whoever got chosen there, in
    /// a higher ballot, what this leader does not know needed their promises, and any
    /// later slot is acknowledged after that one. (If a new configuration is known to
    /// follow, its quorum is asked too: more than needed, and simple.)
    pub(super) fn count_echo(&mut self, from: NodeId, read_round: u64, effects: &mut Effects) {
        if self.rounds.receive_echo(from, read_round) {
            self.confirm_reads(effects);
        }
    }

    /// Gives the readers whose rounds are confirmed an index, if one can be told.
    pub(super) fn confirm_reads(&mut self, effects: &mut Effects) {
        let Proposer::Leading(leading) = &self.proposer else { return };
        if !self.knows_the_past(leading) {
            return;
        }
        let index = leading.prefix().max(self.log.chosen_upto());
        let alone = self.options.planted.is(Bug::ReadsWithoutQuorum);
        let in_force = self.configurations.in_force(leading.prefix().min(self.log.chosen_upto()));
        let asked = if alone { &[] } else { in_force };
        let readers = self.rounds.take_confirmed(asked);
        settle(readers, Some(index), effects);
    }

    /// Whether everything that was chosen in lower ballots is known here. What Phase 1
    /// brought back must be chosen, and those who vote in the next slot must have been
    /// asked: new voters raise their promise, and echo, before they have told what they
    /// accepted. A promise that comes from them later can bring back more.
    pub(super) fn knows_the_past(&self, leading: &Leading) -> bool {
        let adopted = leading.prefix() >= leading.adopted_upto
            || self.options.planted.is(Bug::ReadsBeforeReported);
        let next = leading.prefix().next();
        // Who must be asked is known only when what was chosen before is known.
        adopted
            && self.log.chosen_upto() >= leading.base
            && leading.unprepared_from().is_none_or(|from| next < from)
    }

    /// Begins a round for the reads that have arrived; this node's own acceptor
    /// echoes at once, since its promise is the ballot in which it leads.
    ///
    /// An index that may never be chosen would hold its readers for ever, so what
    /// Phase 1 brought back is chosen first: the reads wait for that anyway.
    pub(super) fn begin_read_round(&mut self, now: Time, effects: &mut Effects) {
        let Proposer::Leading(leading) = &self.proposer else { return };
        if self.knows_the_past(leading) && self.rounds.begin(now) {
            self.count_echo(self.node, self.rounds.newest(), effects);
        }
    }

    pub(super) fn flush_reads(&mut self, now: Time, effects: &mut Effects) {
        if let Some(ballot) = self.leads() {
            if ballot == self.acceptor.promised() {
                let readers = self.questions.expire(now, None, 0);
                for reader in readers {
                    self.rounds.push(reader); // They arrived before this node led.
                }
                self.confirm_reads(effects);
                let before = self.rounds.newest();
                self.begin_read_round(now, effects);
                if self.rounds.newest() > before {
                    self.rounds.mark_unsent();
                }
            }
            return;
        }
        let leader = match (self.view(now), self.route()) {
            (Some(ballot), _) => Some(ballot.node),
            (None, Route::Through(peer)) => Some(peer),
            (None, _) => None,
        };
        let limit = self.options.election_timeout_us;
        let readers = self.questions.expire(now, leader, limit);
        settle(readers, None, effects);
        if let Some(to) = leader
            && let Some(nonce) = self.questions.ask(now, to)
        {
            let message = Message::ReadIndex(ReadIndex { nonce });
            effects.send_now.push(Envelope { to, message });
        }
    }
}

fn settle(readers: alloc::vec::Vec<Reader>, index: Option<Slot>, effects: &mut Effects) {
    let Effects { reads, send_now, .. } = effects;
    read::settle(readers, index, reads, |to, nonce, index| {
        send_now.push(answer(to, nonce, index));
    });
}
