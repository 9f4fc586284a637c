//! Changes of the members: who is talked to, and Phase 1 with new voters.

use super::*;
use crate::{
    ChangeRefusal, Configuration, Heartbeat, Prepare, Reign, Reject, RejectReason,
    preparing::Preparing,
};

/// Guests at the most: each is a whole member as far as work goes.
const GUESTS_MAX: usize = Configuration::MEMBERS_MAX;

/// A node that is further behind than this is not ready to vote.
const LAG_SLOTS_MAX: u64 = 1_024;

impl Replica {
    /// Who votes, slot by slot, as far as this node's log says.
    #[must_use]
    pub fn configurations(&self) -> &Configurations {
        &self.configurations
    }

    /// Everybody that this node talks to, itself included, in order of their ids. It
    /// changes with what becomes chosen.
    #[must_use]
    pub fn everybody(&self) -> &[NodeId] {
        &self.everybody
    }

    /// The configurations of the slots that are not chosen yet.
    pub(super) fn in_force(&self) -> &[Reign] {
        self.configurations.in_force(self.log.chosen_upto())
    }

    /// Something was chosen that changes who votes, or a change that was chosen has
    /// come to govern.
    pub(super) fn note_reigns(&mut self) {
        let chosen_upto = self.log.chosen_upto();
        let in_force = self.configurations.in_force(chosen_upto);
        self.next_reign = in_force.get(1).map_or(Slot(u64::MAX), |reign| reign.from);
        let alpha = in_force.iter().map(|reign| reign.configuration.alpha()).max();
        self.acceptor.set_window(alpha.expect("one governs").saturating_mul(2));
        if let Proposer::Leading(leading) = &mut self.proposer {
            leading.note_configurations(&self.configurations, chosen_upto);
        }
        self.forget_reigns();
        // Whoever leads may be no member any more and go on until another one does.
        let leader = self.acceptor.promised().node;
        if self.place_of(leader).is_some() && !self.guests.contains(&leader) {
            self.guests.push(leader);
        }
        self.note_everybody();
    }

    /// Forgets the configurations of slots that are behind. Votes are still counted in
    /// slots above the leader's own prefix, which others may have got ahead of.
    pub(super) fn forget_reigns(&mut self) {
        if self.configurations.reigns().len() == 1 {
            return;
        }
        let chosen_upto = self.log.chosen_upto();
        let open_from = match &self.proposer {
            Proposer::Leading(leading) => leading.prefix(),
            Proposer::Idle | Proposer::Preparing(_) => chosen_upto,
        };
        self.configurations.forget(open_from.min(chosen_upto));
    }

    /// A snapshot says who votes above its slot, to which the chosen prefix has jumped:
    /// the changes in between were never taken note of here.
    pub(super) fn install_configurations(&mut self, newer: Configurations) {
        let known = self.configurations.newest().configuration.number();
        let number = newer.newest().configuration.number();
        assert!(number >= known, "a snapshot knows less of the members than what it replaces");
        self.configurations.install(newer);
        self.note_reigns();
    }

    fn note_everybody(&mut self) {
        let mut everybody = self.configurations.everybody(self.log.chosen_upto());
        self.guests.retain(|guest| everybody.binary_search(guest).is_err());
        everybody.extend(&self.guests);
        everybody.sort_unstable();
        if everybody == self.everybody {
            return;
        }
        let loading = |node: &NodeId| self.place_of(*node).and_then(|place| self.loading[place]);
        self.loading = everybody.iter().map(loading).collect();
        self.liveness.set_everybody(&everybody);
        self.catchup.set_everybody(&everybody);
        self.everybody = everybody;
    }

    /// A guest leaves when it neither leads nor knows of a newer configuration.
    pub(super) fn dismiss_guests(&mut self) {
        if self.guests.is_empty() {
            return;
        }
        let leader = self.acceptor.promised().node;
        let number = self.configurations.number();
        let ahead = |guest: &NodeId| self.heard_number(*guest).is_some_and(|heard| heard > number);
        let stay: Vec<NodeId> =
            self.guests.iter().copied().filter(|guest| *guest == leader || ahead(guest)).collect();
        if stay.len() < self.guests.len() {
            self.guests = stay;
            self.note_everybody();
        }
    }

    /// The newest configuration that a peer said it knows.
    fn heard_number(&self, node: NodeId) -> Option<u64> {
        let last = self.liveness.peer(self.place_of(node)?).last.as_ref()?;
        Some(last.configuration)
    }

