//! Learning what is chosen, catch-up, and truncation.

use alloc::vec::Vec;

use super::*;
use crate::{Chosen, Fetch, Heartbeat, Load, SnapshotWanted, Watermark, catchup::Source, learner};

/// Slots asked for in one request at the most.
const FETCH_SLOTS_MAX: u64 = 4_096;

/// A node without room on its disk that the others can't do without still fetches what it
/// misses, if it is no more than this: what was on its way when its disk ran full.
const FETCH_SLOTS_WITHOUT_ROOM_MAX: u64 = 256;

impl Replica {
    /// The highest slot that this node has heard to be chosen and does not get
    /// chosen itself.
    pub(super) fn known_chosen(&self) -> Slot {
        if let Proposer::Leading(leading) = &self.proposer {
            return leading.base.max(self.log.chosen_upto());
        }
        let heard = |index| self.liveness.peer(index).last.as_ref().map(|last| last.chosen_upto);
        let peers = self.others().filter_map(|(index, _)| heard(index)).max();
        self.learner.claimed_upto().max(peers.unwrap_or(Slot::ZERO)).max(self.log.chosen_upto())
    }

    /// The leader says what is chosen when no Accept said it in this batch.
    pub(super) fn announce(&mut self, now: Time, effects: &mut Effects) {
        let retransmit_us = self.retransmit_us();
        let Proposer::Leading(leading) = &self.proposer else { return };
        let (ballot, chosen_upto) = (leading.ballot, leading.prefix());
        let round_due = self.rounds.is_due(now, retransmit_us);
        if chosen_upto <= self.announced && !round_due {
            return;
        }
        self.announced = chosen_upto;
        self.rounds.sent(now);
        let read_round = self.rounds.open_round();
        let watermark = Watermark { ballot, chosen_upto, read_round };
        self.send_to_others(&Message::Watermark(watermark), effects);
    }

    /// Asks for what this node misses.
    pub(super) fn flush_catchup(&mut self, now: Time, effects: &mut Effects) {
        let timeout = self.options.election_timeout_us;
        let known = self.known_chosen();
        let chosen_upto = self.log.chosen_upto();
        self.catchup.note(now, chosen_upto, known);
        if !self.options.planted.is(Bug::FetchedOnce) {
            self.catchup.expire(now, timeout);
        }
        let backlog = chosen_upto.0 - self.applied.0;
        // With everything applied that can be, only the missing slot makes room again.
        let full = backlog > 4 * self.options.window_slots_max
            || (backlog > 0 && !self.has_memory())
            || (self.room == Room::Out && !self.fetches_without_room(now, known));
        self.catchup.block(full);
        if known == chosen_upto {
            self.eager = false;
            return;
        }
        if full {
            return; // When there is room again the next chunk is still due at once.
        }
        let eager = core::mem::take(&mut self.eager);
        let leader = self.view(now).map(|ballot| ballot.node);
        let first = chosen_upto.next();
        let last = known.min(chosen_upto.plus(FETCH_SLOTS_MAX));
        let sources: Vec<Source> = self.sources(now, leader).collect();
        let all = sources.iter().copied();
        if let Some((to, fetch)) = self.catchup.next(now, first, last, eager, all) {
            effects.send_now.push(Envelope { to, message: Message::Fetch(fetch) });
        } else if let Some(from) = self.catchup.next_snapshot(now, first, timeout, &sources) {
            effects.snapshot = Some(SnapshotWanted { from, above: chosen_upto });
            if self.options.planted.is(Bug::StartAfterBeforeSwitch) {
                let body = RecordBody::StartAfter { slot: last };
                let mut record = self.acceptor.record(body, &self.log);
                record.chosen_upto = last;
                self.unsynced.persist(now, record, effects);
            }
        }
    }

    /// Whether this node, whose disk has no room, fetches all the same.
    fn fetches_without_room(&self, now: Time, known: Slot) -> bool {
        let missed = known.0 - self.log.chosen_upto().0;
        missed <= FETCH_SLOTS_WITHOUT_ROOM_MAX
            && !self.is_spared(now, |_| true)
            && !self.options.planted.is(Bug::FullDiskNeverFetches)
    }

    /// The state machine was replaced by a snapshot, durably. The log below goes; the
    /// promise and what was accepted above stay: they are this node's word, and the
    /// snapshot is only what others had chosen.
    pub(super) fn install(
        &mut self,
        now: Time,
        slot: Slot,
        state: (Slot, u64),
        configurations: Configurations,
        effects: &mut Effects,
    ) {
        self.catchup.installed();
        if slot <= self.applied {
            return;
        }
        // A leader knows as chosen what it got chosen itself and what Phase 1 knew. If
        // there is more, another has got it chosen: this one has lost.
        if matches!(&self.proposer, Proposer::Leading(leading) if slot > leading.prefix()) {
            self.give_up_office(effects);
            self.liveness.lost(now);
        }
        let planted = self.options.planted;
        let is_ahead = slot > self.log.chosen_upto();
        self.log.install(slot);
        if is_ahead && !planted.is(Bug::SnapshotKeepsVoters) {
            self.install_configurations(configurations);
        }
        self.applied = slot;
        self.durable = slot;
        self.state = state;
        self.options.state_copied_upto = slot;
        let start = if planted.is(Bug::StartAfterTooMuch) { self.log.last() } else { slot };
        if planted.is(Bug::SnapshotDropsAcceptances) {
            self.log.forget_open();
        }
        if planted.is(Bug::SnapshotResetsPromise) {
            self.acceptor.forget_promise();
        }
        let body = RecordBody::StartAfter { slot: start };
        let mut record = self.acceptor.record(body, &self.log);
        record.chosen_upto = record.chosen_upto.max(start);
        self.unsynced.persist(now, record, effects);
        self.eager = true;
    }

