//! Liveness: heartbeats, standing, keeping and giving away the office.

use core::cmp::Reverse;

use super::*;
use crate::{Handover, Heartbeat, Reign, Watermark, leader::Candidacy, read};

/// A leader gives nodes of a higher priority so many election timeouts between one chance
/// to take its office and the next, and itself as many before the first. One whose disk has
/// little room pauses as long when whoever has more did not take it: each attempt costs
/// the clients an election.
const PREFERENCE_TIMEOUTS: u64 = 10;

/// A hand-over that brought no higher ballot in this time has failed.
pub(super) const HANDOVER_PATIENCE_US: u64 = 50_000;

impl Replica {
    pub(super) fn receive_heartbeat(
        &mut self,
        now: Time,
        from: NodeId,
        index: usize,
        heartbeat: Heartbeat,
        effects: &mut Effects,
    ) {
        if from == self.node || self.liveness.is_outdated(index, heartbeat.sequence) {
            return;
        }
        if heartbeat.promised > self.highest_seen && heartbeat.promised.node == from {
            self.liveness.give_time(now, from); // Its Prepare is on the way.
        }
        self.note_seen(heartbeat.promised);
        if let Some(watermark) = heartbeat.leading.as_ref().filter(|w| w.ballot.node == from) {
            self.receive_watermark(now, from, watermark, effects);
        }
        let leading = self.leads();
        let promised = self.acceptor.promised();
        self.liveness.receive_heartbeat(now, index, heartbeat, leading, promised);
    }

    pub(super) fn receive_death(&mut self, now: Time, peer: NodeId) {
        if let Some(index) = self.place_of(peer).filter(|_| peer != self.node) {
            self.liveness.receive_death(now, index);
            self.catchup.receive_death(peer);
            self.loading[index] = None;
        }
    }

    /// The ballot whose leader this node holds for live: its own when it leads.
    pub(super) fn view(&self, now: Time) -> Option<Ballot> {
        self.leads().or_else(|| self.liveness.following(now, self.acceptor.promised()))
    }

    /// A reachable peer that hears a leader which this node does not hear.
    fn find_through(&self, now: Time) -> Option<NodeId> {
        let promised = self.acceptor.promised();
        let hears_leader = |index: usize| {
            let last = self.liveness.peer(index).last.as_ref();
            let following = last.and_then(|last| last.following);
            following.is_some_and(|ballot| {
                let reaches = last.is_some_and(|last| last.hears.contains(&ballot.node));
                ballot >= promised && reaches
            })
        };
        let mut reachable = self.others().filter(|(i, _)| self.liveness.is_reachable(now, *i));
        reachable.find(|(index, _)| hears_leader(*index)).map(|(_, node)| node)
    }

    /// A leader that is no longer followed, gets nothing chosen or has a hanging
    /// disk does not cling to its office.
    pub(super) fn keep_office(&mut self, now: Time, effects: &mut Effects) {
        let Proposer::Leading(leading) = &self.proposer else { return };
        let timeout = self.options.election_timeout_us;
        let governing = &self.in_force()[0].configuration;
        let followed = self.liveness.is_followed(now, governing);
        let waits = |since: Time| now.since_us(since) > 2 * timeout;
        let stuck = leading.in_flight() > 0 && waits(leading.progress_at)
            || leading.extension.as_ref().is_some_and(|extension| waits(extension.progress_at));
        // It may have been behind for long before it led.
        let hollow = self.log.chosen_upto() < leading.base
            && self.catchup.behind_us(now).is_some_and(|us| us > 2 * timeout)
            && waits(self.stood_at);
        let stays = self.options.planted.is(Bug::LeadsUnheard);
        if (!followed || stuck || hollow) && !stays {
            self.give_up_office(effects);
            self.liveness.lost(now);
            return;
        }
        if waits(self.stood_at) && self.knows_the_past(leading) {
            self.liveness.prevailed();
        }
        if self.handing_over.is_some_and(|since| now.since_us(since) >= HANDOVER_PATIENCE_US) {
            self.handing_over = None; // Nobody took it: go on in our own ballot.
        }
        let stalled = self.unsynced.age_us(now) > self.options.disk_stall_us
            || self.unsynced.bytes() > self.options.unsynced_bytes_max;
        let rested = now.since_us(self.stood_at) > timeout;
        let leaves = !self.may_promise(self.node);
        let cramped = self.has_roomier_voter(now);
        if (stalled || leaves || cramped) && self.handing_over.is_none() {
            if cramped {
                self.cramped_at = Some(now);
            }
            self.hand_over(now, None, effects);
        } else if let Some(preferred) = self.preferred(now) {
            self.preferred_at = now;
            self.hand_over(now, Some(preferred), effects);
        } else if self.liveness.has_deaf_voter(self.in_force()) && rested && !leaves {
            self.prepare(now, effects);
        }
    }