    /// A message of a node that is no member. One that knows more of the members than
    /// this node becomes a guest: what this node misses may be fetched from it. Any
    /// other is told that it does not belong here, and cannot disturb.
    pub(super) fn receive_from_stranger(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        effects: &mut Effects,
    ) {
        if from == self.node {
            return; // Its own vote, on its way while it became a member no more.
        }
        let number = self.configurations.number();
        match message {
            Message::Heartbeat(Heartbeat { configuration, .. })
                if configuration > number && self.guests.len() < GUESTS_MAX =>
            {
                self.guests.push(from);
                self.note_everybody();
                self.receive(now, from, message, effects);
            }
            Message::Heartbeat(Heartbeat { promised: ballot, .. })
            | Message::Prepare(Prepare { ballot, .. })
            | Message::Accept(crate::Accept { ballot, .. }) => {
                self.dismiss(now, from, ballot, effects);
            }
            // The office may come from a node that has just been removed.
            Message::Handover(handover) => self.receive_handover(now, from, &handover, effects),
            Message::Reject(reject) => self.receive_no_member(now, from, &reject, effects),
            _ => {}
        }
    }

    /// Tells a node that it is no member. This node durably knows then that the change
    /// governs: without the removed node it might not find that out after a crash.
    fn dismiss(&mut self, now: Time, to: NodeId, ballot: Ballot, effects: &mut Effects) {
        let in_force = self.in_force();
        let governing = &in_force[0];
        let (voters, number) = (governing.configuration.voters(), self.configurations.number());
        let ahead = self.configurations.is_ahead() || in_force.len() > 1;
        if ahead || !voters.contains(&self.node) {
            return; // Perhaps it has only not come so far.
        }
        let witnesses = voters.len() - governing.configuration.progress_quorum() + 1;
        let witnesses = u32::try_from(witnesses).expect("a few voters");
        if self.unsynced.recorded_upto() < governing.from.prior() {
            let record = self.acceptor.record(RecordBody::Promise, &self.log);
            self.unsynced.persist(now, record, effects);
        }
        let reason = RejectReason::NoMember { number, witnesses };
        let message = Message::Reject(Reject { ballot, reason });
        effects.send_after_durable.push(Envelope { to, message });
    }

    /// A peer says that this node is no member. It is so if the peer knows a newer
    /// configuration than this node does, or this node's own says the same. When enough
    /// have said so this node may go. Until then the others may need it, so it may stand
    /// again, as late as after any lost election: each Prepare brings another such answer.
    pub(super) fn receive_no_member(
        &mut self,
        now: Time,
        from: NodeId,
        reject: &Reject,
        effects: &mut Effects,
    ) {
        let RejectReason::NoMember { number, witnesses } = reject.reason else { return };
        let newest = &self.configurations.newest().configuration;
        let own = self.configurations.number();
        let agrees = number == own && newest.number() == own && !newest.contains(self.node);
        let known = self.dismissal.as_ref().map_or(0, |dismissal| dismissal.number);
        if number < known || !(number > own || agrees) {
            return;
        }
        if number > known || self.dismissal.is_none() {
            let needed = (witnesses as usize).max(1);
            self.dismissal = Some(Dismissal { number, witnesses: Vec::new(), needed });
        }
        let dismissal = self.dismissal.as_mut().expect("just set");
        if !dismissal.witnesses.contains(&from) {
            dismissal.witnesses.push(from);
        }
        if !matches!(self.proposer, Proposer::Idle) {
            self.give_up_office(effects);
            self.liveness.lost(now);
        }
    }

    /// The configuration by which this node is a member no more, once nobody needs it.
    pub(super) fn removed(&self) -> Option<u64> {
        let enough = |dismissal: &&Dismissal| dismissal.witnesses.len() >= dismissal.needed;
        self.dismissal.as_ref().filter(enough).map(|dismissal| dismissal.number)
    }

    /// A candidate counts as one only if it votes in an open slot. One that knows of a
    /// newer configuration than this node may, and so may one that votes in the
    /// configuration in which this node joined and which its log has not reached.
    pub(super) fn refuses_candidate(&self, candidate: NodeId) -> bool {
        let chosen_upto = self.log.chosen_upto();
        let ahead = self.heard_number(candidate).is_some_and(|n| n > self.configurations.number());
        !ahead
            && !self.configurations.is_voter(candidate, chosen_upto)
            && !self.configurations.is_voter_ahead(candidate)
    }

