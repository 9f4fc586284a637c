//! Phases 1 and 2: what the replica does with votes and asks for them.

use super::*;
use crate::{
    Accept, Accepted, Prepare, Promise, ReadEcho, Reject, RejectReason, Watermark, learner,
    preparing::Preparing,
};

/// Open slots that are sent again at once; the rest follow when these are chosen.
const RETRANSMIT_SLOTS_MAX: usize = 16;

impl Replica {
    /// Begins Phase 1 in a ballot above everything heard of. A ballot is never
    /// used twice: this node's own promise of it is durable before the first
    /// Prepare leaves, and a restarted node stands above its promise.
    pub(super) fn prepare(&mut self, now: Time, effects: &mut Effects) {
        let ballot = self.acceptor.promised().max(self.highest_seen).next(self.node);
        let ballot = self.spoilt(ballot);
        self.give_up_office(effects);
        self.highest_seen = ballot;
        self.elections += 1;
        self.stood_at = now;
        let from = self.log.chosen_upto().next();
        let prepare = Prepare { ballot, from };
        self.proposer =
            Proposer::Preparing(Preparing::new(ballot, from, now, self.options.planted));
        self.vote_on_prepare(now, self.node, &prepare, effects);
        for (_, to) in self.others().filter(|(_, node)| self.may_promise(*node)) {
            let message = Message::Prepare(prepare.clone());
            if self.options.planted.is(Bug::PrepareBeforeDurable) {
                effects.send_now.push(Envelope { to, message });
            } else {
                effects.send_after_durable.push(Envelope { to, message });
            }
        }
        // The others give time to a candidate of whom they hear, while its own sync lasts.
        self.liveness.hasten(now);
    }

    /// The ballot of a replica that was told to get it wrong; else what was given.
    fn spoilt(&self, ballot: Ballot) -> Ballot {
        let planted = self.options.planted;
        if planted.is(Bug::BallotsFromOneAgain) {
            return Ballot { round: self.elections + 1, node: self.node };
        }
        let jumps = planted.is(Bug::BallotJumps) && self.elections == 2;
        let jump = if jumps { 2 * Ballot::ROUND_JUMP_MAX } else { 0 };
        Ballot { round: ballot.round + jump, ..ballot }
    }

    pub(super) fn receive_prepare(
        &mut self,
        now: Time,
        from: NodeId,
        prepare: &Prepare,
        effects: &mut Effects,
    ) {
        if prepare.ballot.node != from {
            return;
        }
        if self.refuses_candidate(from) {
            let newest = &self.configurations.newest().configuration;
            let reason = RejectReason::NoVoter(newest.number());
            let reject = Reject { ballot: prepare.ballot, reason };
            effects.send_now.push(Envelope { to: from, message: Message::Reject(reject) });
            return;
        }
        if self.vote_on_prepare(now, from, prepare, effects) {
            self.note_higher(prepare.ballot, effects);
            self.liveness.promised_to(now, prepare.ballot);
        }
    }

    pub(super) fn vote_on_prepare(
        &mut self,
        now: Time,
        from: NodeId,
        prepare: &Prepare,
        effects: &mut Effects,
    ) -> bool {
        let Replica { log, unsynced, .. } = self;
        let mut ground = Ground { now, log, unsynced, effects };
        let page_bytes_max = self.options.page_bytes_max;
        self.acceptor.receive_prepare(from, prepare, page_bytes_max, &mut ground)
    }

    pub(super) fn receive_promise(
        &mut self,
        now: Time,
        from: NodeId,
        promise: Promise,
        effects: &mut Effects,
    ) {
        match &mut self.proposer {
            Proposer::Idle => {}
            Proposer::Preparing(preparing) => {
                if promise.ballot == preparing.ballot {
                    preparing.progress_at = now;
                }
                preparing.receive_promise(from, promise);
                self.lead_if_promised(now, effects);
            }
            Proposer::Leading(leading) => {
                if !leading.receive_promise(now, from, promise) {
                    self.give_up_office(effects);
                    self.liveness.lost(now);
                    return;
                }
                leading.note_configurations(&self.configurations, self.log.chosen_upto());
                self.propose_adopted(now, effects);
            }
        }
    }

