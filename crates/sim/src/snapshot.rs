//! Snapshots on their way from one node to another, and how one is installed.
//!
//! A node that is asked takes a checkpoint of its state and keeps it for a while. The
//! one that asks pulls it part by part; a break in between costs a pause, and the
//! death of the source ends it. What is complete waits in the queue of the state
//! machine for its turn. Then the durable state is switched, with a mark; the host
//! hears of it and has the journal start after the snapshot; when that is durable the
//! mark goes. The process may die before, after and between any two of these.

use std::rc::Rc;

use synod_host::{Applied, Event, Refusal, Waiter};
use synod_kv::{MemoryMap, State};
use synod_paxos::{Ballot, NodeId, Position, Record, Recovered, Slot, Value};

use crate::checkers::{Check, Checker, Violation, demand};
use crate::coverage::Rare;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::happening::Happening;
use crate::lifecycle::read_configurations;
use crate::mistakes::Mistake;
use crate::node::Node;
use crate::store::{Damage, Store, Unflushed, change};
use crate::words;
use crate::world::World;

/// Parts of a small snapshot and of a large one at the most.
const PARTS_MAX: [u32; 2] = [3, 30];
/// A transfer that breaks more often is given up.
const BREAKS_MAX: u32 = 4;

/// The state after a slot.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) slot: u64,
    pub(crate) map: Rc<MemoryMap>,
    /// What of it is not as it was written: each block and each file has a checksum.
    pub(crate) damage: Damage,
}

/// A snapshot on its way to the node that asked for it.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    from: NodeId,
    above: Slot,
    breaks: u32,
    /// Once the source has said what it sends: in which of its lives, what, and how many
    /// parts are still missing.
    opened: Option<(u64, Checkpoint, u32)>,
}

/// What a state machine has to do.
#[derive(Debug)]
pub(crate) enum Task {
    /// Apply these values.
    Apply { first: Slot, values: Vec<Value>, waiters: Vec<Waiter> },
    /// Switch to the snapshot that came from this node.
    Install(Checkpoint, NodeId),
}

impl Node {
    /// The map of a process that begins, or goes on from another state.
    pub(crate) fn open_store(&self) -> (Store, Unflushed) {
        Store::new(&self.state, self.mistake == Some(Mistake::DamageServed))
    }

    /// What the disk gives back, and whether it had to be told of a snapshot that the
    /// state had switched to.
    pub(crate) fn recover(&mut self) -> (Recovered, bool) {
        let mut recovered = self.disk.recover(self.mistake);
        let is_mended = std::mem::take(&mut self.is_mended);
        if is_mended && self.mistake == Some(Mistake::MendForgetsPromise) {
            recovered.promised = Ballot::ZERO;
        }
        let installed = self.state.installed.take();
        let record = installed.and_then(|slot| recovered.start_after(slot));
        let made_up = record.is_some();
        if let Some(record) = record {
            self.write_down(recovered.position, record);
        }
        (recovered, made_up)
    }

    /// A start writes a record, before anything else is done.
    pub(crate) fn write_down(&mut self, position: Position, record: Record) {
        self.disk.append(position, vec![record]);
        self.disk.begin_group();
        self.disk.finish_group();
    }
}