    /// Whether the state of that peer is needed is looked at again, later.
    pub(super) fn receive_snapshot_failure(&mut self, now: Time, from: NodeId) {
        self.catchup.snapshot_failed(now, from);
    }

    fn sources(&self, now: Time, leader: Option<NodeId>) -> impl Iterator<Item = Source> + '_ {
        let reachable = self.others().filter(move |(i, _)| self.liveness.is_reachable(now, *i));
        reachable.filter_map(move |(index, node)| {
            let last = self.liveness.peer(index).last.as_ref()?;
            let Heartbeat { available_from, chosen_upto, .. } = *last;
            Some(Source { node, available_from, chosen_upto, is_leader: leader == Some(node) })
        })
    }

    /// Ships chosen values from memory, or has the journal read them.
    pub(super) fn receive_fetch(
        &mut self,
        from: NodeId,
        index: usize,
        fetch: &Fetch,
        effects: &mut Effects,
    ) {
        let Fetch { nonce, first, last } = *fetch;
        let last = match self.options.planted.is(Bug::ShipsUnchosen) {
            true => self.log.last(),
            false => last.min(self.log.chosen_upto()).min(first.plus(FETCH_SLOTS_MAX)),
        };
        if first > self.log.truncated_upto() && first < self.log.first() && first <= last {
            // One read at a time for each peer; it asks again if this one is lost.
            if self.loading[index].replace(nonce).is_none() {
                let bytes_max = self.options.page_bytes_max;
                effects.load.push(Load { to: from, nonce, first, last, bytes_max });
            }
            return;
        }
        let mut values = Vec::new();
        let mut bytes = 0;
        let mut slot = first;
        while slot <= last && bytes < self.options.page_bytes_max {
            let Some(entry) = self.log.get(slot) else { break };
            bytes += entry.value.size_bytes();
            values.push(entry.value.clone());
            slot = slot.next();
        }
        self.ship(from, nonce, first, values, effects);
    }

    pub(super) fn receive_loaded(&mut self, load: Load, values: Vec<Value>, effects: &mut Effects) {
        let index = self.place_of(load.to);
        let newest = index.and_then(|index| self.loading[index].take());
        self.ship(load.to, newest.unwrap_or(load.nonce), load.first, values, effects);
    }

    fn ship(&self, to: NodeId, nonce: u64, first: Slot, values: Vec<Value>, effects: &mut Effects) {
        let chosen = Chosen { nonce, first, values };
        effects.send_now.push(Envelope { to, message: Message::Chosen(chosen) });
    }

    /// Chosen values from a peer's log: journaled as chosen, never as acceptances,
    /// and stronger than any of those.
    pub(super) fn receive_chosen(
        &mut self,
        now: Time,
        from: NodeId,
        chosen: Chosen,
        effects: &mut Effects,
    ) {
        let Chosen { nonce, first, values } = chosen;
        // What is chosen is a fact, however late it is told: the nonce only says
        // whether the next request may leave.
        let answered = self.catchup.receive_chunk(from, nonce, values.is_empty());
        self.eager |= answered && !values.is_empty();
        for (slot, value) in (first.0..).map(Slot).zip(values) {
            if slot > self.log.chosen_upto().next() {
                break; // Meant for an earlier life, which knew more: it is asked for again.
            }
            let keeps = self.options.planted.is(Bug::CatchUpKeepsOwnValue);
            let held = self.log.get(slot).filter(|_| keeps).map(|entry| entry.value.clone());
            let value = held.unwrap_or(value);
            let beaten = matches!(&self.proposer, Proposer::Leading(leading)
                if leading.is_beaten_by(slot, &value));
            if beaten && !self.log.is_chosen(slot) {
                // Somebody else got it chosen: this leader has lost its office, and
                // must not announce what it learns from others.
                self.give_up_office(effects);
                self.liveness.lost(now);
            }
            if learner::learn(slot, &value, &mut self.log) == learner::Learnt::New {
                self.advance(effects);
                let record = self.acceptor.record(RecordBody::Chosen { slot, value }, &self.log);
                self.unsynced.persist(now, record, effects);
            }
            self.advance(effects);
        }
    }

    /// The journal is cut only below what the own state machine holds durably. A tail
    /// stays for peers that lag, and all that a peer misses who was heard lately, as long
    /// as the disk has room. Who misses more gets a snapshot: nothing is kept for it until
    /// one leaves from here, and then what follows that one.
    pub(super) fn truncate(&mut self, now: Time, effects: &mut Effects) {
        let truncated_upto = self.log.truncated_upto();
        if !self.tail.is_due(now, truncated_upto, &self.options) {
            return;
        }
        let keep_us = self.options.keep_for_peers_us;
        let needed = |index| self.liveness.peer(index).needed_above(now, keep_us);
        let peers = self.others().filter_map(|(index, _)| needed(index));
        let peers = peers.chain(self.tail.sent_within(now, keep_us));
        // Who needs what is gone is not helped by what follows it.
        let peers = peers.filter(|above| *above >= truncated_upto).min();
        let peers = peers.filter(|_| !self.tail.is_disk_low());
        let planted = self.options.planted;
        let own = if planted.is(Bug::TruncatesApplied) { self.applied } else { self.durable };
        let limit = own.min(peers.unwrap_or(own));
        if let Some(upto) = self.tail.cut(now, truncated_upto, limit, &self.options) {
            self.log.truncate(upto);
            effects.truncate = effects.truncate.max(Some(upto));
        }
    }
}