    /// Phase 2 begins with a quorum of promises from the voters of every slot that is
    /// still open, as far as this node knows who they are.
    pub(super) fn lead_if_promised(&mut self, now: Time, effects: &mut Effects) {
        let chosen_upto = self.log.chosen_upto();
        let in_force = self.configurations.in_force(chosen_upto);
        let hurries = self.options.planted.is(Bug::ProposesUnprepared);
        let asked = if hurries { &in_force[..1] } else { in_force };
        let Proposer::Preparing(preparing) = &self.proposer else { return };
        if !preparing.has_quorums(asked) {
            return;
        }
        let Proposer::Preparing(preparing) = core::mem::replace(&mut self.proposer, Proposer::Idle)
        else {
            unreachable!("matched above")
        };
        let mut leading = Leading::after(&preparing, now, chosen_upto);
        if self.options.planted.is(Bug::PhaseOneToOwnLast) {
            leading.forget_above(self.log.last());
        }
        leading.note_configurations(&self.configurations, chosen_upto);
        self.announced = leading.prefix();
        self.liveness.won(now);
        self.pacing = Pacing::default();
        self.proposer = Proposer::Leading(leading);
        if !self.options.planted.is(Bug::NewBeforeReported) {
            self.propose_adopted(now, effects);
        }
    }

    /// Proposes what Phase 1 brought back, as far as the window allows. It may be chosen
    /// already, and reads wait for it, so full disks do not hinder it.
    pub(super) fn propose_adopted(&mut self, now: Time, effects: &mut Effects) {
        loop {
            let Proposer::Leading(leading) = &self.proposer else { return };
            if !self.has_room_for_needed(leading) {
                return;
            }
            let Proposer::Leading(leading) = &mut self.proposer else { return };
            let Some(value) = leading.next_adopted() else { return };
            self.propose(now, value, effects);
        }
    }

    /// Proposes a value that the host cut. A host that offers one to a node that
    /// has just stopped leading loses it: its commands are sent again by their
    /// origins.
    pub(super) fn propose_new(
        &mut self,
        now: Time,
        value: Value,
        commands: usize,
        effects: &mut Effects,
    ) {
        let is_change = matches!(value, Value::Configuration(_));
        if is_change && matches!(&self.proposer, Proposer::Leading(l) if l.has_change()) {
            return; // One at a time: the second could only be without effect.
        }
        let free = if is_change { self.leading_to_change() } else { self.leading_with_room() };
        if free.is_some() {
            self.pacing.cut(now, commands);
            self.propose(now, value, effects);
        }
    }

    /// Phase 2a: to every acceptor, this node's own included. The Accepts leave
    /// before the own acceptance is durable; it counts only once it is.
    pub(super) fn propose(&mut self, now: Time, value: Value, effects: &mut Effects) {
        let Proposer::Leading(leading) = &mut self.proposer else { return };
        let slot = leading.propose(now, value.clone());
        assert!(leading.unprepared_from().is_none_or(|from| slot < from), "{slot} is not ours");
        let (ballot, chosen_upto) = (leading.ballot, leading.prefix());
        self.announced = chosen_upto;
        self.begin_read_round(now, effects);
        let read_round = self.rounds.newest();
        let accept = Accept { ballot, slot, value, chosen_upto, read_round };
        if !self.skips(&accept.value) {
            self.send_to_others(&Message::Accept(accept.clone()), effects);
        }
        let Replica { log, unsynced, .. } = self;
        let mut ground = Ground { now, log, unsynced, effects };
        let voted = self.acceptor.receive_accept(self.node, accept, &mut ground);
        if !voted {
            // Somebody else got this slot chosen, and this node has learnt it meanwhile.
            assert!(self.log.is_chosen(slot), "a leader's own acceptor follows it");
            self.give_up_office(effects);
            self.liveness.lost(now);
        }
    }

    /// Whether a planted bug keeps this value from the other acceptors.
    fn skips(&self, value: &Value) -> bool {
        self.options.planted.is(Bug::GapNotFilled) && *value == Value::Noop
    }