    /// Stands when it is this node's turn.
    pub(super) fn stand_if_due(&mut self, now: Time, effects: &mut Effects) {
        let known = self.view(now).is_some();
        self.liveness.note_leader(now, known);
        self.stand_at = None;
        if !matches!(self.proposer, Proposer::Idle) || known {
            return;
        }
        let candidacy = self.candidacy(now);
        let in_force = self.configurations.in_force(self.log.chosen_upto());
        match self.liveness.stand(now, in_force, candidacy) {
            Stand::Now => self.prepare(now, effects),
            Stand::At(time) => self.stand_at = Some(time),
            Stand::No => {}
        }
    }

    fn candidacy(&self, now: Time) -> Candidacy {
        Candidacy {
            chosen_upto: self.log.chosen_upto(),
            last_accepted: self.log.last_accepted(),
            disk_age_us: self.unsynced.age_us(now),
            room: self.room,
        }
    }

    /// Stops preparing or leading. Everything that waited for it is told.
    pub(super) fn give_up_office(&mut self, effects: &mut Effects) {
        self.proposer = Proposer::Idle;
        self.handing_over = None;
        let readers = self.rounds.drain();
        let Effects { reads, send_now, .. } = effects;
        read::settle(readers, None, reads, |to, nonce, index| {
            send_now.push(reading::answer(to, nonce, index));
        });
        self.rounds = Rounds::default();
    }

    /// Whether a voter has more room on its disk that could take over now and be of use at
    /// once. If the roomy one is unfit, two that have little would hand over to each other
    /// for ever.
    fn has_roomier_voter(&self, now: Time) -> bool {
        let Proposer::Leading(leading) = &self.proposer else { return false };
        // One that is out of room proposes nothing, so whoever can be elected is better, and
        // it loses little by asking again.
        let is_out = self.room == Room::Out;
        let timeouts = if is_out { 1 } else { PREFERENCE_TIMEOUTS };
        let pause_us = timeouts * self.options.election_timeout_us;
        if self.cramped_at.is_some_and(|at| now.since_us(at) < pause_us) {
            return false;
        }
        self.others().any(|(index, node)| {
            let last = self.liveness.peer(index).last.as_ref();
            last.is_some_and(|last| {
                last.room < self.room && (is_out || self.is_match(now, node, last))
            }) && self.could_lead(now, index, node, leading.ballot)
        })
    }

    /// A voter of a higher priority than this leader's that would lead as well.
    fn preferred(&self, now: Time) -> Option<NodeId> {
        let Proposer::Leading(leading) = &self.proposer else { return None };
        let pause_us = PREFERENCE_TIMEOUTS * self.options.election_timeout_us;
        let since = self.stood_at.max(self.preferred_at);
        if self.handing_over.is_some() || now.since_us(since) < pause_us {
            return None;
        }
        let higher = self.others().filter_map(|(index, node)| {
            let last = self.liveness.peer(index).last.as_ref()?;
            let fit = last.leader_priority > self.options.leader_priority
                && self.could_lead(now, index, node, leading.ballot)
                && last.room == Room::Enough
                && self.is_match(now, node, last);
            fit.then_some((last.leader_priority, last.chosen_upto, node))
        });
        higher.max().map(|(_, _, node)| node)
    }

    /// Whether this peer would lead as well as this node does: it lacks no more of the log
    /// than what is under way in any case, and hears every voter that this node hears. One
    /// that it does not hear would stand against it at once.
    fn is_match(&self, now: Time, node: NodeId, last: &Heartbeat) -> bool {
        let Proposer::Leading(leading) = &self.proposer else { return false };
        let keeps_up = last.chosen_upto.0 >= leading.prefix().0.saturating_sub(self.window_slots());
        let heard = |voter: &NodeId| *voter == node || last.hears.contains(voter);
        let hears = |reign: &Reign| {
            self.liveness.reachable_voters(now, &reign.configuration).iter().all(heard)
        };
        keeps_up && self.in_force().iter().all(hears)
    }

    /// Whether this peer follows our ballot, is fit to take it over and would be elected.
    fn could_lead(&self, now: Time, index: usize, node: NodeId, ballot: Ballot) -> bool {
        self.liveness.peer(index).last.as_ref().is_some_and(|last| {
            self.liveness.is_reachable(now, index)
                && self.configurations.newest().configuration.is_voter(node)
                && last.following == Some(ballot)
                && last.disk_age_us <= self.options.disk_stall_us
                && self.could_win(node, last)
        })
    }