impl World<'_> {
    /// A host wants the state of a peer.
    pub(crate) fn fetch_snapshot(&mut self, id: NodeId, from: NodeId, above: Slot) -> Check {
        let process = self.node(id).process.as_mut().expect("it steps");
        demand(process.transfer.is_none() && from != id, Checker::Assertion, || {
            format!("{id} asks {from} for a snapshot while it waits for one")
        })?;
        process.transfer = Some(Transfer { from, above, breaks: 0, opened: None });
        self.trace.note(
            self.now_us,
            [words::FETCHES, u64::from(id.0), u64::from(from.0), above.0],
            || format!("{id} asks {from} for a snapshot above slot {above}"),
        );
        self.transfer_later(id, 0);
        Ok(())
    }

    /// The next question and its answer take their way through the network.
    fn transfer_later(&mut self, id: NodeId, pause_us: u64) {
        let life = self.node(id).life;
        let way_us = self.rng.u64(40..2 * self.plan.pace.delay_us_max.max(21));
        self.at(pause_us + way_us, Happening::Transfer { node: id, life });
    }

    fn talks(&mut self, one: NodeId, other: NodeId) -> Result<bool, Violation> {
        let cut = self.network.is_cut(one, other) || self.network.is_cut(other, one);
        let both = [one, other].into_iter().all(|id| self.node(id).is_running());
        let parted = self.node(other).drift == Drift::Parted;
        Ok(both && !cut && !parted && self.shake_hands(one, other)?)
    }

    /// The source answers a question of the receiver, or nobody does.
    pub(crate) fn transfer(&mut self, id: NodeId) -> Check {
        let process = self.node(id).process.as_ref().expect("checked by the caller");
        let Some(mut transfer) = process.transfer.clone() else { return Ok(()) };
        let own_life = self.node(id).life;
        let from = transfer.from;
        let breaks = self.nemesis.is_loose() && self.rng.u8(..12) == 0;
        if breaks || !self.talks(id, from)? {
            transfer.breaks += 1;
            if transfer.breaks > BREAKS_MAX {
                return self.give_up_snapshot(id, from);
            }
            if transfer.opened.is_some() {
                self.coverage.rare(Rare::SnapshotResumed);
            }
            let pause_us = self.rng.u64(20_000..200_000);
            self.transfer_later(id, pause_us);
            return self.go_on(id, transfer);
        }
        if transfer.opened.is_some() && self.crashes() && self.rng.u8(..40) == 0 {
            self.crash_soon_back(from, 200_000)?;
            self.transfer_later(id, 300_000);
            return self.go_on(id, transfer);
        }
        let life = self.node(from).life;
        let sent = match &mut transfer.opened {
            None => {
                let checkpoint = self.take_checkpoint(from, transfer.above);
                let parts_max = PARTS_MAX[self.rng.usize(..2)];
                let parts = self.rng.u32(1..=parts_max);
                let slot = checkpoint.slot;
                transfer.opened = Some((life, checkpoint, parts));
                slot
            }
            Some((opened_in, ..)) if *opened_in != life => {
                self.coverage.rare(Rare::SnapshotSourceGone);
                return self.give_up_snapshot(id, from);
            }
            Some((_, checkpoint, 1)) => {
                let task = Task::Install(checkpoint.clone(), from);
                let process = self.node(id).process.as_mut().expect("it is there");
                process.apply_queue.push_back(task);
                if process.apply_queue.len() == 1 {
                    let checks_us = self.rng.u64(0..300_000);
                    self.at(checks_us, Happening::Apply { node: id, life: own_life });
                }
                return Ok(());
            }
            Some((_, checkpoint, parts)) => {
                *parts -= 1;
                checkpoint.slot
            }
        };
        self.transfer_later(id, 0);
        self.go_on(id, transfer)?;
        self.hear(from, Event::SnapshotSent { slot: Slot(sent) })
    }

    fn go_on(&mut self, id: NodeId, transfer: Transfer) -> Check {
        self.node(id).process.as_mut().expect("it is there").transfer = Some(transfer);
        Ok(())
    }

    fn give_up_snapshot(&mut self, id: NodeId, from: NodeId) -> Check {
        self.coverage.rare(Rare::SnapshotFailed);
        self.node(id).process.as_mut().expect("it is there").transfer = None;
        self.hear(id, Event::SnapshotFailed { from })
    }

    /// The snapshot that a node gives to another: what it kept, if that is of use, or a
    /// new one.
    pub(crate) fn take_checkpoint(&mut self, id: NodeId, above: Slot) -> Checkpoint {
        let (reuses, now_us) = (self.rng.bool(), self.now_us);
        let (damage_at, is_loose) = (self.draw_snapshot_damage(), self.nemesis.is_loose());
        let node = self.node(id);
        let (now, mistake) = (node.clock.read(now_us), node.mistake);
        let process = node.process.as_mut().expect("it talks");
        let truncated_upto = process.host.status(now).truncated_upto;
        let is_of_use = |kept: &Checkpoint| {
            // One that was damaged while it was kept goes some time.
            kept.slot > above.0
                && kept.slot >= truncated_upto.0
                && (is_loose || kept.damage.is_empty())
        };
        let (slot, map) = (process.machine.applied_slot(), process.machine.map());
        let mut kept = process.kept.take().filter(|kept| reuses && is_of_use(kept));
        if let Some(kept) =
            kept.as_mut().filter(|_| mistake == Some(Mistake::SnapshotOfEarlierSlot))
        {
            kept.slot = slot;
        }
        let mut checkpoint = kept.unwrap_or_else(|| {
            let (map, damage) = map.checkpoint();
            Checkpoint { slot, map: Rc::new(map), damage }
        });
        if let Some(share) = damage_at {
            checkpoint.damage.extend(change(Rc::make_mut(&mut checkpoint.map), share));
        }
        process.kept = Some(checkpoint.clone());
        checkpoint
    }

    /// The state machine's turn to switch has come.
    pub(crate) fn install(&mut self, id: NodeId, checkpoint: &Checkpoint, from: NodeId) -> Check {
        let slot = checkpoint.slot;
        let process = self.node(id).process.as_mut().expect("checked by the caller");
        if !process.machine.wants(slot) {
            self.coverage.rare(Rare::SnapshotTooOld);
            return self.give_up_snapshot(id, from);
        }
        if !self.is_whole(id, checkpoint) {
            return self.give_up_snapshot(id, from);
        }
        self.node(id).process.as_mut().expect("it is there").transfer = None;
        self.check_snapshot(id, checkpoint)?;
        let fate = if self.crashes() { self.rng.u8(..6) } else { u8::MAX };
        if fate == 0 {
            self.coverage.rare(Rare::CrashBeforeSwitch);
            return self.crash_soon_back(id, 1_000_000);
        }
        self.note_installation(id, slot, from);
        self.node(id).state.switch(&checkpoint.map, slot);
        if fate == 1 {
            return self.crash_soon_back(id, 1_000_000);
        }
        self.switch(id)?;
        let actions = self.rng.usize(..6);
        if fate <= 3
            && let Some(process) = self.node(id).process.as_mut()
        {
            process.dies_after = Some(actions);
            self.at(2_000_000, Happening::Start { node: id });
        }
        let node = &self.nodes[id.0 as usize - 1];
        let Some(process) = node.process.as_ref() else { return Ok(()) };
        let applied = process.applied.clone();
        let configurations = read_configurations(id, &process.machine, &self.first)?;
        self.checks.agreement.knows(id, applied.upto, &configurations)?;
        let known = process.host.configurations().newest().configuration.number();
        if configurations.newest().configuration.number() > known {
            self.coverage.rare(Rare::SnapshotBringsChange);
        }
        self.hear(id, Event::Installed { applied, configurations })
    }

    /// Where a snapshot is to be damaged, at its source or on its way, if it is.
    fn draw_snapshot_damage(&mut self) -> Option<usize> {
        let fault = Fault::SnapshotDamage;
        let strength = self.plan.strength(fault);
        if strength == 0.0 || !self.nemesis.is_loose() {
            return None;
        }
        let rng = self.nemesis.rng(fault);
        let share = (rng.f64() < strength * 0.5).then(|| rng.usize(..1_000))?;
        self.coverage.fault(fault);
        Some(share)
    }

    /// The receiver's check, of every file and of every block.
    pub(crate) fn is_whole(&mut self, id: NodeId, checkpoint: &Checkpoint) -> bool {
        let mistake = self.node(id).mistake;
        let state = State::load(&*checkpoint.map).expect("our own record");
        let fits = state.applied_slot == checkpoint.slot;
        let is_whole = (checkpoint.damage.is_empty()
            || mistake == Some(Mistake::SnapshotUnchecked))
            && (fits || mistake == Some(Mistake::SnapshotOfEarlierSlot));
        if !is_whole {
            self.coverage.rare(Rare::SnapshotDamaged);
        }
        is_whole
    }

    /// What must hold of every state that takes another one's place.
    pub(crate) fn check_snapshot(&self, id: NodeId, checkpoint: &Checkpoint) -> Check {
        let slot = checkpoint.slot;
        demand(self.checks.agreement.chosen(Slot(slot)).is_some(), Checker::Agreement, || {
            format!("{id} installs a snapshot of slot {slot}, where nothing is chosen")
        })?;
        demand(checkpoint.damage.is_empty(), Checker::Durability, || {
            format!("{id} installs a snapshot of slot {slot} that is not as it was written")
        })
    }

    fn note_installation(&mut self, id: NodeId, slot: u64, from: NodeId) {
        self.coverage.rare(Rare::SnapshotInstalled);
        let node = self.node(id);
        if node.joined_in.is_some() && node.state.slot == 0 {
            self.coverage.rare(Rare::JoinedBySnapshot);
        }
        self.trace.note(self.now_us, [words::SWITCHES, u64::from(id.0), slot, 0], || {
            format!("{id} switches to a snapshot of slot {slot} from {from}")
        });
        let disk = &self.node(id).disk;
        let beaten = disk.has_accepted_in(Slot(1)..=Slot(slot));
        let kept = disk.has_accepted_in(Slot(slot + 1)..=Slot(u64::MAX));
        if beaten {
            self.coverage.rare(Rare::SnapshotBeatsAcceptance);
        }
        if kept {
            self.coverage.rare(Rare::SnapshotKeepsAcceptance);
        }
        let leads = self.node(from).process.as_ref().is_some_and(|process| process.leads);
        self.coverage.rare(match leads {
            true => Rare::SnapshotFromLeader,
            false => Rare::SnapshotFromFollower,
        });
    }

    /// The running state machine goes on from the durable state.
    fn switch(&mut self, id: NodeId) -> Check {
        let node = &mut self.nodes[id.0 as usize - 1];
        let life = node.life;
        let (store, unflushed) = node.open_store();
        let process = node.process.as_mut().expect("it lives");
        process.machine.replace(store).expect("memory does not fail");
        process.unflushed = unflushed;
        let machine = &process.machine;
        let (slot, hash) = (machine.applied_slot(), machine.state_hash());
        let last = machine.origin_sequence(id.0).filter(|(incarnation, _)| *incarnation == life);
        process.installed = Slot(slot);
        process.applied = Applied {
            upto: Slot(slot),
            durable: Slot(slot),
            cluster_time_ms: machine.cluster_time_ms(),
            own_sequence: last.map_or(0, |(_, sequence)| sequence),
            tick_ms: machine.tick_ms(),
            own_gap: false,
            state: (Slot(slot), hash),
        };
        // Whatever it was before, it is what the others are now.
        node.drift = Drift::None;
        self.checks.state_hash.applied(id, slot, hash)?;
        self.note_replaced(id);
        self.tell_skipped(id)
    }

    /// Whoever waits for a command that a snapshot brought will not hear its outcome.
    pub(crate) fn tell_skipped(&mut self, id: NodeId) -> Check {
        let process = self.node(id).process.as_mut().expect("it lives");
        let taken = process.applied.own_sequence;
        let mut skipped = Vec::new();
        while let Some(waiter) = process.waiters.pop_front_if(|w| w.sequence <= taken) {
            skipped.push(waiter.request);
        }
        skipped.into_iter().try_for_each(|request| self.refused(id, request, Refusal::Unknown))
    }

    /// Whether processes die in this run, now.
    fn crashes(&self) -> bool {
        let crashes = [Fault::Crash, Fault::CrashInStep, Fault::CrashAll];
        self.nemesis.is_loose() && crashes.iter().any(|fault| self.plan.percent(*fault) > 0)
    }

    fn crash_soon_back(&mut self, id: NodeId, down_us_max: u64) -> Check {
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        let down_us = self.rng.u64(1_000..down_us_max);
        self.at(down_us, Happening::Start { node: id });
        Ok(())
    }
}
