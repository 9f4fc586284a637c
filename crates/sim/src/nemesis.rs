//! What goes wrong, and when.

use std::collections::BTreeMap;

use fastrand::Rng;
use synod_host::Event;
use synod_host::timekeeper::PACE_MAX;
use synod_paxos::{Configuration, NodeId, Room};

use crate::checkers::Check;
use crate::coverage::Rare;
use crate::cut::Cut;
use crate::disk::{Disk, Tail};
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::node::{Doubt, Fate, Node, Process};
use crate::plan::Plan;
use crate::words;
use crate::world::World;

/// Clocks may jump by so much altogether in a run: with the time that it takes, less than
/// an idempotency key is remembered, so that a retry is never taken for a new request.
const JUMPS_US_MAX: u64 = 120_000_000;

/// The source of all faults.
#[derive(Debug)]
pub(crate) struct Nemesis {
    loose: bool,
    rngs: BTreeMap<Fault, Rng>,
    tails: Rng,
    pub(crate) cut: Option<Cut>,
    pub(crate) episodes: u64,
    jumped_us: u64,
    losable: usize,
    /// Every second seed that changes its members removes some too, and lets new ones vote
    /// at once. Drawn apart, so that the others stay what they were.
    pub(crate) harsher: Option<Rng>,
    /// Every change that was asked for.
    pub(crate) asked: Vec<Configuration>,
}

impl Nemesis {
    pub(crate) fn new(plan: &Plan) -> Self {
        let rngs =
            (0..).zip(Fault::ALL).map(|(number, fault)| (fault, plan.rng(0xfa_0000 + number)));
        Nemesis {
            loose: true,
            rngs: rngs.collect(),
            tails: plan.rng(0x7a11),
            cut: None,
            episodes: 0,
            jumped_us: 0,
            losable: plan.losable(),
            harsher: Some(plan.rng(0x6a4d)).filter(|_| plan.rng(0x6a4e).bool()),
            asked: Vec::new(),
        }
    }

    /// Whether faults still happen.
    pub(crate) fn is_loose(&self) -> bool {
        self.loose
    }

    pub(crate) fn rng(&mut self, fault: Fault) -> &mut Rng {
        self.rngs.get_mut(&fault).expect("every fault has one")
    }

    /// What becomes of the group that is being written when a process dies.
    pub(crate) fn draw_tail(&mut self) -> Tail {
        match self.tails.u8(..3) {
            0 => Tail::Lost,
            1 => Tail::Torn,
            _ => Tail::Whole,
        }
    }
}

