//! What a node's host wants done, and how the world does it.

use synod_host::{Action, Applied, Event};
use synod_kv::Taken;
use synod_paxos::{NodeId, Position, Record, RecordBody, Room, Slot, Value};
use synod_wire::PeerMessage;

use crate::checkers::{Check, Checker, demand};
use crate::coverage::Rare;
use crate::drift::Drift;
use crate::fault::Fault;
use crate::guests::is_of_guest;
use crate::happening::Happening;
use crate::history::Answer;
use crate::mistakes::Mistake;
use crate::network::Fate as Sent;
use crate::node::{Backed, Doubt, Unfit, apply_value};
use crate::releases::has_newer_form;
use crate::snapshot::Task;
use crate::words;
use crate::world::World;

impl World<'_> {
    /// Carries one action of a step out.
    pub(crate) fn carry_out(&mut self, id: NodeId, action: Action) -> Check {
        let life = self.node(id).life;
        match action {
            Action::Persist { upto, records } => self.persist(id, upto, records)?,
            Action::Send { to, message, .. } => self.send(id, to, message)?,
            Action::Apply { first, values, waiters } => {
                for (slot, value) in (first.0..).map(Slot).zip(&values) {
                    self.checks.agreement.learnt(id, slot, value)?;
                }
                let process = self.node(id).process.as_mut().expect("it steps");
                process.apply_queue.push_back(Task::Apply { first, values, waiters });
                if process.apply_queue.len() == 1 {
                    self.apply_later(id);
                }
            }
            Action::FetchSnapshot { from, above } => self.fetch_snapshot(id, from, above)?,
            Action::Load(load) => match self.node(id).disk.load(&load) {
                Ok(values) => {
                    self.coverage.rare(Rare::CatchUpFromJournal);
                    let event = Event::Loaded { load, values };
                    let delay_us = self.rng.u64(50..500);
                    self.at(delay_us, Happening::Hear { node: id, life, event });
                }
                Err(damaged) => {
                    self.coverage.rare(Rare::DamageRead);
                    self.stop_by_disk(id, &format!("{damaged:?}"))?;
                }
            },
            Action::Truncate(upto) => self.truncate(id, upto)?,
            Action::ReadReady { request } => self.read_ready(id, request)?,
            Action::Refuse { request, refusal } => self.refused(id, request, refusal)?,
            // Every node hears every other, whatever they are to each other.
            Action::TalkTo(configurations) => {
                let process = self.node(id).process.as_mut().expect("it steps");
                process.talk_to(id, &configurations);
            }
            Action::ChangeAnswered { outcome, .. } => {
                if outcome.is_err() {
                    self.coverage.rare(Rare::ChangeRefused);
                }
            }
        }
        Ok(())
    }

    fn persist(&mut self, id: NodeId, upto: Position, records: Vec<Record>) -> Check {
        if self.node(id).is_member() {
            for record in &records {
                self.checks.promises.recorded(id, record)?;
                if let RecordBody::Chosen { slot, value } = &record.body {
                    self.checks.agreement.learnt(id, *slot, value)?;
                }
            }
        }
        self.node(id).disk.append(upto, records);
        self.begin_sync(id)
    }

    /// Schedules the end of what the state machine is at.
    pub(crate) fn apply_later(&mut self, id: NodeId) {
        let slow =
            if self.nemesis.is_loose() { self.plan.percent(Fault::SlowApply) / 5 } else { 0 };
        if slow > 0 {
            self.coverage.fault(Fault::SlowApply);
        }
        let took_us = self.rng.u64(10..self.plan.pace.apply_us_max.max(11)) * (1 + slow);
        let life = self.node(id).life;
        self.at(took_us, Happening::Apply { node: id, life });
    }

    fn truncate(&mut self, id: NodeId, upto: Slot) -> Check {
        let durable = self.node(id).state.slot;
        demand(upto.0 <= durable, Checker::Durability, || {
            format!("{id} drops its journal up to slot {upto}; its state is durable to {durable}")
        })?;
        let disk = &mut self.node(id).disk;
        let (damaged, before) = (disk.damaged_groups, disk.durably_truncated_upto());
        disk.truncate(upto);
        let (dropped, truncated) =
            (damaged > disk.damaged_groups, before < disk.durably_truncated_upto());
        if dropped {
            self.coverage.rare(Rare::DamageDropped);
        }
        if truncated {
            self.coverage.rare(Rare::Truncated);
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, message: PeerMessage) -> Check {
        demand(from != to, Checker::Assertion, || format!("{from} sends to itself"))?;
        let node = &self.nodes[from.0 as usize - 1];
        if let PeerMessage::Paxos(message) = &message {
            self.checks.memory.sent(from, message)?;
            if node.is_member() {
                let (disk, agreement) = (&node.disk, &self.checks.agreement);
                self.checks.promises.sent(from, message, &Backed { disk, agreement })?;
            }
        }
        words::note_rare(&message, &mut self.coverage);
        if !self.shake_hands(from, to)? {
            return Ok(());
        }
        let fate = self.network.send(from, to, self.now_us);
        let (first_us, second_us) = match fate {
            Sent::Lost(fault) => {
                if let Some(fault) = fault {
                    self.coverage.fault(fault);
                }
                return Ok(());
            }
            Sent::Arrives { first_us, second_us, delayed } => {
                if delayed {
                    self.coverage.fault(Fault::Delay);
                }
                (first_us, second_us)
            }
        };
        let parcel = self.pack(from, to, message);
        let connection = self.network.connection(from, to);
        if let Some(at_us) = second_us {
            self.coverage.fault(Fault::Duplication);
            let parcel = parcel.clone();
            self.schedule.at(at_us, Happening::Deliver { from, to, connection, parcel });
        }
        self.schedule.at(first_us, Happening::Deliver { from, to, connection, parcel });
        Ok(())
    }

    /// Writes the next group, unless one is being written.
    pub(crate) fn begin_sync(&mut self, id: NodeId) -> Check {
        let (now_us, loose) = (self.now_us, self.nemesis.is_loose());
        let strength = if loose { self.plan.strength(Fault::SlowDisk) } else { 0.0 };
        let mut took_us = self.rng.u64(20..self.plan.pace.sync_us_max.max(21));
        if strength > 0.0 && self.rng.f64() < strength {
            self.coverage.fault(Fault::SlowDisk);
            took_us += self.rng.u64(1_000..300_000);
        }
        let node = self.node(id);
        let life = node.life;
        if node.disk.full && node.process.is_some() {
            return self.stop_by_disk(id, "the disk is full");
        }
        if node.disk.begin_group() {
            let at_us = (now_us + took_us).max(node.disk.hangs_until_us);
            self.schedule.at(at_us, Happening::Synced { node: id, life });
        }
        Ok(())
    }

    pub(crate) fn synced(&mut self, id: NodeId, life: u64) -> Check {
        let node = &mut self.nodes[id.0 as usize - 1];
        if node.process(life).is_none() || !node.disk.is_writing() {
            return Ok(());
        }
        if std::mem::take(&mut node.disk.sync_fails) {
            return self.stop_by_disk(id, "a sync failed");
        }
        let is_member = node.is_member();
        let is_telling = self.recoveries.wait_for_telling() && node.disk.is_telling();
        let records = node.disk.finish_group();
        let upto = records.last().expect("a group has records").0;
        let starts = records.iter().filter_map(|(_, record)| match record.body {
            RecordBody::StartAfter { slot } => Some(slot),
            _ => None,
        });
        // Sometimes the process dies before it takes the mark away.
        let is_marked = node.state.installed.is_some();
        if is_marked && starts.max() >= node.state.installed && self.rng.bool() {
            node.state.installed = None;
        }
        if is_member {
            for (_, record) in records {
                if let RecordBody::Accepted { slot, ballot, value } = &record.body {
                    self.checks.agreement.accepted(id, *slot, *ballot, value)?;
                }
            }
        }
        let segments = node.disk.take_filled();
        self.begin_sync(id)?;
        if is_telling {
            self.recover_where_it_tells(id)?;
        }
        for segment in segments {
            self.hear(id, Event::Segment(segment))?;
        }
        self.hear(id, Event::Persisted(upto))
    }

    pub(crate) fn stop_by_disk(&mut self, id: NodeId, why: &str) -> Check {
        self.coverage.rare(Rare::StoppedByDisk);
        self.trace.note(self.now_us, [words::STOPS, u64::from(id.0), 0, 0], || {
            format!("{id} stops: {why}")
        });
        let tail = self.nemesis.draw_tail();
        self.crash(id, tail)?;
        let delay_us = self.rng.u64(100_000..2_000_000);
        self.at(delay_us, Happening::Start { node: id });
        Ok(())
    }

    /// The state machine has got through what it was at.
    pub(crate) fn apply(&mut self, id: NodeId) -> Check {
        let node = &mut self.nodes[id.0 as usize - 1];
        let life = node.life;
        let process = node.process.as_mut().expect("checked by the caller");
        let task = process.apply_queue.pop_front().expect("it was at it");
        if !process.apply_queue.is_empty() {
            self.apply_later(id); // What comes in from now on finds an empty queue, or waits.
        }
        let process = self.node(id).process(life).expect("checked by the caller");
        match task {
            Task::Apply { first, values, waiters } => {
                process.waiters.extend(waiters);
                self.tell_skipped(id)?;
                self.apply_values(id, first, &values)
            }
            Task::Install(checkpoint, from) => self.install(id, &checkpoint, from),
        }
    }

    fn apply_values(&mut self, id: NodeId, first: Slot, values: &[Value]) -> Check {
        let now_us = self.now_us;
        let node = &mut self.nodes[id.0 as usize - 1];
        let life = node.life;
        let process = node.process.as_mut().expect("checked by the caller");
        let mut answers = Vec::new();
        let mut own_gap = false;
        for (slot, value) in (first.0..).zip(values) {
            if slot <= process.machine.applied_slot() && slot <= process.installed.0 {
                self.coverage.rare(Rare::SkippedBySnapshot);
                continue; // It was handed out before the host heard of the snapshot.
            }
            let reader = (process.release.newest, node.mistake);
            let machine = &mut process.machine;
            let commands = apply_value(machine, &self.first, slot, value, &mut node.drift, reader);
            let commands = match commands {
                Ok(commands) => commands,
                Err(unfit) => return self.stop_unfit(id, unfit),
            };
            if has_newer_form(value) {
                self.coverage.rare(Rare::NewerBatchApplied);
            }
            for took in commands {
                if self.guests.applied(id, &process.machine, &took).is_err() {
                    return self.stop_unfit(id, Unfit::Damaged);
                }
                let own = took.id.origin == id.0 && took.id.incarnation == life;
                match took.taken {
                    Taken::Applied { outcome, .. } => {
                        self.checks.taken(took.id, slot, &took.command, &outcome, now_us)?;
                        if own {
                            process.applied.own_sequence = took.id.sequence;
                            let waiter = process.waiters.pop_front();
                            let fits = waiter.is_some_and(|w| w.sequence == took.id.sequence);
                            demand(fits, Checker::ExactlyOnce, || {
                                format!("{id} answers {waiter:?} with the outcome of {:?}", took.id)
                            })?;
                            answers.extend(waiter.map(|waiter| (waiter.request, slot, outcome)));
                        }
                    }
                    Taken::Duplicate => self.coverage.rare(Rare::CommandDuplicate),
                    Taken::Gap => {
                        self.coverage.rare(Rare::CommandGap);
                        own_gap |= own;
                    }
                }
            }
            let hash = process.machine.state_hash();
            if node.drift != Drift::Parted {
                self.checks.state_hash.applied(id, slot, hash)?;
            }
            self.trace.note(now_us, [words::APPLIED, u64::from(id.0), slot, hash], || {
                format!("{id} applies slot {slot}: state {hash:016x}")
            });
        }
        process.machine.commit().expect("memory does not fail");
        process.applied.upto = Slot(process.machine.applied_slot());
        process.applied.cluster_time_ms = process.machine.cluster_time_ms();
        process.applied.tick_ms = process.machine.tick_ms();
        // More often than real nodes compare, so that the hosts' own check is at work too.
        process.applied.state = (process.applied.upto, process.machine.state_hash());
        let applied = Applied { own_gap, ..process.applied.clone() };
        for (request, slot, outcome) in answers {
            self.checks.durability.acknowledged(id, slot, &self.checks.agreement)?;
            match is_of_guest(request) {
                true => self.answered_beside(id, request, &outcome)?,
                false => self.answered(id, request, Answer::Outcome(outcome)),
            }
        }
        self.hear(id, Event::Applied(applied))
    }

    pub(crate) fn flush(&mut self, id: NodeId, life: u64) -> Check {
        let flush_us = self.plan.pace.flush_us;
        let Some(process) = self.node(id).process(life) else { return Ok(()) };
        let slot = process.machine.applied_slot();
        let (takes_us, next_us) =
            (self.rng.u64(1_000..50_000), self.rng.u64(flush_us / 2..flush_us * 2));
        self.at(takes_us, Happening::Flushed { node: id, life, slot });
        self.at(next_us, Happening::Flush { node: id, life });
        // Seldom the disk has little room. It frees itself, at the healing at the latest.
        let room = match self.rng.u8(..32) {
            0 if slot.is_multiple_of(3) && self.checks.liveness.is_none() => Room::Out,
            0 => Room::Low,
            1..4 => Room::Enough,
            _ => return Ok(()),
        };
        let room = self.squeeze.room_of(id).unwrap_or(room);
        self.hear(id, Event::Room(room))
    }

    pub(crate) fn flushed(&mut self, id: NodeId, life: u64, slot: u64) -> Check {
        let node = self.node(id);
        if node.process(life).is_none() {
            return Ok(());
        }
        let process = node.process.as_mut().expect("it lives");
        if slot <= node.state.slot {
            return Ok(());
        }
        node.state.flush(&process.unflushed, slot);
        // What went into a damaged state is not there for sure: the journal keeps it.
        let doubts = process.doubts || node.doubt == Doubt::Damaged;
        if !doubts || node.mistake == Some(Mistake::DamagedCounts) {
            process.applied.durable = Slot(slot);
        }
        let applied = process.applied.clone();
        self.hear(id, Event::Applied(applied))
    }
}