    pub(super) fn receive_accept(
        &mut self,
        now: Time,
        from: NodeId,
        accept: Accept,
        effects: &mut Effects,
    ) {
        let Accept { ballot, slot, chosen_upto, .. } = accept;
        if ballot.node != from {
            return;
        }
        let promised_before = self.acceptor.promised();
        let crowded = !self.has_memory() || self.room == Room::Out;
        if crowded {
            // The claim, which is true whatever becomes of the Accept, may make its slot the
            // next one.
            self.learner.receive_claim(ballot, chosen_upto, &mut self.log);
            self.advance(effects);
        }
        // The next slot is always taken: it is the one that frees memory.
        let next = self.log.chosen_upto().next();
        // On a full disk, too, only where the others cannot do without this node: then its
        // leader proposes nothing more, and what is under way comes to its end. Those count
        // that the leader hears, too: it needs this node if it cannot reach the others.
        let spared = self.room == Room::Out && {
            let leader = self.place_of(from).and_then(|i| self.liveness.peer(i).last.as_ref());
            let heard = leader.map_or(&[][..], |last| &last.hears);
            self.is_spared(now, |peer| peer.node == from || heard.contains(&peer.node))
        };
        let full = spared || crowded && slot > next;
        if full && ballot >= promised_before {
            self.liveness.hear_leader(now, ballot, promised_before);
            let window_end = self.log.chosen_upto();
            let reason = RejectReason::BeyondWindow(window_end);
            let message = Message::Reject(Reject { ballot, reason });
            effects.send_now.push(Envelope { to: from, message });
            return;
        }
        let Replica { log, unsynced, .. } = self;
        let mut ground = Ground { now, log, unsynced, effects };
        let voted = self.acceptor.receive_accept(from, accept, &mut ground);
        if self.acceptor.promised() > promised_before {
            self.note_higher(ballot, effects);
        }
        self.liveness.hear_leader(now, ballot, self.acceptor.promised());
        self.learner.receive_claim(ballot, chosen_upto, &mut self.log);
        if voted {
            self.learner.note_accepted(ballot, slot, &mut self.log);
        }
    }

    pub(super) fn receive_accepted(
        &mut self,
        now: Time,
        from: NodeId,
        index: usize,
        accepted: &Accepted,
        effects: &mut Effects,
    ) {
        let planted = self.options.planted;
        let Proposer::Leading(leading) = &mut self.proposer else { return };
        let is_old = accepted.ballot != leading.ballot && !planted.is(Bug::OldVoteCounts);
        if is_old || accepted.first > accepted.last {
            return;
        }
        if from != self.node {
            self.liveness.note_vote(now, index);
        }
        for (slot, value) in leading.receive_accepted(now, from, accepted, &self.configurations) {
            learner::learn(slot, &value, &mut self.log);
        }
        self.propose_adopted(now, effects);
        self.count_echo(from, accepted.read_round, effects);
    }

    pub(super) fn receive_reject(
        &mut self,
        now: Time,
        from: NodeId,
        index: usize,
        reject: &Reject,
        effects: &mut Effects,
    ) {
        let mine = match &self.proposer {
            Proposer::Idle => None,
            Proposer::Preparing(preparing) => Some(preparing.ballot),
            Proposer::Leading(leading) => Some(leading.ballot),
        };
        let higher = match reject.reason {
            RejectReason::Promised(promised) => {
                self.note_seen(promised);
                promised > reject.ballot
            }
            RejectReason::TooFarBehind(_) => matches!(self.proposer, Proposer::Preparing(_)),
            // Who knows less of the members than this candidate cannot say that it does not
            // vote. A leader that votes in no open slot any more is not waited for.
            RejectReason::NoVoter(number) => match &self.proposer {
                Proposer::Preparing(_) => {
                    number >= self.configurations.newest().configuration.number()
                }
                Proposer::Idle | Proposer::Leading(_) => !self.may_promise(self.node),
            },
            RejectReason::NoMember { .. } => {
                return self.receive_no_member(now, from, reject, effects);
            }
            // Chosen by others meanwhile, or by and by when the acceptor caught up.
            RejectReason::Truncated(_) | RejectReason::BeyondWindow(_) => false,
        };
        if !higher || mine != Some(reject.ballot) {
            return;
        }
        // A leader that meets a higher promise takes a higher ballot itself, but not
        // again and again: a rival may have a quorum. One that its voter follows has.
        let rested = now.since_us(self.stood_at) > self.options.election_timeout_us;
        let followed = self.liveness.peer(index).last.as_ref().and_then(|last| last.following);
        let rival = followed.is_some_and(|followed| followed > reject.ballot);
        if self.leads().is_some() && rested && !rival && self.handing_over.is_none() {
            self.prepare(now, effects);
        } else {
            self.give_up_office(effects);
            self.liveness.lost(now);
        }
    }

