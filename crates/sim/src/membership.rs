//! The operator who changes the members, and what is left of them at the healing.

use fastrand::Rng;
use synod_host::{Event, RequestId};
use synod_paxos::{Configuration, NodeId};

use crate::checkers::Check;
use crate::coverage::Rare;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::node::{Fate, Node};
use crate::world::World;

impl World<'_> {
    /// The operator asks a node, mostly the leader, for other voters: any of the members
    /// vote, the others learn. Now and then a new node joins as one that learns. In harsher
    /// seeds it may vote at once, and members are removed.
    pub(crate) fn change_members(&mut self, victim: NodeId) -> Check {
        let fault = Fault::Membership;
        self.retire_removed()?;
        let now_us = self.now_us;
        let node = self.node(victim);
        let now = node.clock.read(now_us);
        let Some(process) = node.process.as_ref() else { return Ok(()) };
        let newest = process.host.configurations().newest().configuration.clone();
        let status = process.host.status(now);
        let may_change = process.leads && status.configuration_from <= status.chosen_upto.next();
        let waits = self.nodes.iter().find(|node| node.fate == Fate::Waits).map(|node| node.id);
        let rng = self.nemesis.rng(fault);
        let joins = waits.filter(|_| may_change && rng.bool());
        let mut members = newest.members().to_vec();
        rng.shuffle(&mut members);
        let mut learners = members.split_off(rng.usize(1..=members.len()));
        learners.extend(joins);
        let hastens = self.nemesis.harsher.as_mut().is_some_and(|harsher| {
            remove_some(harsher, &mut members, &mut learners, joins.is_some());
            joins.is_some() && harsher.bool()
        });
        if hastens {
            members.extend(learners.pop());
        }
        let rng = self.nemesis.rng(fault);
        let count = members.len();
        let majority = count / 2 + 1;
        let (q1, q2) = match rng.u8(..4) {
            0 => (count, 1),
            1 => (1, count),
            _ => (majority, majority),
        };
        let alpha = [newest.alpha(), 1, 2, 5][rng.usize(..4)];
        let new = Configuration::new(members, q1, q2, alpha).expect("quorums that meet");
        let new = new.with_learners(learners).expect("the same members");
        let configuration = new.numbered(newest.number() + 1);
        let (request, force) = (RequestId(0), rng.u8(..4) == 0 || hastens);
        let starts_us = rng.u64(..2_000_000);
        self.coverage.fault(fault);
        self.nemesis.asked.push(configuration.clone());
        if let Some(joins) = joins {
            let node = self.node(joins);
            node.fate = Fate::Sound;
            node.joined_in = Some(configuration.clone());
            self.at(starts_us, Happening::Start { node: joins });
        }
        self.hear(victim, Event::Change { request, configuration, force })
    }

    /// The operator switches off who says that nobody needs it any more.
    fn retire_removed(&mut self) -> Check {
        if self.nemesis.harsher.is_none() {
            return Ok(());
        }
        for id in (1..=self.plan.members).map(NodeId) {
            if self.is_removed(id) && self.can_spare(id) {
                self.coverage.rare(Rare::MemberRetired);
                let tail = self.nemesis.draw_tail();
                self.crash(id, tail)?;
                self.node(id).fate = Fate::Left;
            }
        }
        Ok(())
    }

    fn is_removed(&mut self, id: NodeId) -> bool {
        let now_us = self.now_us;
        let node = self.node(id);
        let now = node.clock.read(now_us);
        node.process.as_ref().is_some_and(|process| process.host.status(now).removed.is_some())
    }

    /// Of the voters that live as many stay dead as each configuration can do without that
    /// is in force, for the one who knows least, or may come to be. Returns those of whom
    /// nothing is demanded, but who may be needed.
    pub(crate) fn leave_voters(&mut self, living: &mut Vec<NodeId>) -> Vec<NodeId> {
        let helpers = self.find_helpers(living);
        let known = living.iter().chain(&helpers).map(|id| self.known_number(*id)).min();
        let known = known.unwrap_or(0);
        let asked = [&self.first].into_iter().chain(&self.nemesis.asked);
        let (needed, before) = (asked.filter(|one| one.number() >= known), living.len());
        for id in living.clone() {
            let lives = |node: &&NodeId| {
                **node != id && (living.contains(*node) || helpers.contains(*node))
            };
            let survives = |one: &Configuration| {
                !one.is_voter(id)
                    || one.voters().iter().filter(lives).count() >= one.progress_quorum()
            };
            if needed.clone().any(|one| one.is_voter(id)) && needed.clone().all(survives) {
                living.retain(|node| *node != id);
            }
        }
        if living.len() < before {
            self.coverage.rare(Rare::VotersLeft);
        }
        helpers
    }

    /// A change that was asked for before the healing may be chosen after it: then nothing is
    /// demanded any more of those that it removes.
    pub(crate) fn dismiss_removed(&mut self) {
        let newest = &self.checks.agreement.configurations().newest().configuration;
        if let Some(liveness) = &mut self.checks.liveness {
            liveness.retain(|node| newest.contains(node));
        }
    }

    /// The number of the configuration that governs the first slot which a node does not
    /// know as chosen; 0 of one that is down.
    fn known_number(&self, id: NodeId) -> u64 {
        let node = &self.nodes[id.0 as usize - 1];
        let now = node.clock.read(self.now_us);
        node.process.as_ref().map_or(0, |process| {
            let chosen_upto = process.host.status(now).chosen_upto;
            process.host.configurations().in_force(chosen_upto)[0].configuration.number()
        })
    }

    /// Nodes that the newest configuration does not name and that may be needed: their
    /// change is not chosen yet, or they were removed and have not been let go.
    fn find_helpers(&mut self, members: &[NodeId]) -> Vec<NodeId> {
        let is_other = |node: &&Node| node.fate == Fate::Sound && !members.contains(&node.id);
        let mut others: Vec<NodeId> =
            self.nodes.iter().filter(is_other).map(|node| node.id).collect();
        others.retain(|id| !self.is_removed(*id));
        others
    }
}

/// Removes one or two of the members, whether they vote or not, but neither the last voter
/// nor the one that joins, which is the last learner.
fn remove_some(rng: &mut Rng, voters: &mut Vec<NodeId>, learners: &mut Vec<NodeId>, joins: bool) {
    for _ in 0..[0, 0, 1, 2][rng.usize(..4)] {
        if rng.bool() && voters.len() > 1 {
            voters.pop();
        } else if learners.len() > usize::from(joins) {
            learners.remove(0);
        }
    }
}
