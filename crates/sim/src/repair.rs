//! How a node that finds something damaged on its disk mends it, as real nodes do.
//!
//! What an acceptor owes others is in its journal, and stays; a state is only the sum of
//! the chosen slots, and any peer's will do of a slot that the journal still begins behind.
//! Damaged segments of the journal are dropped, with all before them, when the state makes up
//! for them. Without its newest segment a node stays down: its promise is there. Until a
//! peer's state is here and checked the node takes part in nothing, and everything stays as
//! it is.

use std::collections::BTreeMap;

use synod_host::Event;
use synod_paxos::{NodeId, Slot};

use crate::checkers::{Check, Violation};
use crate::coverage::Rare;
use crate::disk::Behind;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::mistakes::Mistake;
use crate::node::{Doubt, Fate, Node};
use crate::snapshot::Checkpoint;
use crate::store::Durable;
use crate::words;
use crate::world::World;

/// Somebody to be asked is looked for so often, at the most.
const ASK_EVERY_US: u64 = 200_000;

/// What a start makes of what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repaired {
    /// Nothing is damaged, or nothing is any more.
    Whole,
    /// A peer's state is needed first.
    Waits,
    /// Nothing helps.
    Refused,
}

impl Node {
    /// Whether anything of it is damaged, known or not.
    pub(crate) fn is_ailing(&self) -> bool {
        self.doubt != Doubt::None || !self.state.damage.is_empty() || self.disk.damaged_groups > 0
    }

    /// Whether its process knows of damage in its state, by itself or by a mark.
    pub(crate) fn is_doubted(&self) -> bool {
        self.doubt != Doubt::None || self.process.as_ref().is_some_and(|process| process.doubts)
    }

    /// The least slot of a state behind which the journal goes on, if this is all of it that
    /// is left.
    pub(crate) fn needed(&self, behind: Option<Behind>) -> Slot {
        let upto = behind.map_or(self.disk.durably_truncated_upto(), |behind| behind.upto);
        // The journal may not know yet of a state that was switched to.
        upto.max(self.state.installed.unwrap_or(Slot::ZERO))
    }

    /// Whether the own state is of no use.
    pub(crate) fn state_is_damaged(&self) -> bool {
        self.doubt == Doubt::Damaged || !self.state.damage.is_empty()
    }

    /// The slot that the state of a peer must reach so that this node can start; zero if
    /// it needs nobody.
    pub(crate) fn needed_of_peers(&self, behind: Option<Behind>, state_is_lost: bool) -> Slot {
        let needed = self.needed(behind);
        let is_lost = state_is_lost || self.doubt != Doubt::None || !self.state.damage.is_empty();
        if is_lost || needed.0 > self.state.slot { needed } else { Slot::ZERO }
    }
}