    /// The leader tells what is chosen, and asks whether it is still followed.
    pub(super) fn receive_watermark(
        &mut self,
        now: Time,
        from: NodeId,
        watermark: &Watermark,
        effects: &mut Effects,
    ) {
        let Watermark { ballot, chosen_upto, read_round } = *watermark;
        if ballot.node != from || from == self.node {
            return;
        }
        // A node that missed the Prepare promises now: raising a promise is always
        // safe, and without it the node could not confirm reads.
        if self.acceptor.promise_to_leader(ballot) {
            let record = self.acceptor.record(RecordBody::Promise, &self.log);
            self.unsynced.persist(now, record, effects);
            self.note_higher(ballot, effects);
        }
        self.liveness.hear_leader(now, ballot, self.acceptor.promised());
        self.learner.receive_claim(ballot, chosen_upto, &mut self.log);
        let heeds =
            ballot < self.acceptor.promised() && self.options.planted.is(Bug::EchoesDeposedLeader);
        if (ballot == self.acceptor.promised() || heeds) && read_round > 0 {
            self.acceptor.note_read_round(ballot, read_round);
            let read_round = if heeds { read_round } else { self.acceptor.read_round() };
            let message = Message::ReadEcho(ReadEcho { ballot, read_round });
            effects.send_now.push(Envelope { to: from, message });
        }
    }

    /// This node's promise rose for another's ballot: whatever it did itself below
    /// is over.
    fn note_higher(&mut self, ballot: Ballot, effects: &mut Effects) {
        self.note_seen(ballot);
        if !self.options.planted.is(Bug::LeadsBelowPromise) {
            self.give_up_office(effects);
        }
    }

    pub(super) fn note_seen(&mut self, ballot: Ballot) {
        let limit = self.acceptor.promised().round.saturating_add(Ballot::ROUND_JUMP_MAX);
        if ballot.round < limit {
            self.highest_seen = self.highest_seen.max(ballot);
        }
    }

    /// Sends again what stayed unanswered.
    pub(super) fn retransmit(&mut self, now: Time, effects: &mut Effects) {
        match self.proposer {
            Proposer::Idle => {}
            Proposer::Preparing(_) => self.retransmit_prepare(now, effects),
            Proposer::Leading(_) => self.retransmit_accepts(now, effects),
        }
    }

    /// A candidate gives up when nothing has arrived for an election timeout, longer
    /// after each lost election: the disks may be slow.
    fn retransmit_prepare(&mut self, now: Time, effects: &mut Effects) {
        let patience_us = self.liveness.candidate_patience_us();
        let Some(due) = self.prepare_due_at() else { return };
        let Proposer::Preparing(preparing) = &mut self.proposer else { return };
        if now.since_us(preparing.progress_at) >= patience_us {
            self.give_up_office(effects);
            self.liveness.lost(now);
        } else if now >= due {
            preparing.sent_at = now;
            preparing.sent += 1;
            let Preparing { ballot, from, .. } = *preparing;
            // While pages arrive nobody needs a reminder, which would make it send
            // all of them again: the pause counts from the last page.
            self.remind_of_prepare(&Prepare { ballot, from }, effects);
        }
    }

    /// When the Prepares are due to be sent again.
    pub(super) fn prepare_due_at(&self) -> Option<Time> {
        let Proposer::Preparing(preparing) = &self.proposer else { return None };
        Some(self.repeat_prepare_at(preparing))
    }

    fn retransmit_accepts(&mut self, now: Time, effects: &mut Effects) {
        let (least_us, planted) = (self.retransmit_us(), self.options.planted);
        let Proposer::Leading(leading) = &mut self.proposer else { return };
        if leading.repeat_at(least_us).is_none_or(|due| now < due) {
            return;
        }
        let (ballot, chosen_upto) = (leading.ballot, leading.prefix());
        let (read_round, pause_us) = (self.rounds.newest(), leading.repeat_us(least_us));
        for (slot, open) in leading.unchosen().take(RETRANSMIT_SLOTS_MAX) {
            if now < open.repeat_at(pause_us) {
                continue;
            }
            open.sent_at = now;
            open.repeats += 1;
            let voters = self.configurations.governing(slot).voters();
            for (index, to) in (0..).zip(voters.iter().copied()) {
                let place = self.everybody.binary_search(&to);
                let reachable = place.is_ok_and(|place| self.liveness.is_reachable(now, place));
                let skips = planted.is(Bug::GapNotFilled) && open.value == Value::Noop;
                if to != self.node && reachable && !open.voters.contains(index) && !skips {
                    let changes = planted.is(Bug::TwoValuesInOneBallot);
                    let value = if changes { Value::Noop } else { open.value.clone() };
                    let accept = Accept { ballot, slot, value, chosen_upto, read_round };
                    effects.send_now.push(Envelope { to, message: Message::Accept(accept) });
                }
            }
        }
    }
}