    /// Whether a quorum could promise to this peer: itself and whom it hears, if their
    /// journals reach back to what it knows as chosen. A candidate that cannot win leaves
    /// the cluster without a leader for a while, and itself deaf to the next one.
    fn could_win(&self, node: NodeId, last: &Heartbeat) -> bool {
        let wants = last.chosen_upto.next();
        let reaches_back = |voter: NodeId| {
            let peer = self.place_of(voter).map(|place| self.liveness.peer(place));
            let heard = peer.and_then(|peer| peer.last.as_ref());
            heard.is_none_or(|heard| heard.available_from <= wants)
        };
        let own = self.log.truncated_upto().next() <= wants;
        let promises = |voter: &NodeId| {
            let could = if *voter == self.node { own } else { reaches_back(*voter) };
            *voter == node || could && last.hears.contains(voter)
        };
        self.in_force().iter().all(|reign| {
            let voters = reign.configuration.voters();
            let promising = voters.iter().copied().filter(promises).count();
            promising >= reign.configuration.progress_quorum()
        })
    }

    /// Asks a follower to stand: `wanted`, or the best of all.
    pub(super) fn hand_over(&mut self, now: Time, wanted: Option<NodeId>, effects: &mut Effects) {
        let Proposer::Leading(leading) = &self.proposer else { return };
        if self.handing_over.is_some() {
            return; // Whoever was asked is standing: two at once would duel.
        }
        let (ballot, chosen_upto) = (leading.ballot, leading.prefix());
        let asked = self.others().filter(|(_, node)| wanted.is_none_or(|wanted| wanted == *node));
        let able = asked.filter_map(|(index, node)| {
            let last = self.liveness.peer(index).last.as_ref()?;
            let fresh = self.handed_to != Some(node);
            // One that is out of room does not take it.
            let matches = last.room != Room::Out && self.is_match(now, node, last);
            let choice = (matches, Reverse(last.room), fresh, last.leader_priority);
            let log = (last.chosen_upto, last.last_accepted);
            self.could_lead(now, index, node, ballot).then_some((choice, log, node))
        });
        if let Some((_, _, to)) = able.max() {
            let message = Message::Handover(Handover { ballot, chosen_upto });
            effects.send_now.push(Envelope { to, message });
            self.handing_over = Some(now);
            self.handed_to = Some(to);
        }
    }

    pub(super) fn receive_handover(
        &mut self,
        now: Time,
        from: NodeId,
        handover: &Handover,
        effects: &mut Effects,
    ) {
        let idle = matches!(self.proposer, Proposer::Idle);
        let current = handover.ballot >= self.acceptor.promised() && handover.ballot.node == from;
        let able =
            self.unsynced.age_us(now) <= self.options.disk_stall_us && self.room != Room::Out;
        if idle && current && able && from != self.node {
            // What it takes as chosen need not travel in the promises.
            self.learner.receive_claim(handover.ballot, handover.chosen_upto, &mut self.log);
            self.advance(effects);
            if self.may_promise(self.node) {
                self.prepare(now, effects);
            }
        }
    }

    /// Heartbeats to all: when they are due, and at once when what this node would
    /// say about the leader has changed.
    pub(super) fn flush_heartbeats(&mut self, now: Time, effects: &mut Effects) {
        let view = self.view(now);
        self.through = if view.is_none() { self.find_through(now) } else { None };
        if view == self.told && now < self.liveness.next_heartbeat_at() {
            return;
        }
        self.told = view;
        let leading = match &self.proposer {
            Proposer::Leading(leading) => Some(Watermark {
                ballot: leading.ballot,
                chosen_upto: leading.prefix(),
                read_round: self.rounds.open_round(),
            }),
            Proposer::Idle | Proposer::Preparing(_) => None,
        };
        let hears = self.others().filter(|(index, _)| self.liveness.is_reachable(now, *index));
        let heartbeat = Heartbeat {
            sequence: 0,
            echo: 0,
            echo_held_us: 0,
            promised: self.acceptor.promised(),
            following: view,
            leading,
            chosen_upto: self.log.chosen_upto(),
            available_from: self.log.truncated_upto().next(),
            last_accepted: self.log.last_accepted(),
            durable_upto: self.durable,
            configuration: self.configurations.number(),
            disk_age_us: self.unsynced.age_us(now),
            leader_priority: self.options.leader_priority,
            room: self.room,
            hears: hears.map(|(_, node)| node).collect(),
            state: self.state,
            position: self.unsynced.durable(),
            state_copied_upto: self.options.state_copied_upto,
        };
        let sequence = self.liveness.next_sequence(now);
        if self.removed().is_some() {
            return; // Nobody listens.
        }
        for (index, to) in self.others() {
            let (echo, echo_held_us) = self.liveness.echo_for(now, index);
            let heartbeat = Heartbeat { sequence, echo, echo_held_us, ..heartbeat.clone() };
            let message = Message::Heartbeat(heartbeat);
            effects.send_now.push(Envelope { to, message });
        }
    }
}