impl World<'_> {
    /// Schedules the first strike of every fault that is on.
    pub(crate) fn unleash(&mut self) {
        let faults: Vec<Fault> = self.plan.faults.keys().copied().collect();
        for fault in faults {
            self.strike_later(fault);
            if fault == Fault::ClockRate {
                (1..=self.plan.members).for_each(|id| self.draw_rate(NodeId(id)));
            }
            if fault == Fault::Reordering {
                self.coverage.fault(fault);
            }
        }
    }

    fn strike_later(&mut self, fault: Fault) {
        let percent = self.plan.percent(fault);
        if let Some(every_us) = fault.every_us().filter(|_| percent > 0) {
            let mean_us = every_us * 100 / percent;
            let delay_us = self.nemesis.rng(fault).u64(mean_us / 4..mean_us * 7 / 4);
            self.at(delay_us, Happening::Nemesis { fault });
        }
    }

    /// A fault strikes.
    pub(crate) fn strike(&mut self, fault: Fault) -> Check {
        if !self.nemesis.loose {
            return Ok(());
        }
        self.strike_later(fault);
        let victim = self.draw_victim(fault);
        self.trace.note(self.now_us, [words::FAULT, fault as u64, u64::from(victim.0), 0], || {
            format!("fault: {} at {victim}", fault.name())
        });
        match fault {
            Fault::Delay
            | Fault::Loss
            | Fault::Duplication
            | Fault::Reordering
            | Fault::SlowDisk
            | Fault::SlowApply
            | Fault::ClockRate
            | Fault::SnapshotDamage => {}
            Fault::Disconnect => self.disconnect(victim),
            Fault::FalseDeath => self.tell_of_false_death(victim),
            Fault::Halves
            | Fault::OneWay
            | Fault::Bridge
            | Fault::Chain
            | Fault::Ring
            | Fault::Flapping => self.begin_cut(fault, victim),
            Fault::Clogging => self.clog(victim),
            Fault::Crash => self.kill(fault, victim)?,
            Fault::CrashInStep => self.kill_in_step(victim),
            Fault::CrashAll => {
                for id in 1..=self.plan.members {
                    self.kill(fault, NodeId(id))?;
                }
            }
            Fault::Destroyed | Fault::Wiped => self.destroy(fault, victim)?,
            Fault::Pause => self.pause(victim),
            Fault::DiskStall => {
                let hangs_us = self.nemesis.rng(fault).u64(100_000..3_000_000);
                self.coverage.fault(fault);
                let until_us = self.now_us + hangs_us;
                self.node(victim).disk.hangs_until_us = until_us;
            }
            Fault::SyncError => {
                self.coverage.fault(fault);
                self.node(victim).disk.sync_fails = true;
            }
            Fault::DiskFull => {
                self.coverage.fault(fault);
                self.node(victim).disk.full = true;
                let freed_us = self.nemesis.rng(fault).u64(200_000..5_000_000);
                self.at(freed_us, Happening::DiskFreed { node: victim });
            }
            Fault::BitFlip | Fault::LostWrite | Fault::MisdirectedWrite => {
                self.damage(fault, victim)?;
            }
            Fault::Drift => self.drift(victim),
            Fault::OldCopy => self.copy_folder(victim)?,
            Fault::StateDamage => self.damage_states(victim)?,
            Fault::ClockJump => self.jump(victim),
            Fault::HandOver => {
                self.coverage.fault(fault);
                self.hear(victim, Event::HandOver { to: None })?;
            }
            Fault::Membership => self.change_members(victim)?,
            Fault::Upgrade => self.change_release(victim)?,
            Fault::LostSlots => self.lose_slots()?,
            Fault::Backup => self.ask_for_backup(victim)?,
            Fault::DamageWhileAway => self.damage_while_away(victim)?,
            Fault::Recovery => self.recover_now_and_then(victim)?,
        }
        Ok(())
    }

    /// Any node, and often the leader: that is where it hurts.
    fn draw_victim(&mut self, fault: Fault) -> NodeId {
        let members = self.plan.members;
        let leads = |node: &&Node| {
            node.is_running() && node.process.as_ref().is_some_and(|process| process.leads)
        };
        let leader = self.nodes.iter().find(leads).map(|node| node.id);
        let rng = self.nemesis.rng(fault);
        let any = NodeId(rng.u32(1..=members));
        let prefers_leader = matches!(fault, Fault::HandOver | Fault::Membership) || rng.bool();
        leader.filter(|_| prefers_leader).unwrap_or(any)
    }

    fn another(&mut self, fault: Fault, than: NodeId) -> NodeId {
        let members = self.plan.members;
        let step = self.nemesis.rng(fault).u32(1..members);
        NodeId((than.0 - 1 + step) % members + 1)
    }

    fn disconnect(&mut self, victim: NodeId) {
        let other = self.another(Fault::Disconnect, victim);
        self.coverage.fault(Fault::Disconnect);
        self.network.disconnect(victim, other);
        let dials_us = self.nemesis.rng(Fault::Disconnect).u64(100..50_000);
        self.at(dials_us, Happening::Connected { one: victim, other });
    }

    fn tell_of_false_death(&mut self, victim: NodeId) {
        let fault = Fault::FalseDeath;
        self.coverage.fault(fault);
        for peer in 1..=self.plan.members {
            if NodeId(peer) != victim && self.nemesis.rng(fault).bool() {
                let delay_us = self.nemesis.rng(fault).u64(100..20_000);
                self.at(delay_us, Happening::PeerDied { node: NodeId(peer), peer: victim });
            }
        }
    }

    fn clog(&mut self, victim: NodeId) {
        let fault = Fault::Clogging;
        self.coverage.fault(fault);
        let other = self.another(fault, victim);
        let until_us = self.now_us + self.nemesis.rng(fault).u64(100_000..2_000_000);
        self.network.clog(victim, other, until_us);
        if self.nemesis.rng(fault).bool() {
            self.network.clog(other, victim, until_us);
        }
    }

    pub(crate) fn kill(&mut self, fault: Fault, victim: NodeId) -> Check {
        if self.node(victim).process.is_some() {
            self.coverage.fault(fault);
        }
        self.strike_down(fault, victim)
    }

    /// Kills a process as a part of another fault.
    pub(crate) fn strike_down(&mut self, fault: Fault, victim: NodeId) -> Check {
        if self.node(victim).process.is_some() {
            let tail = self.nemesis.draw_tail();
            self.crash(victim, tail)?;
            let down_us = self.draw_down(fault);
            self.at(down_us, Happening::Start { node: victim });
        }
        Ok(())
    }

    fn draw_down(&mut self, fault: Fault) -> u64 {
        let rng = self.nemesis.rng(fault);
        if rng.bool() { rng.u64(1_000..50_000) } else { rng.u64(50_000..6_000_000) }
    }

    /// It dies in the middle of a step, whenever that comes, and is counted then: a
    /// node that is paused now may step for the next time in seconds.
    fn kill_in_step(&mut self, victim: NodeId) {
        let fault = Fault::CrashInStep;
        let actions = self.nemesis.rng(fault).usize(..6);
        if let Some(process) = self.node(victim).process.as_mut() {
            process.dies_after = Some(actions);
        }
    }

    /// Whether this node may be lost for good, too.
    pub(crate) fn may_lose(&self, victim: NodeId) -> bool {
        let is_lost = |node: &&Node| !matches!(node.fate, Fate::Sound | Fate::Waits);
        let lost = self.nodes.iter().filter(is_lost).count();
        let is_ill = self.nodes[victim.0 as usize - 1].is_ailing();
        lost < self.nemesis.losable && !is_ill && self.can_spare(victim)
    }

    fn destroy(&mut self, fault: Fault, victim: NodeId) -> Check {
        if self.node(victim).fate == Fate::Sound && !self.may_lose(victim) {
            return Ok(());
        }
        if matches!(self.node(victim).fate, Fate::Lost | Fate::Waits | Fate::Left) {
            return Ok(());
        }
        self.coverage.fault(fault);
        let tail = self.nemesis.draw_tail();
        self.crash(victim, tail)?;
        let segment_groups = self.plan.sizes.segment_groups;
        let store_id = self.nemesis.rng(fault).u64(1..);
        let down_us = self.draw_down(fault);
        let node = self.node(victim);
        node.fate = Fate::Lost;
        if fault == Fault::Wiped {
            // Somebody makes a new data folder under the old name.
            node.disk = Disk::new(segment_groups);
            node.state = crate::store::Durable::default();
            (node.doubt, node.is_rebuilding, node.waiting) = (Doubt::None, false, None);
            node.drift = Drift::None;
            node.store_id = store_id;
            node.incarnation = 0;
            self.at(down_us, Happening::Start { node: victim });
        }
        Ok(())
    }

    fn pause(&mut self, victim: NodeId) {
        let fault = Fault::Pause;
        let pause_us = self.nemesis.rng(fault).u64(10_000..4_000_000);
        let node = self.node(victim);
        let life = node.life;
        if let Some(process) = node.process.as_mut().filter(|process| !process.paused) {
            process.paused = true;
            self.coverage.fault(fault);
            self.at(pause_us, Happening::Resume { node: victim, life });
        }
    }

    /// Something that was synced is not as it was written. The node may run on for a
    /// while; now and then it is started again and finds out.
    fn damage(&mut self, fault: Fault, victim: NodeId) -> Check {
        let may_lose = self.node(victim).fate != Fate::Sound || self.may_lose(victim);
        let rng = self.nemesis.rng(fault);
        // What is new is read most, by those who lag a little.
        let share = if rng.bool() { rng.usize(..1_000) } else { rng.usize(900..1_000) };
        if !may_lose {
            return self.damage_mendable(fault, victim, share);
        }
        let node = self.node(victim);
        if matches!(node.fate, Fate::Lost | Fate::Waits | Fate::Left) || !node.disk.damage(share) {
            return Ok(());
        }
        // Of two groups that follow each other and are lost nothing repeats the first one's headers.
        if share % 2 == 1 {
            node.disk.damage_next(share);
        }
        node.fate = Fate::Damaged;
        self.coverage.fault(fault);
        if self.nemesis.rng(fault).u8(..4) > 0 {
            self.coverage.rare(Rare::DamageFoundLater);
            return Ok(());
        }
        self.kill(fault, victim)
    }

    fn jump(&mut self, victim: NodeId) {
        let fault = Fault::ClockJump;
        let forward_us = self.nemesis.rng(fault).u64(1_000..20_000_000);
        if self.nemesis.jumped_us + forward_us <= JUMPS_US_MAX {
            self.nemesis.jumped_us += forward_us;
            self.coverage.fault(fault);
            self.node(victim).clock.jump(forward_us);
            // Whoever keeps the time of leases believes in so much of it.
            let believed_us = u64::try_from(PACE_MAX.as_micros()).expect("milliseconds");
            self.checks.leases.leapt(believed_us.min(forward_us));
            let life = self.node(victim).life;
            self.at(0, Happening::Wake { node: victim, life });
        }
    }

    fn draw_rate(&mut self, id: NodeId) {
        let fault = Fault::ClockRate;
        let (now_us, most) =
            (self.now_us, 10 + self.plan.faults.get(&fault).map_or(0, |p| u64::from(*p) * 10));
        let rng = self.nemesis.rng(fault);
        let faster = 1_000 + rng.u64(..most);
        let rate_permille =
            if rng.bool() { faster.min(2_000) } else { 1_000_000 / faster.min(2_000) };
        self.coverage.fault(fault);
        self.node(id).clock.set_rate(now_us, rate_permille);
    }

    /// The end of all faults: one quorum of nodes is brought back and its network is
    /// good; the others stay dead. Returns those that must answer.
    pub(crate) fn heal(&mut self) -> Result<Vec<NodeId>, crate::checkers::Violation> {
        self.nemesis.loose = false;
        self.nemesis.cut = None;
        self.network.heal();
        let newest = &self.checks.agreement.configurations().newest().configuration;
        let is_sound = |node: &&Node| node.fate == Fate::Sound && newest.contains(node.id);
        let mut living: Vec<NodeId> = self.nodes.iter().filter(is_sound).map(|n| n.id).collect();
        self.rng.shuffle(&mut living);
        let mut helpers = Vec::new();
        if self.plan.strength(Fault::Membership) == 0.0 {
            if !self.squeeze.spares_nodes() {
                living.truncate(self.plan.promise_quorum.max(self.plan.accept_quorum));
            }
        } else {
            helpers = self.leave_voters(&mut living);
        }
        self.add_sources(&mut living, &helpers);
        living.sort_unstable();
        self.trace.note(self.now_us, [words::HEALED, living.len() as u64, 0, 0], || {
            format!("healed: {living:?} live, {helpers:?} help, the others stay dead")
        });
        self.finish_upgrade();
        for id in (1..=self.plan.members).map(NodeId) {
            // It must still find out.
            let is_watched = self.finds_out(id, &living);
            if living.contains(&id) || helpers.contains(&id) || is_watched {
                self.wake_waiting(id);
                self.heal_node(id)?;
            } else {
                let tail = self.nemesis.draw_tail();
                self.crash(id, tail)?;
                self.node(id).fate = Fate::Left;
            }
        }
        Ok(living)
    }

    fn heal_node(&mut self, id: NodeId) -> Check {
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        node.clock.set_rate(now_us, 1_000);
        node.disk.full = false;
        node.disk.sync_fails = false;
        node.disk.hangs_until_us = 0;
        if node.process.is_some() && node.is_ailing() {
            // Nobody would look for it before somebody needs it.
            let tail = self.nemesis.draw_tail();
            self.crash(id, tail)?;
            self.node(id).doubt = Doubt::Suspect;
            return self.start(id);
        }
        let is_outdated = |process: &Process| process.release.newest < node.release.newest;
        if node.process.as_ref().is_some_and(is_outdated) {
            let tail = self.nemesis.draw_tail();
            self.crash(id, tail)?;
            return self.start(id);
        }
        if let Some(process) = &mut node.process {
            process.dies_after = None;
            let life = node.life;
            if process.paused {
                process.resume(now_us, &mut self.schedule);
            }
            // Whatever its clock said before, it is due to be looked at.
            process.is_woken = true;
            process.tick_us = 0;
            self.at(0, Happening::Wake { node: id, life });
            return self.hear(id, Event::Room(Room::Enough));
        }
        self.start(id)
    }
}