impl World<'_> {
    /// Mends what can be mended before a process begins.
    pub(crate) fn repair(&mut self, id: NodeId) -> Result<Repaired, Violation> {
        let node = &mut self.nodes[id.0 as usize - 1];
        let blind = [Mistake::LostWriteUnnoticed, Mistake::RecordElsewhere].map(Some);
        if !node.is_ailing() || blind.contains(&node.mistake) {
            return Ok(Repaired::Whole);
        }
        let Ok(behind) = node.disk.behind_damage() else { return Ok(Repaired::Refused) };
        if node.doubt == Doubt::Suspect && !node.state.damage.is_empty() {
            node.doubt = Doubt::Damaged;
        }
        let needed = node.needed(behind);
        let goes_on = std::mem::take(&mut node.goes_on);
        let is_lost =
            node.doubt == Doubt::Damaged && node.mistake != Some(Mistake::DamageServed) && !goes_on;
        if is_lost && needed == Slot::ZERO {
            // The journal goes back to the beginning.
            node.state = Durable::default();
            node.drift = Drift::None;
            self.coverage.rare(Rare::StateReplayed);
        } else if is_lost
            || needed.0 > node.state.slot && node.mistake != Some(Mistake::MendsBeyondState)
        {
            node.is_rebuilding = true;
            // In a new life it asks its peers, and tells them no less than it told before.
            node.life += 1;
            node.incarnation += 1;
            self.at(0, Happening::AskForState { node: id });
            if self.exchanges_slots() {
                self.begin_exchange(id, needed);
            }
            return Ok(Repaired::Waits);
        }
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        if !goes_on {
            node.doubt = Doubt::None;
        }
        if let Some(behind) = behind {
            // What is missing in a state that is doubted may stand there and nowhere else.
            match goes_on {
                true => node.disk.mend_aside(behind),
                false => node.disk.mend(behind),
            }
            node.is_mended = true;
            self.coverage.rare(Rare::JournalMended);
            self.trace.note(now_us, [words::MENDS, u64::from(id.0), behind.upto.0, 0], || {
                format!("{id} mends its journal, which begins behind slot {} now", behind.upto)
            });
        }
        if node.fate == Fate::Damaged && !node.is_ailing() && node.drift == Drift::None {
            node.fate = Fate::Sound;
        }
        Ok(Repaired::Whole)
    }

    /// A process, or a start, met what is damaged in the state.
    pub(crate) fn doubt_state(&mut self, id: NodeId) -> Check {
        let now_us = self.now_us;
        self.coverage.rare(Rare::StateDamageMet);
        self.trace.note(now_us, [words::STOPS, u64::from(id.0), 1, 0], || {
            format!("{id} stops: its state is damaged")
        });
        self.node(id).doubt = Doubt::Damaged;
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        let delay_us = self.rng.u64(1_000..500_000);
        self.at(delay_us, Happening::Start { node: id });
        Ok(())
    }

    /// A process that is needed as it is meets damage in its state, and goes on: nobody can give it
    /// another one now. It doubts its state as long as it lives, so that nothing more of its journal is
    /// dropped, and leaves a mark for its next life.
    pub(crate) fn note_damage(&mut self, id: NodeId) -> Check {
        let now_us = self.now_us;
        self.trace.note(now_us, [words::STOPS, u64::from(id.0), 3, 0], || {
            format!("{id} goes on with a damaged state")
        });
        let node = self.node(id);
        let Some(process) = &mut node.process else { return Ok(()) };
        process.doubts = true;
        if node.mistake != Some(Mistake::DamagedCounts) {
            process.applied.durable = Slot::ZERO;
        }
        let applied = process.applied.clone();
        // A start that finds no mark takes the state for sound.
        if node.doubt == Doubt::None && node.mistake != Some(Mistake::DoubtUnmarked) {
            node.doubt = Doubt::Suspect;
        }
        self.hear(id, Event::Applied(applied))
    }

    /// A scrub reads everything that is not written any more.
    pub(crate) fn scrub(&mut self, id: NodeId) -> Check {
        let node = self.node(id);
        if !node.is_running() {
            return Ok(());
        }
        if !node.state.damage.is_empty() {
            self.coverage.rare(Rare::DamageScrubbed);
            return self.doubt_state(id);
        }
        if node.disk.has_scrubbable_damage() {
            self.coverage.rare(Rare::DamageScrubbed);
            return self.stop_by_disk(id, "the scrub found the journal damaged");
        }
        Ok(())
    }

    /// A node without a state asks somebody who has one that helps.
    pub(crate) fn ask_for_state(&mut self, id: NodeId) -> Check {
        if !self.still_rebuilds(id) {
            return Ok(());
        }
        let now_us = self.now_us;
        if self.node(id).waiting.as_ref().is_some_and(|waiting| waiting.is_moving(now_us)) {
            self.at(ASK_EVERY_US, Happening::AskForState { node: id });
            return Ok(());
        }
        let Some(above) = self.above(id) else {
            // More was damaged meanwhile, and nothing helps.
            let node = self.node(id);
            (node.is_rebuilding, node.waiting) = (false, None);
            return self.start(id);
        };
        let peers: Vec<NodeId> = (1..=self.plan.members).map(NodeId).collect();
        let good = peers.into_iter().filter(|peer| *peer != id && self.may_give(*peer, id, above));
        let good: Vec<NodeId> = good.collect();
        if good.is_empty() {
            let pause_us = self.rng.u64(ASK_EVERY_US / 4..ASK_EVERY_US);
            self.at(pause_us, Happening::AskForState { node: id });
            return Ok(());
        }
        let from = good[self.rng.usize(..good.len())];
        let checkpoint = self.take_checkpoint(from, above);
        let life = self.node(from).life;
        let way_us = self.rng.u64(1_000..300_000);
        let came = Happening::StateCame { node: id, from, life, checkpoint };
        self.at(way_us, came);
        Ok(())
    }

    pub(crate) fn still_rebuilds(&mut self, id: NodeId) -> bool {
        let node = self.node(id);
        let is_out = matches!(node.fate, Fate::Left | Fate::Waits | Fate::Lost);
        if is_out {
            (node.is_rebuilding, node.waiting) = (false, None);
        }
        node.is_rebuilding
    }

    /// The slot above which a state helps, if any does.
    fn above(&mut self, id: NodeId) -> Option<Slot> {
        let node = self.node(id);
        let needed = node.needed(node.disk.behind_damage().ok()?);
        // While the own state is being filled any that goes further is a help.
        if let Some(applied) = node.waiting.as_ref().and_then(|waiting| waiting.applied()) {
            return Some(applied);
        }
        let forgets = node.mistake == Some(Mistake::RebuiltTooOld);
        Some(if forgets { Slot::ZERO } else { Slot(needed.0.saturating_sub(1)) })
    }

    fn may_give(&mut self, peer: NodeId, to: NodeId, above: Slot) -> bool {
        let cut = self.network.is_cut(peer, to) || self.network.is_cut(to, peer);
        let node = &self.nodes[peer.0 as usize - 1];
        let has_it = node
            .process
            .as_ref()
            .is_some_and(|process| !process.paused && process.machine.applied_slot() > above.0);
        let has_it = has_it && node.drift != Drift::Parted;
        let own = &self.nodes[to.0 as usize - 1];
        !cut && has_it && node.is_member() && own.is_member()
    }

    /// A peer's state is here, or broke off on its way.
    pub(crate) fn state_came(
        &mut self,
        id: NodeId,
        (from, life): (NodeId, u64),
        checkpoint: &Checkpoint,
    ) -> Check {
        if !self.still_rebuilds(id) {
            return Ok(());
        }
        let above = self.above(id);
        let is_there = self.node(from).life == life
            && above
                .is_some_and(|above| checkpoint.slot > above.0 && self.may_give(from, id, above));
        let breaks = self.nemesis.is_loose() && self.rng.u8(..6) == 0;
        if !is_there || breaks || !self.is_whole(id, checkpoint) {
            self.coverage.rare(Rare::RebuildBroken);
            let pause_us = self.rng.u64(ASK_EVERY_US / 4..ASK_EVERY_US);
            self.at(pause_us, Happening::AskForState { node: id });
            return Ok(());
        }
        self.check_snapshot(id, checkpoint)?;
        self.coverage.rare(Rare::StateRebuilt);
        let (now_us, slot) = (self.now_us, checkpoint.slot);
        self.trace.note(now_us, [words::SWITCHES, u64::from(id.0), slot, 1], || {
            format!("{id} has the state of {from} of slot {slot} in place of its own")
        });
        let node = self.node(id);
        node.state.switch(&checkpoint.map, slot);
        node.unreplaced = 0;
        (node.doubt, node.drift) = (Doubt::None, Drift::None);
        (node.is_rebuilding, node.waiting) = (false, None);
        if node.fate == Fate::Damaged && !node.is_ailing() && node.drift == Drift::None {
            node.fate = Fate::Sound;
        }
        let crashes = self.nemesis.is_loose() && self.rng.u8(..4) == 0;
        let delay_us = if crashes { self.rng.u64(1_000..1_000_000) } else { 0 };
        self.at(delay_us, Happening::Start { node: id });
        Ok(())
    }

    /// Whether every node that is to mend itself with a peer's state can do so without this one.
    pub(crate) fn can_spare(&self, victim: NodeId) -> bool {
        if self.exchanges_slots() {
            let is_there =
                |node: &Node| node.fate == Fate::Sound && node.is_member() && node.id != victim;
            return self.can_mend(is_there, &BTreeMap::new());
        }
        let ailing = self
            .nodes
            .iter()
            .filter(|node| node.id != victim && node.fate == Fate::Sound && node.is_ailing());
        ailing.into_iter().all(|node| {
            let behind = node.disk.behind_damage().expect("only what mends was hit");
            let needed = node.needed_of_peers(behind, false);
            self.find_source(node.id, needed, Some(victim)).is_some() || needed == Slot::ZERO
        })
    }

    /// A node that will be there and durably has the state at this slot.
    pub(crate) fn find_source(
        &self,
        of: NodeId,
        needed: Slot,
        except: Option<NodeId>,
    ) -> Option<NodeId> {
        let is_source = |node: &&Node| {
            let is_other = node.id != of && Some(node.id) != except;
            is_other && node.fate == Fate::Sound && !node.is_ailing() && node.state.slot >= needed.0
        };
        self.nodes.iter().find(is_source).map(|node| node.id)
    }

    /// Damages the state of a node, and perhaps more on others, so that one good copy of
    /// everything is left; or lets one run on that nobody needs.
    pub(crate) fn damage_states(&mut self, victim: NodeId) -> Check {
        let fault = Fault::StateDamage;
        let is_unneeded = match self.node(victim).fate {
            Fate::Damaged => true,
            Fate::Sound => self.may_lose(victim) && self.nemesis.rng(fault).bool(),
            _ => return Ok(()),
        };
        let share = self.nemesis.rng(fault).usize(..1_000);
        if is_unneeded {
            let node = self.node(victim);
            node.state.damage(share);
            if !node.state.damage.is_empty() {
                if let Some(process) = &mut node.process {
                    process.machine.map().damage(&node.state);
                }
                node.fate = Fate::Damaged;
                self.coverage.fault(fault);
                let scrub_us = self.nemesis.rng(fault).u64(500_000..10_000_000);
                self.at(scrub_us, Happening::Scrub { node: victim });
            }
            return Ok(());
        }
        self.damage_with_a_copy_left(victim, share)?;
        if self.nemesis.rng(fault).bool() {
            for id in (1..=self.plan.members).map(NodeId).filter(|id| *id != victim) {
                let rng = self.nemesis.rng(fault);
                let (share, of_journal) = (rng.usize(..1_000), rng.bool());
                match of_journal {
                    true => self.damage_mendable(fault, id, share)?,
                    false => self.damage_with_a_copy_left(id, share)?,
                }
            }
        }
        Ok(())
    }

    /// The machine dies, and its state is damaged when it comes back, if a good one of a slot
    /// that helps is elsewhere.
    fn damage_with_a_copy_left(&mut self, victim: NodeId, share: usize) -> Check {
        let node = &self.nodes[victim.0 as usize - 1];
        let Ok(behind) = node.disk.behind_damage() else { return Ok(()) };
        let needed = node.needed_of_peers(behind, true);
        if !self.may_fall_ill(victim, needed) {
            return Ok(());
        }
        if self.nodes[victim.0 as usize - 1].process.is_some()
            && self.nemesis.rng(Fault::StateDamage).bool()
        {
            return self.damage_running(victim, share);
        }
        self.fall_ill(Fault::StateDamage, victim, |node| {
            node.state.damage(share);
            if !node.state.damage.is_empty() {
                node.doubt = Doubt::Suspect;
            }
        })
    }

    /// The state is damaged under a process that finds out and goes on, until it looks again.
    fn damage_running(&mut self, victim: NodeId, share: usize) -> Check {
        if !self.damage_under(victim, share) {
            return Ok(());
        }
        self.coverage.fault(Fault::StateDamage);
        let scrub_us = self.nemesis.rng(Fault::StateDamage).u64(500_000..10_000_000);
        self.at(scrub_us, Happening::Scrub { node: victim });
        self.note_damage(victim)
    }

    /// Damages a state on the disk, and with it what its process reads. Says whether there was
    /// anything to damage.
    pub(crate) fn damage_under(&mut self, victim: NodeId, share: usize) -> bool {
        let node = self.node(victim);
        node.state.damage(share);
        if let Some(process) = &mut node.process {
            process.machine.map().damage(&node.state);
        }
        !node.state.damage.is_empty()
    }

    /// The machine dies, and a sealed group of its journal is damaged when it comes back, if
    /// its own state makes up for it, or a peer's.
    pub(crate) fn damage_mendable(&mut self, fault: Fault, victim: NodeId, share: usize) -> Check {
        let node = &self.nodes[victim.0 as usize - 1];
        let Ok(Some(behind)) = node.disk.behind_share(share) else { return Ok(()) };
        let needed = node.needed_of_peers(Some(behind), false);
        if !self.may_fall_ill(victim, needed) {
            return Ok(());
        }
        self.fall_ill(fault, victim, |node| {
            // What was being written may be sealed by now; the damage is where it was meant.
            node.disk.damage_before(behind);
        })
    }

    fn may_fall_ill(&self, victim: NodeId, needed: Slot) -> bool {
        let node = &self.nodes[victim.0 as usize - 1];
        node.fate == Fate::Sound
            && node.is_member()
            && self.can_spare(victim)
            && (needed == Slot::ZERO || self.find_source(victim, needed, None).is_some())
    }

    fn fall_ill(&mut self, fault: Fault, victim: NodeId, damage: impl Fn(&mut Node)) -> Check {
        self.strike_down(fault, victim)?;
        let node = self.node(victim);
        damage(node);
        if node.is_ailing() {
            self.coverage.fault(fault);
            let ailing = |node: &&Node| node.fate == Fate::Sound && node.is_ailing();
            if self.nodes.iter().filter(ailing).count() > 1 {
                self.coverage.rare(Rare::DamageOnSeveral);
            }
        }
        Ok(())
    }

    /// At the healing: those that need a peer's state, and whose source is not among the
    /// living, get it back.
    pub(crate) fn add_sources(&mut self, living: &mut Vec<NodeId>, helpers: &[NodeId]) {
        if self.exchanges_slots() {
            return self.add_givers(living, helpers);
        }
        let lives = |id: NodeId, living: &[NodeId]| living.contains(&id) || helpers.contains(&id);
        for id in (1..=self.plan.members).map(NodeId) {
            let node = &self.nodes[id.0 as usize - 1];
            if !lives(id, living) || !node.is_ailing() {
                continue;
            }
            let behind = node.disk.behind_damage().expect("only what mends was hit");
            let needed = node.needed_of_peers(behind, false);
            let has = |node: &&Node| node.state.slot >= needed.0 && !node.is_ailing();
            let others = self.nodes.iter().filter(|node| node.id != id).filter(has);
            if needed > Slot::ZERO && !others.into_iter().any(|node| lives(node.id, living)) {
                living.extend(self.find_source(id, needed, None));
            }
        }
    }
}
