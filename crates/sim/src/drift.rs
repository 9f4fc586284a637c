//! A replica whose state becomes another one than the others', as by a mistake of its
//! processor that no checksum tells.
//!
//! It takes the time in one value for a millisecond later: the state hash differs from then
//! on, and nothing else, so that nobody is told anything wrong before the hosts find out. Then
//! it must stop, and get a peer's state. A value after whose time something is remembered for
//! a while, or forgotten, is not such a one.

use synod_kv::{Command, ServerId, StateMachine};
use synod_paxos::NodeId;

use crate::checkers::{Check, Checker, demand};
use crate::coverage::Rare;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::node::{Doubt, Fate};
use crate::store::Store;
use crate::words;
use crate::world::World;

/// Whether a node's state is that of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Drift {
    /// It is.
    None,
    /// It will not be from the next value on that has a time.
    Soon,
    /// It may not be.
    Parted,
}

impl Drift {
    /// The time that a node reads in a value.
    pub(crate) fn bend(
        &mut self,
        stamp_ms: u64,
        machine: &StateMachine<Store>,
        commands: &[(ServerId, Command)],
    ) -> u64 {
        let forgets = machine.tick_ms().is_some_and(|tick_ms| stamp_ms + 1 >= tick_ms);
        let remembers = commands.iter().any(|(_, command)| command.idempotency.is_some());
        let is_late = stamp_ms < machine.cluster_time_ms();
        if *self != Drift::Soon || is_late || forgets || remembers {
            return stamp_ms;
        }
        *self = Drift::Parted;
        stamp_ms + 1
    }
}

impl World<'_> {
    /// Lets a replica drift that the others can do without: so most of them do not.
    pub(crate) fn drift(&mut self, victim: NodeId) {
        let node = &self.nodes[victim.0 as usize - 1];
        let is_well = node.fate == Fate::Sound && node.is_member() && node.process.is_some();
        let alone = self.nodes.iter().all(|node| node.drift == Drift::None);
        if is_well && alone && self.may_lose(victim) {
            self.coverage.fault(Fault::Drift);
            let node = self.node(victim);
            node.fate = Fate::Damaged;
            node.drift = Drift::Soon;
        }
    }

    /// Most voters contradict it. An operator has it take a peer's state.
    pub(crate) fn stop_drifted(&mut self, id: NodeId) -> Check {
        self.coverage.rare(Rare::DriftStopped);
        self.trace.note(self.now_us, [words::STOPS, u64::from(id.0), 2, 0], || {
            format!("{id} stops: most voters have another state")
        });
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        self.node(id).doubt = Doubt::Damaged;
        if self.nemesis.is_loose() {
            let delay_us = self.rng.u64(100_000..3_000_000);
            self.at(delay_us, Happening::Start { node: id });
        }
        Ok(())
    }

    /// Whether a replica that drifted goes on while all is well, until the others tell it. Not
    /// if it alone still has what they need: they could have that from nobody but it.
    pub(crate) fn finds_out(&mut self, id: NodeId, living: &[NodeId]) -> bool {
        let now_us = self.now_us;
        let node = self.node(id);
        let Some(process) = node.process.as_ref().filter(|_| node.drift == Drift::Parted) else {
            return false;
        };
        let truncated_upto = process.host.status(node.clock.read(now_us)).truncated_upto;
        living.iter().filter(|other| **other != id).any(|other| {
            let other = self.node(*other);
            let applied = other.process.as_ref().map(|process| process.machine.applied_slot());
            applied.unwrap_or(other.state.slot) >= truncated_upto.0
        })
    }

    /// When all have been heard for long nobody may run whose state differs. From then on
    /// nobody reckons with those that drifted.
    pub(crate) fn dismiss_drifted(&mut self) -> Check {
        self.check_drift()?;
        for id in (1..=self.plan.members).map(NodeId) {
            if self.node(id).drift == Drift::Parted {
                let tail = self.nemesis.draw_tail();
                self.crash(id, tail)?;
                self.node(id).fate = Fate::Left;
            }
        }
        Ok(())
    }

    fn check_drift(&self) -> Check {
        // Where a quorum is no majority those that live may be too few to know better.
        let voters = self.first.voters().len();
        for node in self.nodes.iter().filter(|node| node.drift == Drift::Parted) {
            let Some(process) = &node.process else { continue };
            let (slot, hash) = (process.machine.applied_slot(), process.machine.state_hash());
            let known = self.checks.state_hash.known(slot);
            // Whoever copied what this one has not found right yet is no witness against it.
            let agreed_upto = process.host.agreed_upto();
            let is_witness = |id: &NodeId| {
                let other = &self.nodes[id.0 as usize - 1];
                other.process.is_some() && other.state.copied_upto <= agreed_upto
            };
            let others = self.liveness().watched().into_iter().filter(|id| *id != node.id);
            let is_most = others.filter(is_witness).count() > voters / 2;
            demand(
                !is_most || known.is_none_or(|known| known == hash),
                Checker::StateHash,
                || {
                    format!(
                        "{} goes on with another state than the others after slot {slot}",
                        node.id
                    )
                },
            )?;
        }
        Ok(())
    }
}