    /// Whether this leader would propose a change of the members now. `force` passes over
    /// what is merely risky.
    ///
    /// # Errors
    /// Why not.
    pub fn check_change(
        &self,
        now: Time,
        new: &Configuration,
        force: bool,
    ) -> Result<(), ChangeRefusal> {
        let Proposer::Leading(leading) = &self.proposer else {
            return Err(ChangeRefusal::NotLeading);
        };
        let newest = self.configurations.newest();
        if self.handing_over.is_some() {
            return Err(ChangeRefusal::NotLeading);
        }
        if newest.from > self.log.chosen_upto().next() || leading.has_change() {
            return Err(ChangeRefusal::Pending);
        }
        let number = newest.configuration.number();
        if number.checked_add(1) != Some(new.number()) {
            return Err(ChangeRefusal::Superseded { newest: number });
        }
        if self.leading_to_change().is_none() {
            return Err(ChangeRefusal::Busy);
        }
        let votes =
            |c: &Configuration| (c.voters().to_vec(), c.promise_quorum(), c.accept_quorum());
        // Where the same ones vote, this leader has the promises that it needs, once it has those
        // for the newest configuration.
        let has_promises = leading.unprepared_from().is_none();
        let needed = match has_promises && votes(new) == votes(&newest.configuration) {
            true => new.accept_quorum(),
            false => new.progress_quorum(),
        };
        let alive = self.liveness.reachable_voters(now, new);
        if alive.len() < needed {
            return Err(ChangeRefusal::NoQuorum { alive, needed });
        }
        let lag = |node: &NodeId| {
            let last = self.liveness.peer(self.place_of(*node)?).last.as_ref()?;
            Some(self.log.chosen_upto().0.saturating_sub(last.chosen_upto.0))
        };
        let joins = |node: &&NodeId| **node != self.node && !newest.configuration.is_voter(**node);
        for node in new.voters().iter().filter(joins) {
            let slots = lag(node);
            if !force && slots.is_none_or(|slots| slots > LAG_SLOTS_MAX) {
                return Err(ChangeRefusal::Lags { node: *node, slots });
            }
        }
        Ok(())
    }

    /// A leader asks new voters for their promise before it proposes under them: Phase 1
    /// of its own ballot, for the slots where they vote.
    pub(super) fn extend_phase_one(&mut self, now: Time, effects: &mut Effects) {
        let due = self.extension_due_at().is_some_and(|due| now >= due);
        let Proposer::Leading(leading) = &mut self.proposer else { return };
        let begun = leading.extend(now);
        let Some(extension) = leading.extension.as_mut().filter(|_| begun || due) else { return };
        if !begun {
            extension.sent_at = now;
            extension.sent += 1;
        }
        let prepare = Prepare { ballot: extension.ballot, from: extension.from };
        self.remind_of_prepare(&prepare, effects);
        // The others may have made this node a leader before its own promise was durable.
        if !self.has_promise_of(self.node) {
            self.vote_on_prepare(now, self.node, &prepare, effects);
        }
    }

    /// Whether this node's promise can help a candidate.
    pub(super) fn may_promise(&self, node: NodeId) -> bool {
        self.configurations.is_voter(node, self.log.chosen_upto())
    }

    /// Sends a Prepare to every other voter of an open slot whose promise is missing.
    pub(super) fn remind_of_prepare(&self, prepare: &Prepare, effects: &mut Effects) {
        let missing = |node: &NodeId| self.may_promise(*node) && !self.has_promise_of(*node);
        for (_, to) in self.others().filter(|(_, node)| missing(node)) {
            let message = Message::Prepare(prepare.clone());
            effects.send_after_durable.push(Envelope { to, message });
        }
    }

    fn has_promise_of(&self, node: NodeId) -> bool {
        match &self.proposer {
            Proposer::Idle => false,
            Proposer::Preparing(preparing) => preparing.has_promised(node),
            Proposer::Leading(leading) => leading.has_promise_of(node),
        }
    }

    /// When the Prepares to new voters are due to be sent again.
    pub(super) fn extension_due_at(&self) -> Option<Time> {
        let Proposer::Leading(leading) = &self.proposer else { return None };
        leading.extension.as_ref().map(|extension| self.repeat_prepare_at(extension))
    }

    pub(super) fn repeat_prepare_at(&self, preparing: &Preparing) -> Time {
        let pause_us = self.retransmit_us().max(self.options.election_timeout_us / 4);
        let since = preparing.sent_at.max(preparing.progress_at);
        since.plus_us(pause_us << (preparing.sent - 1).min(4))
    }

    /// No-ops up to the slot from which a new configuration governs, so that it comes to
    /// govern without any traffic. Half of the window stays free for clients. Full disks do
    /// not hinder it: other members may be the way to get room.
    pub(super) fn fill_up_to_next_reign(&mut self, now: Time, effects: &mut Effects) {
        let half = (self.window_slots() / 2).max(1);
        loop {
            let Proposer::Leading(leading) = &self.proposer else { return };
            let next = leading.proposed_upto().next();
            let fills = next < self.next_reign && self.next_reign < Slot(u64::MAX);
            let is_free = self.handing_over.is_none() && !leading.has_adopted();
            if !fills
                || !is_free
                || !self.has_room_for_needed(leading)
                || leading.in_flight() as u64 >= half
            {
                return;
            }
            self.propose(now, Value::Noop, effects);
        }
    }
}
